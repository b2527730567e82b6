"""Parts of `benchmarks.gpu` that compare what the device computes with a reference: the objective, models, decoding."""

import itertools
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.drafts import corrupted
from benchmarks.gpu_setting import (
    CLIP_SECONDS,
    Finding,
    Findings,
    Setting,
    all_equal,
    name_of,
    prompts_of,
    relative_difference,
    within,
)
from benchmarks.opd_step import parse_options
from benchmarks.random_models import WORDS, noise_examples
from benchmarks.rollouts import generate
from tests.train.stream import Stream
from torch import Tensor
from torch.nn import functional as F

from arkasr.distill import fused_union_topk_kl, union_topk_kl
from arkasr.errors import first_line_of
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits, forced_states
from arkasr.train.loop import train
from arkasr.train.settings import OptimizationSettings
from arkasr.train.stages.sft import SupervisedStage

SENTENCES = ("one two three", "red green blue book", "ten", "train to paris", "london bus seven eight nine", "four")
REQUIRED_ATTENTIONS = ("sdpa", "eager")
ATTENTIONS = (*REQUIRED_ATTENTIONS, "flex_attention", "flash_attention_2")


def objective(setting: Setting) -> Findings:
    """The fused objective against the dense one in float64, on the same numbers."""
    positions, vocabulary, widths = (24, 700, (32, 48)) if setting.tiny else (192, 151_936, (896, 2048))
    for dtype, tied in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        torch.manual_seed(0)
        inputs = [  # states and head of the student, then of the teacher
            torch.randn(rows, width, device=setting.device, dtype=dtype) / scale
            for width in widths
            for rows, scale in ((positions, 1.0), (vocabulary, width**0.5))
        ]
        token_ids = torch.randint(vocabulary, (positions,), device=setting.device)
        allowed = torch.rand(vocabulary) < 0.9
        support = top_tokens(inputs[0], inputs[1], allowed, 32, torch.float32).ids
        options = {"top_k": 32, "student_allowed": allowed.to(setting.device), "student_support": support}
        embedded = token_ids if tied else None

        dense = partial(_dense_loss, **options)
        exact = _loss_and_gradients([tensor.double() for tensor in inputs], embedded, dense)
        for sparse in (False, True):
            fused = partial(_fused_loss, **options, sparse_head_gradient=sparse)
            found = _loss_and_gradients(inputs, embedded, fused)
            name = f"{name_of(dtype)}, {'tied' if tied else 'untied'}, {'sparse' if sparse else 'dense'} gradient"
            single = dtype == torch.float32
            # With a tied head, the sum of states and embeddings is rounded to bfloat16 before the comparison.
            loss_limit, gradient_limit = 1e-2 if tied and not single else 1e-5, 1e-3 if single else 5e-2
            limits = {"loss": loss_limit, "gradient of states": gradient_limit, "gradient of head": gradient_limit}
            for (what, limit), ours, theirs in zip(limits.items(), found, exact, strict=True):
                yield within(f"{name}: {what}", relative_difference(ours.to_dense(), theirs), limit)


def _dense_loss(states: Tensor, head: Tensor, teacher_states: Tensor, teacher_head: Tensor, **options: Any) -> Tensor:
    return union_topk_kl(states @ head.T, teacher_states @ teacher_head.T, **options).loss


def _fused_loss(*states_and_heads: Tensor, **options: Any) -> Tensor:
    return fused_union_topk_kl(*states_and_heads, **options).loss


