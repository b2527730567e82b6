from arkasr.data.batches import DataPosition


class Stream:
    """Batches by position, as the training loop asks for them."""

    def __init__(self, batches):
        self.batches = batches
        self.position = DataPosition()
        self.fingerprint = "noise"
        self.dataset = [example for batch in batches for example in batch]

    def __iter__(self):
        while True:
            place = self.position.batch
            self.position = DataPosition(batch=place + 1)
            yield self.batches[place % len(self.batches)]

    def state(self):
        return {"batch": self.position.batch}

    def restore(self, state):
        self.position = DataPosition(**state)

    def take_unreadable(self):
        return []


class Heard:
    """A dataset of examples that are there already."""

    def __init__(self, examples):
        self.examples = examples
        self.utterances = [example.utterance for example in examples]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]
