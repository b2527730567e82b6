"""Teacher scores, support, loss and backward pass on the published shapes: the dense way against the fused one.

    python benchmarks/objective.py

Hidden states of both decoders are given; what is timed is everything from there to the gradients of the student's
hidden states and head. `published` is the published procedure written plainly: full heads over prompt and padding, and
supports merged position by position through Python lists. `dense` is `union_topk_kl` on the transcript's positions.
Timed in turns in one process; peak memory above the weights is that of a process of its own for each way.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from arkasr.distill import fused_union_topk_kl, union_topk_kl


@dataclass
class Problem:
    """What both models hold when their last layers are done."""

    student_hidden: Tensor  # [B, P + cap, H_S], gradient wanted
    student_head: Tensor  # [V, H_S], gradient wanted
    teacher_hidden: Tensor  # [B, P + cap, H_T]
    teacher_head: Tensor  # [V, H_T]
    support: Tensor  # [B, n, k], the student's top-k at rollout time
    prompt: int
    tokens: int

    def scored(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.prompt - 1 : self.prompt - 1 + self.tokens].flatten(0, 1)


def problem(options: argparse.Namespace) -> Problem:
    torch.manual_seed(0)
    length = options.prompt + options.cap
    heads = [torch.randn(options.vocabulary, width) / width**0.5 for width in (options.student, options.teacher)]
    hidden = [torch.randn(options.utterances, length, width) for width in (options.student, options.teacher)]
    made = Problem(hidden[0], heads[0], hidden[1], heads[1], torch.empty(0), options.prompt, options.tokens)
    with torch.no_grad():
        made.support = torch.cat(
            [(row @ heads[0].T).topk(options.top_k).indices for row in made.scored(hidden[0])[:, None]]
        )
    made.student_hidden.requires_grad_()
    made.student_head.requires_grad_()
    return made


def published(x: Problem, top_k: int) -> Tensor:
    student_logits = x.student_hidden @ x.student_head.T
    with torch.no_grad():
        teacher_logits = x.teacher_hidden @ x.teacher_head.T
        teacher_log_probs = teacher_logits.log_softmax(-1)
    supports = x.support.view(len(x.student_hidden), x.tokens, -1).tolist()
    rows, places, unions = [], [], []
    for row in range(len(student_logits)):
        for token in range(x.tokens):
            place = x.prompt - 1 + token
            best = teacher_log_probs[row, place].topk(top_k).indices.tolist()
            rows.append(row)
            places.append(place)
            unions.append(torch.tensor(sorted({*best, *supports[row][token]})))
    ids = pad_sequence(unions, True, -1)
    outside = ids < 0
    p = teacher_log_probs[rows, places].gather(1, ids.clamp(min=0)).masked_fill(outside, -torch.inf).log_softmax(-1)
    q = student_logits[rows, places].gather(1, ids.clamp(min=0)).masked_fill(outside, -torch.inf).log_softmax(-1)
    return (p.exp() * (p - q).masked_fill(outside, 0.0)).sum(1).mean()


def dense(x: Problem, top_k: int) -> Tensor:
    student_logits = x.scored(x.student_hidden) @ x.student_head.T
    teacher_logits = x.scored(x.teacher_hidden) @ x.teacher_head.T
    return union_topk_kl(student_logits, teacher_logits, top_k=top_k, student_support=x.support).loss


def fused(x: Problem, top_k: int) -> Tensor:
    hidden = x.scored(x.student_hidden), x.student_head, x.scored(x.teacher_hidden), x.teacher_head
    # The rollout had every score of the student in its hands; its normaliser costs nothing there.
    normaliser = torch.zeros(len(hidden[0]))
    return fused_union_topk_kl(*hidden, top_k=top_k, student_support=x.support, student_log_normaliser=normaliser).loss


def memory(kind: str) -> int:
    """Bytes of this process, now (VmRSS) or at their highest (VmHWM), as Linux counts them."""
    return int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


WAYS = {"published": published, "dense": dense, "fused": fused}


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
    parser.add_argument("--way", choices=list(WAYS), help="run this way once and print the peak memory")
    options = parser.parse_args()
    x = problem(options)
    if options.way:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of setting up
        before = memory("VmRSS")
        WAYS[options.way](x, options.top_k).backward()
        print(memory("VmHWM") - before)
        return
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses, gradients = {}, {}
    for repeat in range(options.repeats + 1):
        for name, way in WAYS.items():
            x.student_hidden.grad = x.student_head.grad = None
            started = time.perf_counter()
            loss = way(x, options.top_k)
            loss.backward()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
            losses[name], gradients[name] = loss.item(), x.student_hidden.grad.norm().item()
    print(f"{torch.get_num_threads()} threads, losses {losses}, gradient norms {gradients}")
    for name in ("published", "dense"):
        ratios = [slow / fast for slow, fast in zip(seconds[name], seconds["fused"], strict=True)]
        print(f"{name} / fused: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    print({name: f"{statistics.median(taken):.2f} s" for name, taken in seconds.items()})
    for name in WAYS:
        command = [sys.executable, *sys.argv, "--way", name]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        print(f"{name}: peak memory above weights and hidden states {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
