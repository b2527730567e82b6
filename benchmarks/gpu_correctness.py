"""Parts of `benchmarks.gpu` that ask whether an accelerator computes what the CPU computes."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from benchmarks.drafts import corrupted
from benchmarks.gpu_setting import Finding, Findings, Setting, all_equal, relative_difference, within
from benchmarks.opd_step import WORDS, noise_examples, options_of
from benchmarks.rollouts import generated
from tests.golden_run import losses_of_smoke
from tests.test_golden_losses import GOLDEN
from tests.test_golden_losses import TOLERANCE as GOLDEN_TOLERANCE
from tests.train.stream import Stream
from torch.nn import functional as F

from arkasr.data.manifests.manifest import read_rows
from arkasr.distill import fused_union_topk_kl, union_topk_kl
from arkasr.errors import first_line_of
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.recognizers.scoring import forced_logits, forced_states
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage

SECONDS = [3.1, 12.0, 0.7, 8.4, 15.9, 5.5]
SENTENCES = ["one two three", "red green blue book", "ten", "train to paris", "london bus seven eight nine", "four"]
NEEDED = ("sdpa", "eager")
ATTENTIONS = (*NEEDED, "flex_attention", "flash_attention_2")
ROOT = Path(__file__).resolve().parents[1]


def objective(setting: Setting) -> Findings:
    """The fused objective against the dense one in float64, on the same numbers."""
    positions, vocabulary, widths = (24, 700, (32, 48)) if setting.tiny else (192, 151_936, (896, 2048))
    for dtype, tied in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        torch.manual_seed(0)
        made = [
            torch.randn(rows, width, device=setting.device, dtype=dtype) / scale
            for width in widths
            for rows, scale in ((positions, 1.0), (vocabulary, width**0.5))
        ]
        read = torch.randint(vocabulary, (positions,), device=setting.device)
        allowed = torch.rand(vocabulary) < 0.9
        best = top_tokens(made[0], made[1], allowed, 32, torch.float32).ids
        single = dtype == torch.float32
        options = {"top_k": 32, "student_allowed": allowed.to(setting.device), "student_support": best}

        def gradients(tensors, loss_of, tied=tied, read=read):
            states, head = (tensor.detach().requires_grad_() for tensor in tensors[:2])
            said = states + F.embedding(read, head) if tied else states
            loss = loss_of(said, head, *tensors[2:])
            return loss.detach(), *torch.autograd.grad(loss, (states, head))

        exact = gradients(
            [tensor.double() for tensor in made],
            lambda a, b, c, d, options=options: union_topk_kl(a @ b.T, c @ d.T, **options).loss,
        )
        for sparse in (False, True):
            found = gradients(
                made,
                lambda *tensors, options=options, sparse=sparse: (
                    fused_union_topk_kl(*tensors, **options, sparse_head_gradient=sparse).loss
                ),
            )
            name = f"{str(dtype)[6:]}, {'tied' if tied else 'untied'}, {'sparse' if sparse else 'dense'} gradient"
            for what, ours, theirs in zip(
                ("loss", "gradient of states", "gradient of head"), found, exact, strict=True
            ):
                # A tied bf16 sum of states and embeddings is rounded before it is compared.
                of_loss = 1e-2 if tied and not single else 1e-5
                limit = of_loss if what == "loss" else (1e-3 if single else 5e-2)
                yield within(f"{name}: {what}", relative_difference(ours.to_dense(), theirs), limit)


def batch(setting: Setting) -> Findings:
    """A clip among others against the same clip alone: logits and transcripts, by every attention there is."""
    for attention, build in itertools.product(ATTENTIONS, (setting.student, setting.teacher)):
        flash = attention == "flash_attention_2"
        recognizer = build(torch.bfloat16 if flash else torch.float32)
        name = f"{type(recognizer).__name__}, {attention}, {'bf16' if flash else 'float32'}"
        try:
            recognizer.model.set_attn_implementation(attention)
            together, apart = _in_batch_and_alone(recognizer, setting)
        except Exception as error:
            if attention in NEEDED:
                raise
            yield Finding(name, f"cannot run here: {first_line_of(error)}")
            continue
        worst = max(relative_difference(a, b) for a, b in zip(together[0], apart[0], strict=True))
        yield within(f"{name}: logits", worst, 5e-2 if flash else 1e-4)
        same = sum(torch.equal(a, b) for a, b in zip(together[1], apart[1], strict=True))
        if flash:
            yield Finding(f"{name}: same transcripts", f"{same} of {len(SECONDS)}")
        else:
            yield all_equal(f"{name}: same transcripts", same, len(SECONDS))


@torch.no_grad()
def _in_batch_and_alone(recognizer: Recognizer, setting: Setting):
    prompts = _prompts(recognizer, setting)
    forced = [recognizer.transcript_ids(sentence) for sentence in SENTENCES]
    lengths = [len(transcript) for transcript in forced]
    together = forced_logits(recognizer, prompts, forced).split(lengths), _written(recognizer, prompts)
    logits, transcripts = [], []
    for clip, transcript in zip(_clips(setting), forced, strict=True):
        alone = recognizer.prompts([recognizer.features(clip)], ["English"]).to(recognizer.device)
        logits.append(forced_logits(recognizer, alone, [transcript]))
        transcripts += _written(recognizer, alone)
    return together, (logits, transcripts)


def rollouts(setting: Setting) -> Findings:
    """Along drafts, without them, and by `generate`: the same tokens; under bf16, how near those were that part."""
    draw = random.Random(0)
    for dtype in (torch.float32, torch.bfloat16):
        student = setting.student(dtype)
        prompts = student.embed_audio(_prompts(student, setting))
        plain = decode(student, prompts, max_new_tokens=24)
        words = student.transcript_ids(" ".join(WORDS))[:-1].tolist()
        drafts = [corrupted(tokens.tolist(), 0.05, words, draw) for tokens in plain.tokens]
        drafted = decode(student, prompts, max_new_tokens=24, drafts=drafts)
        rows = generated(student, _prompts(student, setting), 24).cpu()
        by_generate = [row[: len(tokens)] for row, tokens in zip(rows, plain.tokens, strict=True)]
        name = str(dtype)[6:]
        yield Finding(f"{name}: decoder passes without and along drafts", f"{plain.passes}, {drafted.passes}")
        for what, others in (("along drafts", drafted.tokens), ("by generate", by_generate)):
            same = sum(torch.equal(a, b) for a, b in zip(plain.tokens, others, strict=True))
            if dtype == torch.float32:
                yield all_equal(f"{name}, {what}: same transcripts", same, len(others))
                continue
            yield Finding(f"{name}, {what}: same transcripts", f"{same} of {len(others)}")
            gaps = _gaps_where_they_part(student, plain, others)
            if gaps:
                yield Finding(f"{name}, {what}: gap of the two best scores where they part", f"up to {max(gaps):.1e}")


@torch.no_grad()
def _gaps_where_they_part(student: Recognizer, plain, others) -> list[float]:
    """Float32 score of the best token less that of the second, at the first token that differs, by utterance."""
    gaps = []
    states = plain.states.split([len(tokens) for tokens in plain.tokens])
    for tokens, other, held in zip(plain.tokens, others, states, strict=True):
        parted = next(
            (place for place, pair in enumerate(zip(tokens, other, strict=False)) if pair[0] != pair[1]), None
        )
        if parted is not None:
            scores = held[parted].float() @ student.head.float().T
            best = scores.masked_fill(~student.allowed_tokens.to(scores.device), -torch.inf).topk(2).values
            gaps.append((best[0] - best[1]).item())
    return gaps


def padding(setting: Setting) -> Findings:
    """Rows of nothing but padding: attention alone, and the decoder on a short prompt beside a long one."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        query = torch.randn(2, 4, 16, 32, device=setting.device, dtype=dtype, requires_grad=True)
        mask = torch.ones(2, 1, 16, 16, device=setting.device, dtype=torch.bool).tril()
        mask[0, :, :5] = False
        attended = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        attended.sum().backward()
        finite = bool(attended.isfinite().all() and query.grad.isfinite().all())
        yield Finding(
            f"{name}: attention and its gradient where a row sees nothing", "finite" if finite else "NaN", finite
        )
        student = setting.student(dtype)
        prompts = _prompts(student, setting)
        states = forced_states(student, prompts, [student.transcript_ids(sentence) for sentence in SENTENCES])
        states.float().square().mean().backward()
        grads = [parameter.grad for parameter in student.model.parameters() if parameter.grad is not None]
        finite = all(bool(tensor.isfinite().all()) for tensor in (states, *grads))
        yield Finding(f"{name}: states and gradients of a padded batch", "finite" if finite else "NaN", finite)


