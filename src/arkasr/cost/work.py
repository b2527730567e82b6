"""The work in each phase of a micro-batch: matrix operations, memory traffic and layer calls.

In: the sizes of student and teacher, and a micro-batch. Out: `Work` by phase, with the phase names of `metrics.jsonl`.
The speed of devices is left to `timing`.
"""

from dataclasses import dataclass, replace

from arkasr.cost.sizes import FLOAT_BYTES, Size, number_bytes

# Memory traffic for each byte that layers keep for the backward pass.
# Forward: layers write 1.5 times the bytes that they keep, and read them once.
FORWARD_TRAFFIC = 3.0
# Backward: the kept bytes are read, and their gradients are written and read.
BACKWARD_TRAFFIC = 4.0
# Bytes of memory traffic for each logit: it is written, exponentiated and summed.
TOP_TRAFFIC = 24.0
CROSS_ENTROPY_TRAFFIC = 24.0
CROSS_ENTROPY_GRADIENT_TRAFFIC = 20.0
# A weight that is cast from float32 to 2 bytes is read in 4 bytes and written in 2.
CAST_TRAFFIC = 6.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch of equal utterances, padding included.

    Attributes:
        utterances: number of utterances.
        seconds: audio of each utterance.
        tokens: transcript tokens of each utterance, the stop token included.
    """

    utterances: float
    seconds: float
    tokens: float

    @property
    def audio(self) -> float:
        """Seconds of audio in the batch."""
        return self.utterances * self.seconds

    @property
    def transcript_tokens(self) -> float:
        """Transcript tokens in the batch."""
        return self.utterances * self.tokens


@dataclass(frozen=True)
class Decoding:
    """How a rollout is decoded.

    Attributes:
        passes: decoder passes of a batch.
        drafted: whether the first pass reads a draft of each transcript.
    """

    passes: float
    drafted: bool


@dataclass(frozen=True)
class Work:
    """The work in one phase.

    Attributes:
        operations: multiplications and additions in matrix products.
        weights: bytes of weights that are read, for any number of positions.
        traffic: bytes that are read and written outside matrix products.
        layers: calls of a Transformer layer.
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