def _loss_and_gradients(
    inputs: Sequence[Tensor], embedded: Tensor | None, loss_of: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients for the student's states and head; a tied head also embeds the tokens `embedded`."""
    states, head = (tensor.detach().requires_grad_() for tensor in inputs[:2])
    student_states = states if embedded is None else states + F.embedding(embedded, head)
    loss = loss_of(student_states, head, *inputs[2:])
    return loss.detach(), *torch.autograd.grad(loss, (states, head))


def batch(setting: Setting) -> Findings:
    """Clips in a batch against the same clips one by one: logits and transcripts, with every available attention."""
    for attention, build in itertools.product(ATTENTIONS, (setting.student, setting.teacher)):
        flash = attention == "flash_attention_2"
        recognizer = build(torch.bfloat16 if flash else torch.float32)
        name = f"{type(recognizer).__name__}, {attention}, {'bf16' if flash else 'float32'}"
        try:
            recognizer.model.set_attn_implementation(attention)
            together, alone = _in_batch_and_alone(recognizer, setting)
        except Exception as error:
            if attention in REQUIRED_ATTENTIONS:
                raise
            yield Finding(name, f"cannot run here: {first_line_of(error)}")
            continue
        worst = max(relative_difference(a, b) for a, b in zip(together[0], alone[0], strict=True))
        yield within(f"{name}: logits", worst, 5e-2 if flash else 1e-4)
        equal = _number_equal(together[1], alone[1])
        if flash:
            yield Finding(f"{name}: equal transcripts", f"{equal} of {len(CLIP_SECONDS)}")
        else:
            yield all_equal(f"{name}: equal transcripts", equal, len(CLIP_SECONDS))


@torch.no_grad()
def _in_batch_and_alone(recognizer: Recognizer, setting: Setting):
    """Forced logits and transcripts of all clips, computed in one batch and one by one."""
    forced = [recognizer.transcript_ids(sentence) for sentence in SENTENCES]
    prompts = _prompts(recognizer, setting)
    logits = forced_logits(recognizer, prompts, forced).split([len(transcript) for transcript in forced])
    together = logits, _transcribe(recognizer, prompts)
    alone_logits, alone_transcripts = [], []
    for clip, transcript in zip(setting.clips(CLIP_SECONDS), forced, strict=True):
        prompt = prompts_of(recognizer, [clip])
        alone_logits.append(forced_logits(recognizer, prompt, [transcript]))
        alone_transcripts += _transcribe(recognizer, prompt)
    return together, (alone_logits, alone_transcripts)


def rollouts(setting: Setting) -> Findings:
    """Rollouts with drafts, without them, and by `generate`: equal tokens; in bfloat16, score gaps if they differ."""
    generator = random.Random(0)
    for dtype in (torch.float32, torch.bfloat16):
        student = setting.student(dtype)
        prompts = student.embed_audio(_prompts(student, setting))
        plain = decode(student, prompts, max_new_tokens=24)
        words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
        drafts = [corrupted(tokens.tolist(), 0.05, words, generator) for tokens in plain.tokens]
        drafted = decode(student, prompts, max_new_tokens=24, drafts=drafts)
        rows = generate(student, _prompts(student, setting), 24).cpu()
        by_generate = [row[: len(tokens)] for row, tokens in zip(rows, plain.tokens, strict=True)]
        name = name_of(dtype)
        yield Finding(f"{name}: decoder passes without and with drafts", f"{plain.passes}, {drafted.passes}")
        for what, others in (("with drafts", drafted.tokens), ("by generate", by_generate)):
            equal = _number_equal(plain.tokens, others)
            if dtype == torch.float32:
                yield all_equal(f"{name}, {what}: equal transcripts", equal, len(others))
                continue
            yield Finding(f"{name}, {what}: equal transcripts", f"{equal} of {len(others)}")
            gaps = _gaps_at_first_difference(student, plain, others)
            if gaps:
                what += ": gap of the two best scores at the first difference"
                yield Finding(f"{name}, {what}", f"up to {max(gaps):.1e}")


@torch.no_grad()
def _gaps_at_first_difference(student: Recognizer, plain: Transcripts, others: Sequence[Tensor]) -> list[float]:
    """Best float32 score minus the second best at the first token that differs, one for each differing transcript."""
    gaps = []
    all_states = plain.states.split([len(tokens) for tokens in plain.tokens])
    for tokens, other, states in zip(plain.tokens, others, all_states, strict=True):
        pairs = enumerate(zip(tokens, other, strict=False))
        first = next((position for position, (a, b) in pairs if a != b), None)
        if first is not None:
            scores = states[first].float() @ student.head.float().T
            best = scores.masked_fill(~student.allowed_tokens.to(scores.device), -torch.inf).topk(2).values
            gaps.append((best[0] - best[1]).item())
    return gaps


def padding(setting: Setting) -> Findings:
    """Rows that attend to padding only, and a short prompt beside a long one: all values are finite."""
    for dtype in (torch.float32, torch.bfloat16):
        name = name_of(dtype)
        query = torch.randn(2, 4, 16, 32, device=setting.device, dtype=dtype, requires_grad=True)
        mask = torch.ones(2, 1, 16, 16, device=setting.device, dtype=torch.bool).tril()
        mask[0, :, :5] = False
        attended = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        attended.sum().backward()
        finite = bool(attended.isfinite().all() and query.grad.isfinite().all())
        what = f"{name}: attention and its gradient if a row is fully masked"
        yield Finding(what, "finite" if finite else "NaN", finite)
        student = setting.student(dtype)
        forced = [student.transcript_ids(sentence) for sentence in SENTENCES]
        states = forced_states(student, _prompts(student, setting), forced)
        states.float().square().mean().backward()
        gradients = [parameter.grad for parameter in student.model.parameters() if parameter.grad is not None]
        finite = all(bool(tensor.isfinite().all()) for tensor in (states, *gradients))
        yield Finding(f"{name}: states and gradients of a padded batch", "finite" if finite else "NaN", finite)


def half(setting: Setting) -> Findings:
    """Float16: the encoder's clamp, and training steps with GradScaler."""
    exact, student = setting.student(), setting.student(torch.float16)
    prompts = _prompts(exact, setting)
    with torch.no_grad():
        expected = exact.embed_audio(prompts).audio["embeddings"]
        found = student.embed_audio(prompts).audio["embeddings"]
        yield within("float16: audio embeddings against float32", relative_difference(found, expected), 2e-2)
        for layer in student.audio_modules[0].whisper.layers:
            layer.fc2.weight.mul_(1e4)
        clamped = student.embed_audio(prompts).audio["embeddings"]
    finite = bool(clamped.isfinite().all())
    yield Finding("float16: embeddings if layers overflow", "finite" if finite else "not finite", finite)
    if setting.device == "cpu":
        return
    losses = _losses_in_float16(exact)
    finite_losses = [loss for loss in losses if math.isfinite(loss)]
    what = f"fp16 mixed precision: loss of {len(finite_losses)} finite steps of {len(losses)}"
    shown = f"{finite_losses[0]:.3f} to {finite_losses[-1]:.3f}" if finite_losses else "none"
    yield Finding(what, shown, finite_losses[-1:] < finite_losses[:1])


def _losses_in_float16(student: Recognizer) -> list[float]:
    """Losses of 20 SFT steps in mixed precision; NaN for a skipped step."""
    settings = OptimizationSettings(steps=20, batch_seconds=1e9, learning_rate=1e-5, mixed_precision="fp16")
    examples = noise_examples([student], parse_options(["--utterances", "6", "--seconds", "6", "--tokens", "12"]))
    losses = []

    def on_step(_step: int, values: dict[str, float]) -> None:
        losses.append(values.get("loss", math.nan))

    with tempfile.TemporaryDirectory() as folder:
        stage = SupervisedStage(student, None)
        train(stage, Stream([examples]), settings, Path(folder), seed=0, on_step=on_step)
    return losses


def compiled(setting: Setting) -> Findings:
    """`torch.compile` of encoder and decoder: results on batches of several sizes, and the number of graphs."""
    backend = "aot_eager" if setting.tiny else "inductor"
    student = setting.student(setting.fast_dtype)
    prompts = _prompts(student, setting)
    counters = torch._dynamo.utils.counters
    with torch.no_grad():
        expected = student.embed_audio(prompts)
        transcripts = decode(student, expected, max_new_tokens=12)
        torch._dynamo.reset()
        counters.clear()
        for network in (student.audio_modules[0], student.decoder):
            network.compile(dynamic=True, backend=backend)
        started = time.perf_counter()
        found = student.embed_audio(prompts)
        limit = 1e-4 if setting.tiny else 5e-2
        yield within("encoder", relative_difference(found.audio["embeddings"], expected.audio["embeddings"]), limit)
        again = decode(student, found, max_new_tokens=12)
        equal = _number_equal(transcripts.tokens, again.tokens)
        shown = f"{equal} of {len(CLIP_SECONDS)}"
        yield Finding("equal transcripts of the compiled decoder", shown, equal > 0 or not setting.tiny)
        yield Finding("first batch, with compilation", f"{time.perf_counter() - started:.0f} s")
        first = counters["stats"]["unique_graphs"]
        for clips in (2, 3, 5):
            decode(student, student.embed_audio(_prompts(student, setting, clips)), max_new_tokens=12)
        later = counters["stats"]["unique_graphs"] - first
        yield Finding("graphs of the first batch, and of three more batches of other sizes", f"{first}, {later}")


def _prompts(recognizer: Recognizer, setting: Setting, clips: int = len(CLIP_SECONDS)) -> Prompts:
    return prompts_of(recognizer, setting.clips(CLIP_SECONDS)[:clips])


def _transcribe(recognizer: Recognizer, prompts: Prompts) -> list[Tensor]:
    return decode(recognizer, prompts, max_new_tokens=16).tokens


def _number_equal(transcripts: Sequence[Tensor], others: Sequence[Tensor]) -> int:
    return sum(torch.equal(a, b) for a, b in zip(transcripts, others, strict=True))