def half(setting: Setting) -> Findings:
    """Float16: the encoder's clamp, and steps with a gradient scaler."""
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
    yield Finding("float16: embeddings where layers overflow", "finite" if finite else "not finite", finite)
    if setting.device == "cpu":
        return
    settings = OptimizationSettings(steps=20, batch_seconds=1e9, learning_rate=1e-5, mixed_precision="fp16")
    losses = _train(SupervisedStage(exact, None), _examples(setting, exact), settings)
    finite = [loss for loss in losses if math.isfinite(loss)]
    what = f"fp16 mixed precision: loss of {len(finite)} finite steps of {len(losses)}"
    yield Finding(what, f"{finite[0]:.3f} to {finite[-1]:.3f}" if finite else "none", finite[-1:] < finite[:1])


def resume(setting: Setting) -> Findings:
    """A training run killed in a step and resumed, against one that was not."""
    steps = 40
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "arkasr", "train", "ctc", "recipes/smoke.yaml", "--stage", "base-ctc"),
            *("--set", f"stages.base-ctc.optimization.steps={steps}"),
            *("--set", "stages.base-ctc.optimization.checkpoint_every=5"),
        ]
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        _finish([*command, "--output", str(whole)], setting)
        process = subprocess.Popen(
            [*command, "--output", str(killed)], cwd=ROOT, env=_environment(setting), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (killed / "stages/base-ctc/checkpoints/step-10").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        met = len(read_rows(killed / "stages/base-ctc/metrics.jsonl"))
        yield Finding("killed in the middle", f"behind step {met} of {steps}", met < steps)
        _finish([*command, "--output", str(killed), "--resume"], setting)
        losses = [
            torch.tensor([row["loss"] for row in read_rows(place / "stages/base-ctc/metrics.jsonl")])
            for place in (whole, killed)
        ]
        yield all_equal("steps in the log", len(losses[1]), steps)
        limit = 1e-12 if setting.device == "cpu" else 1e-3
        yield within("losses against the run that was not killed", relative_difference(*losses), limit)


def smoke(setting: Setting) -> Findings:
    """Losses of the steps of recipes/smoke.yaml in float64, against those of CPUs."""
    golden = json.loads(GOLDEN.read_text())
    with tempfile.TemporaryDirectory() as folder:
        losses = losses_of_smoke(Path(folder) / "run", setting.device)
    for stage, expected in golden.items():
        worst = max(abs(a - b) / b for a, b in zip(losses[stage], expected, strict=True))
        yield within(f"{stage}: {len(expected)} steps", worst, GOLDEN_TOLERANCE)


def compiled(setting: Setting) -> Findings:
    """`torch.compile` of encoder and decoder over changing lengths: the same numbers, how many graphs."""
    dtype = torch.float32 if setting.tiny else torch.bfloat16
    backend = "aot_eager" if setting.tiny else "inductor"
    student = setting.student(dtype)
    prompts = _prompts(student, setting)
    with torch.no_grad():
        expected = student.embed_audio(prompts)
        written = decode(student, expected, max_new_tokens=12)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        for network in (student.audio_modules[0], student.decoder):
            network.compile(dynamic=True, backend=backend)
        started = time.perf_counter()
        found = student.embed_audio(prompts)
        limit = 1e-4 if setting.tiny else 5e-2
        yield within("encoder", relative_difference(found.audio["embeddings"], expected.audio["embeddings"]), limit)
        again = decode(student, found, max_new_tokens=12)
        same = sum(torch.equal(a, b) for a, b in zip(written.tokens, again.tokens, strict=True))
        yield Finding(
            "same transcripts by the compiled decoder", f"{same} of {len(SECONDS)}", same > 0 or not setting.tiny
        )
        yield Finding("first batch, compiling included", f"{time.perf_counter() - started:.0f} s")
        first = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for count in (2, 3, 5):
            some = student.embed_audio(_prompts(student, setting, count))
            decode(student, some, max_new_tokens=12)
        later = torch._dynamo.utils.counters["stats"]["unique_graphs"] - first
        yield Finding("graphs of the first batch, and of three more of other sizes", f"{first}, {later}")


def synchronisations(setting: Setting) -> Findings:
    """How often the host waits for the device in a rollout and in a step, as PyTorch counts it."""
    if setting.device == "cpu":
        yield Finding("waits for the device", "counted on a GPU only; tests count them on a simulated one")
        return
    student, teacher = setting.student(torch.bfloat16), setting.teacher(torch.bfloat16)
    examples = _examples(setting, student, teacher)
    prompts = student.embed_audio(_prompts(student, setting))
    decode(student, prompts, max_new_tokens=16)
    waits, written = _waits(lambda: decode(student, prompts, max_new_tokens=16))
    yield Finding(f"rollout of {written.passes} passes", f"{waits} waits", waits <= written.passes + 1)
    stages = {
        "sft": SupervisedStage(student, None),
        "opd": DistillationStage(student, teacher, ObjectiveSettings(max_new_tokens=16)),
    }
    for name, stage in stages.items():
        stage(examples, seed=0).total.backward()
        waits, loss = _waits(lambda stage=stage: stage(examples, seed=0))
        passes = (
            f", {loss.metrics.values()['rollout/passes']:.0f} of them for passes of the rollout"
            if name == "opd"
            else ""
        )
        yield Finding(f"{name}: loss of a micro-batch", f"{waits} waits{passes}")
        backward, _ = _waits(loss.total.backward)
        yield Finding(f"{name}: its gradient", f"{backward} waits")


def _waits(work):
    """How often PyTorch warns that the host waits for the GPU, and what `work` gives."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught), result


def _clips(setting: Setting):
    return setting.clips(SECONDS)


def _prompts(recognizer: Recognizer, setting: Setting, count: int = len(SECONDS)) -> Prompts:
    features = [recognizer.features(clip) for clip in _clips(setting)[:count]]
    return recognizer.prompts(features, ["English"] * count).to(recognizer.device)


def _written(recognizer: Recognizer, prompts: Prompts) -> list[torch.Tensor]:
    return decode(recognizer, prompts, max_new_tokens=16).tokens


def _examples(setting: Setting, *recognizers: Recognizer):
    return noise_examples(list(recognizers), options_of(["--utterances", "6", "--seconds", "6", "--tokens", "12"]))


def _train(stage, examples, settings: OptimizationSettings) -> list[float]:
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            stage,
            Stream([examples]),
            settings,
            Path(folder),
            seed=0,
            on_step=lambda _, values: losses.append(values.get("loss", float("nan"))),
        )
    return losses


def _environment(setting: Setting) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if setting.device == "cpu" else {}
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | hidden | {"PYTHONPATH": paths}


def _finish(command: list[str], setting: Setting) -> None:
    finished = subprocess.run(command, cwd=ROOT, env=_environment(setting), capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command[3:6])} ended with {finished.returncode}: {finished.stderr[-500:]}")


PARTS = {
    part.__name__: part
    for part in (objective, batch, rollouts, padding, half, resume, smoke, compiled, synchronisations)
}