def encoder_pass(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """One pass of the encoder, with its convolutions and projector."""
    seconds = size.padded_seconds or batch.seconds
    audio = batch.utterances * seconds
    frames = encoder_positions(size, batch)
    attended = min(seconds, size.window_seconds or seconds) * size.frames_per_second
    return Work(
        operations=audio * size.front_operations + size.encoder.operations(frames, attended),
        weights=number_bytes(mixed) * size.encoder.weights,
        traffic=FORWARD_TRAFFIC * size.encoder.kept_bytes(frames, mixed=mixed),
        layers=size.encoder.layers,
    )


def decoder_pass(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """One pass of the decoder over audio, prompt and transcript, without the output head."""
    length = decoder_positions(size, batch)
    positions = batch.utterances * length
    return Work(
        operations=size.decoder.operations(positions, length + size.cross_positions),
        weights=number_bytes(mixed) * size.decoder.weights,
        traffic=FORWARD_TRAFFIC * size.decoder.kept_bytes(positions, mixed=mixed),
        layers=size.decoder.layers,
    )


def top_token_search(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """The top-k tokens at every transcript position."""
    return _head(size, batch.transcript_tokens, TOP_TRAFFIC, mixed=mixed)


def cross_entropy(size: Size, batch: Batch, *, mixed: bool) -> Work:
    """Logits over the vocabulary and the cross-entropy at every transcript position."""
    return _head(size, batch.transcript_tokens, CROSS_ENTROPY_TRAFFIC, mixed=mixed)


def rollout(size: Size, batch: Batch, decoding: Decoding, *, mixed: bool) -> Work:
    """Decoding of the transcripts.

    The first pass reads audio and prompt, and the drafts if there are any. After a draft has been rejected, about as
    many tokens are read again as the draft has.
    """
    length = decoder_positions(size, batch)
    first = decoder_pass(size, batch if decoding.drafted else replace(batch, tokens=0.0), mixed=mixed)
    reread = batch.tokens if decoding.drafted and decoding.passes > 1 else 0.0
    later_positions = batch.utterances * (reread or batch.tokens)
    logits = batch.utterances * (batch.tokens + reread) * size.vocabulary
    cache_positions = batch.utterances * (length + size.cross_positions)
    cache_traffic = size.cache_bytes(cache_positions, mixed=mixed) * (decoding.passes - 1)
    later_traffic = FORWARD_TRAFFIC * size.decoder.kept_bytes(later_positions, mixed=mixed)
    logits_traffic = 2 * number_bytes(mixed) * logits
    return Work(
        operations=first.operations
        + size.decoder.operations(later_positions, length + size.cross_positions)
        + 2 * logits * size.width,
        weights=number_bytes(mixed) * (size.decoder.weights + size.head_weights) * decoding.passes,
        traffic=first.traffic + later_traffic + cache_traffic + logits_traffic,
        layers=size.decoder.layers * decoding.passes,
    )


def sft_phases(student: Size, batch: Batch, *, mixed: bool, checkpointing: bool) -> dict[str, Work]:
    """The phases of a micro-batch of SFT."""
    encoder, decoder = encoder_pass(student, batch, mixed=mixed), decoder_pass(student, batch, mixed=mixed)
    head = cross_entropy(student, batch, mixed=mixed)
    layers_backward = backward(student, encoder, decoder, checkpointing=checkpointing)
    head_backward = _cross_entropy_backward(student, batch, head)
    return {"encode": encoder, "student": decoder + head, "backward": layers_backward + head_backward}


def opd_phases(
    student: Size,
    teacher: Size | None,
    batch: Batch,
    decoding: Decoding,
    *,
    mixed: bool,
    checkpointing: bool,
    labels: bool = False,
) -> dict[str, Work]:
    """The phases of a micro-batch of OPD, with `labels` beside the rollouts.

    A teacher on other devices is None and has no phase. The logits on the union support are not counted: they take 1
    or 2% of the operations of the output head.
    """
    encoder, decoder = encoder_pass(student, batch, mixed=mixed), decoder_pass(student, batch, mixed=mixed)
    phases = {
        "encode": encoder,
        "rollout": rollout(student, batch, decoding, mixed=mixed),
        "student": decoder + top_token_search(student, batch, mixed=mixed),
        "backward": backward(student, encoder, decoder, checkpointing=checkpointing),
    }
    if labels:
        head = cross_entropy(student, batch, mixed=mixed)
        label_backward = backward(student, Work(), decoder, checkpointing=checkpointing)
        phases["student"] += decoder + head
        phases["backward"] += label_backward + _cross_entropy_backward(student, batch, head)
    if teacher is not None:
        forced = encoder_pass(teacher, batch, mixed=mixed) + decoder_pass(teacher, batch, mixed=mixed)
        phases["teacher"] = forced + top_token_search(teacher, batch, mixed=mixed) + cast_weights(teacher, mixed=mixed)
    return phases


def ctc_phases(student: Size, batch: Batch, *, mixed: bool, checkpointing: bool) -> dict[str, Work]:
    """The phases of a micro-batch of CTC."""
    encoder = encoder_pass(student, batch, mixed=mixed)
    head = cross_entropy(student, ctc_batch(student, batch), mixed=mixed)
    return {
        "encode": encoder,
        "student": head,
        "backward": backward(student, encoder, Work(), checkpointing=checkpointing)
        + head * _gradients(student, "embeddings"),
    }


def ctc_batch(student: Size, batch: Batch) -> Batch:
    """The batch with one token for every audio token: CTC computes logits for each of them."""
    return replace(batch, tokens=batch.seconds * student.audio_tokens_per_second)


def label_phases(teacher: Size, batch: Batch, passes: float) -> dict[str, Work]:
    """The phases of a batch that a teacher labels in float32 and without drafts."""
    return {
        "encode": encoder_pass(teacher, batch, mixed=False),
        "rollout": rollout(teacher, batch, Decoding(passes, drafted=False), mixed=False),
    }


def backward(student: Size, encoder: Work, decoder: Work, *, checkpointing: bool) -> Work:
    """Gradients of inputs and weights, given the forward passes. Activation checkpointing repeats those first.

    A frozen encoder has no backward pass; that of its adapter is then not counted. A frozen decoder has gradients of
    its inputs only.
    """
    if "encoder" in student.frozen:
        encoder = Work()
    forward = encoder + decoder
    weight_gradients = 2 * float(FLOAT_BYTES) * student.trained_parameters
    gradients = Work(
        2 * encoder.operations + _gradients(student, "decoder") * decoder.operations,
        2 * forward.weights,
        forward.traffic * BACKWARD_TRAFFIC / FORWARD_TRAFFIC + weight_gradients,
        2 * forward.layers,
    )
    return gradients + forward if checkpointing else gradients


def _cross_entropy_backward(student: Size, batch: Batch, head: Work) -> Work:
    logits = batch.transcript_tokens * student.vocabulary
    operations = _gradients(student, "embeddings") * head.operations
    return Work(operations, head.weights, CROSS_ENTROPY_GRADIENT_TRAFFIC * logits)


def _gradients(student: Size, part: str) -> int:
    """Gradients that the backward pass of a part computes, each with the operations of the forward pass."""
    return 1 if part in student.frozen else 2


def cast_weights(size: Size, *, mixed: bool) -> Work:
    """The cast of a frozen model from float32: autocast does not keep the 2-byte weights for the next use."""
    return Work(traffic=CAST_TRAFFIC * size.parameters if mixed else 0.0)


def encoder_positions(size: Size, batch: Batch) -> float:
    """Encoder positions of all utterances."""
    return batch.utterances * (size.padded_seconds or batch.seconds) * size.frames_per_second


def decoder_positions(size: Size, batch: Batch) -> float:
    """Decoder positions of one utterance: audio tokens, prompt and transcript."""
    return batch.seconds * size.audio_tokens_per_second + size.prompt_tokens + batch.tokens


def _head(size: Size, positions: float, traffic: float, *, mixed: bool) -> Work:
    """The output head at this many positions, with `traffic` bytes for each logit."""
    logits = positions * size.vocabulary
    return Work(2 * logits * size.width, number_bytes(mixed) * size.head_weights, traffic * logits)
