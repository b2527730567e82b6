"""Teacher scores, support, loss and backward pass on the published shapes: the dense way against the fused one.

    python -m benchmarks.objective
    PYTHONPATH=FOLDER_WITH_TRL python -m benchmarks.objective --device cuda --precision bf16

Hidden states of both decoders are given; what is timed is everything from there to the gradients of the student's
hidden states and head. `published` is the published procedure written plainly: full heads over prompt and padding, and
supports merged position by position through Python lists. `trl` is the full-vocabulary divergence of TRL's trainer, on
the transcript's positions, where TRL can be imported. `dense` is `union_topk_kl` on the same positions. `fused` is what
the opd stage does for a head that is tied to the embeddings, as Ark-ASR's is: its gradient is sparse. The pass over the
student's vocabulary that gives the support is in none of them. With `--tied` the tokens are embedded by the same
weights, which gives the head a dense gradient in every way. Timed in turns in one process; peak memory above weights
and hidden states is that of a process of its own for each way.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from benchmarks.children import output_of
from benchmarks.memory import peak_bytes, resident_bytes, start_watching_memory
from benchmarks.timing import spread, timed
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from arkasr.distill import fused_union_topk_kl, union_topk_kl
from arkasr.recognizers import head as output_head
from arkasr.recognizers.head import TopTokens, top_tokens


@dataclass
class Problem:
    """What both models hold when their last layers are done."""

    student_hidden: Tensor  # [B, P + cap, H_S], gradient wanted
    student_head: Tensor  # [V, H_S], gradient wanted
    teacher_hidden: Tensor  # [B, P + cap, H_T]
    teacher_head: Tensor  # [V, H_T]
    top: TopTokens  # of B n positions, the student's at rollout time
    prompt: int
    tokens: int
    read: Tensor | None  # [B, P + cap], what a tied head embeds: it gives the head a dense gradient

    def student_states(self) -> Tensor:
        if self.read is None:
            return self.student_hidden
        return self.student_hidden + functional.embedding(self.read, self.student_head)

    def scored(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.prompt - 1 : self.prompt - 1 + self.tokens].flatten(0, 1)


def problem(options: argparse.Namespace) -> Problem:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    length = options.prompt + options.cap

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=options.device)

    heads = [normal(options.vocabulary, width) / width**0.5 for width in (options.student, options.teacher)]
    hidden = [normal(options.utterances, length, width) for width in (options.student, options.teacher)]
    made = Problem(hidden[0], heads[0], hidden[1], heads[1], None, options.prompt, options.tokens, None)
    if options.tied:
        made.read = torch.randint(options.vocabulary, (options.utterances, length), device=options.device)
    made.top = top_tokens(made.scored(made.student_states()), heads[0], None, options.top_k, torch.float32)
    made.student_hidden.requires_grad_()
    made.student_head.requires_grad_()
    return made


def published(x: Problem, top_k: int) -> Tensor:
    student_logits = x.student_states() @ x.student_head.T
    with torch.no_grad():
        teacher_logits = x.teacher_hidden @ x.teacher_head.T
        teacher_log_probs = teacher_logits.log_softmax(-1)
    supports = x.top.ids.view(len(x.student_hidden), x.tokens, -1).tolist()
    rows, places, unions = [], [], []
    for row in range(len(student_logits)):
        for token in range(x.tokens):
            place = x.prompt - 1 + token
            best = teacher_log_probs[row, place].topk(top_k).indices.tolist()
            rows.append(row)
            places.append(place)
            unions.append(torch.tensor(sorted({*best, *supports[row][token]}), device=student_logits.device))
    ids = pad_sequence(unions, True, -1)
    outside = ids < 0
    p = teacher_log_probs[rows, places].gather(1, ids.clamp(min=0)).masked_fill(outside, -torch.inf).log_softmax(-1)
    q = student_logits[rows, places].gather(1, ids.clamp(min=0)).masked_fill(outside, -torch.inf).log_softmax(-1)
    return (p.exp() * (p - q).masked_fill(outside, 0.0)).sum(1).mean()


def dense(x: Problem, top_k: int) -> Tensor:
    student_logits = x.scored(x.student_states()) @ x.student_head.T
    teacher_logits = x.scored(x.teacher_hidden) @ x.teacher_head.T
    return union_topk_kl(student_logits, teacher_logits, top_k=top_k, student_support=x.top.ids).loss


def trl(x: Problem, top_k: int) -> Tensor:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    scored = x.scored(x.student_states())[None], x.scored(x.teacher_hidden)[None]
    mask = torch.ones(scored[0].shape[:2], device=scored[0].device)
    return _chunked_divergence_loss(*scored, x.student_head, x.teacher_head, mask, beta=0.0)[0]


def fused(x: Problem, top_k: int, sparse: bool = True) -> Tensor:
    hidden = x.scored(x.student_states()), x.student_head, x.scored(x.teacher_hidden), x.teacher_head
    return fused_union_topk_kl(*hidden, top_k=top_k, student_top=x.top, sparse_head_gradient=sparse).loss


WAYS: dict[str, Callable[[Problem, int], Tensor]] = {
    "published": published,
    "dense": dense,
    "fused, dense gradient": partial(fused, sparse=False),
    "fused": fused,
}
if find_spec("trl"):
    WAYS["trl"] = trl


def learned_from(way: Callable[[Problem, int], Tensor], x: Problem, top_k: int) -> Tensor:
    """The loss, its gradients left in the problem."""
    loss = way(x, top_k)
    loss.backward()
    return loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=135)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--cap", type=int, default=256, help="positions behind the prompt, padding included")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--student", type=int, default=896)
    parser.add_argument("--teacher", type=int, default=2048)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--tied", action="store_true", help="the head embeds the tokens, too, as Ark-ASR's does")
    parser.add_argument(
        "--mkl", action="store_true", help="MKL for the teacher's head, too, as if oneDNN were no faster (CPU)"
    )
    parser.add_argument("--way", choices=list(WAYS), help="run this way once and print the peak memory")
    options = parser.parse_args()
    if options.mkl:
        output_head.LARGE_PRODUCT = sys.maxsize
    x = problem(options)
    if options.way:
        start_watching_memory(options.device)
        before = resident_bytes("VmRSS") if options.device == "cpu" else torch.cuda.memory_allocated()
        learned_from(WAYS[options.way], x, options.top_k)
        print(peak_bytes(options.device) - before)
        return
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses, gradients = {}, {}
    for repeat in range(options.repeats + 1):
        for name, way in WAYS.items():
            x.student_hidden.grad = x.student_head.grad = None
            loss, taken = timed(partial(learned_from, way, x, options.top_k), options.device)
            if repeat:
                seconds[name].append(taken)
            losses[name] = loss.item()
            gradients[name] = x.student_hidden.grad.norm().item(), x.student_head.grad.norm().item()
    print(f"{torch.get_num_threads()} threads, losses {losses}, gradient norms {gradients}")
    for name in (name for name in WAYS if name != "fused"):
        ratios = [slow / fast for slow, fast in zip(seconds[name], seconds["fused"], strict=True)]
        print(f"{name} / fused: {spread(ratios, digits=1)}")
    print({name: f"{statistics.median(taken):.2f} s" for name, taken in seconds.items()})
    for name in WAYS:
        command = [sys.executable, "-m", "benchmarks.objective", *sys.argv[1:], "--way", name]
        peak = int(output_of(command).split()[-1])
        print(f"{name}: peak memory above weights and hidden states {peak / 2**20:.0f} MiB")
    gradient = x.student_head.numel() * x.student_head.element_size()
    print(f"a dense gradient of the student's head, which `fused` alone does without, has {gradient / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
