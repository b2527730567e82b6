"""Stand-ins for a stage's data."""

from arkasr.data.batches import DataPosition


class Stream:
    """The given batches in turn, with the interface of `BatchStream`."""

    def __init__(self, batches):
        self.batches = batches
        self.position = DataPosition()
        self.fingerprint = "noise"
        self.dataset = [example for batch in batches for example in batch]

    def __iter__(self):
        while True:
            index = self.position.batch
            self.position = DataPosition(batch=index + 1)
            yield self.batches[index % len(self.batches)]

    def state(self):
        return {"batch": self.position.batch}

    def restore(self, state):
        self.position = DataPosition(**state)

    def take_unreadable(self):
        return []


class ExampleList:
    """The given examples, with the interface of `ExampleDataset`."""

    def __init__(self, examples):
        self.examples = examples
        self.utterances = [example.utterance for example in examples]

    def __len__(self):
        return len(self.examples)

    def example(self, index, _epoch):
        return self.examples[index]
