"""What the phases of a micro-batch have to do: operations of matrix products, bytes, layers to run.

In: sizes of student and teacher, and a batch. Out: `Work` by phase, named as the phases of `metrics.jsonl`. Knows
nothing of devices and time.
"""

from dataclasses import dataclass

from arkasr.cost.sizes import Size

# What layers keep for the backward pass is written and read again by the next call, and half as much is not kept.
FORWARD_TRAFFIC = 3.0
# The backward pass reads what was kept, and writes and reads a gradient for it.
BACKWARD_TRAFFIC = 4.0
# Bytes a score of the whole vocabulary is touched with: written, exponentiated, summed up; behind it a gradient.
TOP_TRAFFIC = 24.0
CROSS_ENTROPY_TRAFFIC = 24.0
CROSS_ENTROPY_GRADIENT_TRAFFIC = 20.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch of equal utterances, padding included.

    Attributes:
        utterances: their number.
        seconds: of each.
        tokens: of each transcript, the stop token included.
    """

    utterances: float
    seconds: float
    tokens: float

    @property
    def audio(self) -> float:
        """Seconds of audio in all."""
        return self.utterances * self.seconds


@dataclass(frozen=True)
class Work:
    """What one phase has to do.

    Attributes:
        operations: multiplications and additions in matrix products.
        weights: bytes of weights that have to be read, however few positions there are.
        traffic: bytes that everything else reads and writes.
        layers: layers that are run, whatever they read.
    """

    operations: float = 0.0
    weights: float = 0.0
    traffic: float = 0.0
    layers: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.operations + other.operations,
            self.weights + other.weights,
            self.traffic + other.traffic,
            self.layers + other.layers,
        )

    def __mul__(self, factor: float) -> "Work":
        return Work(*(factor * value for value in (self.operations, self.weights, self.traffic, self.layers)))


def encode(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """The audio of a batch becomes embeddings."""
    frames = batch.audio * size.frames_per_second
    seen = min(batch.seconds, size.window_seconds or batch.seconds) * size.frames_per_second
    return Work(
        operations=batch.audio * size.front + size.encoder.operations(frames, seen),
        weights=_bytes(size.encoder.matrices * size.encoder.layers, mixed),
        traffic=FORWARD_TRAFFIC * size.encoder.kept(frames, mixed=mixed),
        layers=size.encoder.layers,
    )


def read(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """The decoder reads audio, prompt and transcript once."""
    length = positions_of(size, batch)
    positions = batch.utterances * length
    return Work(
        operations=size.decoder.operations(positions, length),
        weights=_bytes(size.decoder.matrices * size.decoder.layers, mixed),
        traffic=FORWARD_TRAFFIC * size.decoder.kept(positions, mixed=mixed),
        layers=size.decoder.layers,
    )


def top(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """The best tokens of every position of the transcripts, in tiles."""
    scores = batch.utterances * batch.tokens * size.vocabulary
    return Work(2 * scores * size.width, _bytes(size.vocabulary * size.width, mixed), TOP_TRAFFIC * scores)


def cross_entropy(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """The scores of the whole vocabulary, and the loss."""
    scores = batch.utterances * batch.tokens * size.vocabulary
    return Work(2 * scores * size.width, _bytes(size.vocabulary * size.width, mixed), CROSS_ENTROPY_TRAFFIC * scores)


def roll_out(size: Size, batch: Batch, passes: float, *, drafted: bool, mixed: bool) -> Work:
    """A transcript is written in so many passes; behind the first one a draft is read about once more."""
    size_of_number = 2 if mixed else 4
    length = positions_of(size, batch)
    again = batch.tokens if drafted and passes > 1 else 0.0
    read_later = batch.utterances * (again or batch.tokens)
    reading = read(size, batch, mixed=mixed) if drafted else read(size, _without_text(batch), mixed=mixed)
    asked = batch.utterances * (batch.tokens + again)
    cache = 2 * size.decoder.layers * size.decoder.keys * size_of_number * batch.utterances * length
    weights = size.decoder.matrices * size.decoder.layers + size.vocabulary * size.width
    later = Work(
        operations=size.decoder.operations(read_later, length),
        traffic=FORWARD_TRAFFIC * size.decoder.kept(read_later, mixed=mixed) + cache * (passes - 1),
    )
    head = Work(
        operations=2 * asked * size.vocabulary * size.width,
        traffic=2 * size_of_number * asked * size.vocabulary,
    )
    launched = Work(weights=_bytes(weights, mixed) * passes, layers=size.decoder.layers * passes)
    return Work(reading.operations, 0.0, reading.traffic, 0.0) + later + head + launched


def supervised(student: Size, batch: Batch, *, mixed: bool, checkpointing: bool) -> dict[str, Work]:
    """The phases of a micro-batch of SFT."""
    hear, reading = encode(student, batch, mixed=mixed), read(student, batch, mixed=mixed)
    head = cross_entropy(student, batch, mixed=mixed)
    scores = batch.utterances * batch.tokens * student.vocabulary
    back = backward(student, hear + reading, checkpointing=checkpointing) + Work(
        2 * head.operations, head.weights, CROSS_ENTROPY_GRADIENT_TRAFFIC * scores
    )
    return {"encode": hear, "student": reading + head, "backward": back}


def distilled(
    student: Size, teacher: Size | None, batch: Batch, passes: float, *, drafted: bool, mixed: bool, checkpointing: bool
) -> dict[str, Work]:
    """The phases of a micro-batch of OPD; the support's own scores are 1 or 2% of a head's and left out.

    Where other devices carry the teacher it is None, and has no phase.
    """
    hear, reading = encode(student, batch, mixed=mixed), read(student, batch, mixed=mixed)
    phases = {
        "encode": hear,
        "rollout": roll_out(student, batch, passes, drafted=drafted, mixed=mixed),
        "student": reading + top(student, batch, mixed=mixed),
        "backward": backward(student, hear + reading, checkpointing=checkpointing),
    }
    if teacher is not None:
        forced = encode(teacher, batch, mixed=mixed) + read(teacher, batch, mixed=mixed)
        phases["teacher"] = forced + top(teacher, batch, mixed=mixed) + cast(teacher, mixed=mixed)
    return phases


def warmed_up(student: Size, batch: Batch, *, mixed: bool, checkpointing: bool) -> dict[str, Work]:
    """The phases of a micro-batch of CTC: every audio token is scored against the vocabulary."""
    hear = encode(student, batch, mixed=mixed)
    per_audio_token = Batch(batch.utterances, batch.seconds, batch.seconds * student.audio_tokens_per_second)
    head = cross_entropy(student, per_audio_token, mixed=mixed)
    back = backward(student, hear, checkpointing=checkpointing) + head * 2
    return {"encode": hear, "student": head, "backward": back}


def labelled(teacher: Size, batch: Batch, passes: float) -> dict[str, Work]:
    """The phases of a batch that a teacher writes labels for, in float32 and without drafts."""
    return {
        "encode": encode(teacher, batch, mixed=False),
        "rollout": roll_out(teacher, batch, passes, drafted=False, mixed=False),
    }


def backward(student: Size, forward: Work, *, checkpointing: bool) -> Work:
    """Gradients of inputs and weights; with activation checkpointing the forward pass comes once more before."""
    gradients = 2 * 4.0 * student.parameters
    back = Work(
        2 * forward.operations,
        2 * forward.weights,
        forward.traffic * BACKWARD_TRAFFIC / FORWARD_TRAFFIC + gradients,
        2 * forward.layers,
    )
    return back + forward if checkpointing else back


def cast(size: Size, *, mixed: bool) -> Work:
    """Weights kept in float32 that are made half as wide each time they are used, as those of a fixed model are."""
    return Work(traffic=6.0 * size.parameters if mixed else 0.0)


def positions_of(size: Size, batch: Batch) -> float:
    """Positions of the decoder for one utterance."""
    return batch.seconds * size.audio_tokens_per_second + size.prompt_tokens + batch.tokens


def _without_text(batch: Batch) -> Batch:
    return Batch(batch.utterances, batch.seconds, 0.0)


def _bytes(weights: float, mixed: bool) -> float:
    return weights * (2 if mixed else 4)
