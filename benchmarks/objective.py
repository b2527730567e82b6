"""Time and memory of the objective: teacher scores, support, loss and gradients, by several implementations.

    python -m benchmarks.objective
    PYTHONPATH=FOLDER_WITH_TRL python -m benchmarks.objective --device cuda --precision bf16

Prints the times in units of the fused implementation, and the peak memory above weights and hidden states. The
implementations alternate in one process; peak memory is measured in one process each. Shapes are the published ones.

Input are the hidden states of both decoders. Output are the gradients of the student's hidden states and head. The
student's own pass over its vocabulary, which gives its top-k, is not included.

    published  the published procedure: full heads over prompt and padding, supports merged with Python lists
    trl        the full-vocabulary divergence of TRL's trainer at the transcript's positions, if TRL is installed
    dense      `union_topk_kl` at the transcript's positions
    fused      as the opd stage calls it for a tied head such as Ark-ASR's: the head's gradient is sparse

With `--tied` the head's weights also embed the tokens, so that every implementation gives them a dense gradient.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from benchmarks.child_processes import output_of
from benchmarks.memory import peak_bytes, reset_peak_memory, resident_bytes
from benchmarks.timing import median_and_range, ratios, timed
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from arkasr.distill import fused_union_topk_kl, union_topk_kl
from arkasr.recognizers import head as output_head
from arkasr.recognizers.head import TopTokens, top_tokens


@dataclass
class Inputs:
    """Hidden states and heads of both models; those of the student require gradients."""

    student_hidden: Tensor  # [B, P + cap, H_S]
    student_head: Tensor  # [V, H_S]
    teacher_hidden: Tensor  # [B, P + cap, H_T]
    teacher_head: Tensor  # [V, H_T]
    top: TopTokens  # of B n positions, the student's at rollout time
    prompt: int
    tokens: int
    token_ids: Tensor | None  # [B, P + cap], embedded by a tied head

    def student_states(self) -> Tensor:
        if self.token_ids is None:
            return self.student_hidden
        return self.student_hidden + F.embedding(self.token_ids, self.student_head)

    def at_transcript(self, hidden: Tensor) -> Tensor:
        """`[B, P + cap, H]` to `[B n, H]`, the states that predict the transcript."""
        return hidden[:, self.prompt - 1 : self.prompt - 1 + self.tokens].flatten(0, 1)

    def clear_gradients(self) -> None:
        self.student_hidden.grad = self.student_head.grad = None


def random_inputs(options: argparse.Namespace) -> Inputs:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    length = options.prompt + options.cap

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=options.device)

    heads = [normal(options.vocabulary, width) / width**0.5 for width in (options.student, options.teacher)]
    hidden = [normal(options.utterances, length, width) for width in (options.student, options.teacher)]
    x = Inputs(hidden[0], heads[0], hidden[1], heads[1], None, options.prompt, options.tokens, None)
    if options.tied:
        x.token_ids = torch.randint(options.vocabulary, (options.utterances, length), device=options.device)
    x.top = top_tokens(x.at_transcript(x.student_states()), heads[0], None, options.top_k, torch.float32)
    x.student_hidden.requires_grad_()
    x.student_head.requires_grad_()
    return x


def published(x: Inputs, top_k: int) -> Tensor:
    student_logits = x.student_states() @ x.student_head.T
    with torch.no_grad():
        teacher_logits = x.teacher_hidden @ x.teacher_head.T
        teacher_log_probs = teacher_logits.log_softmax(-1)
    student_top = x.top.ids.view(len(x.student_hidden), x.tokens, -1).tolist()
    rows, positions, unions = [], [], []
    for row in range(len(student_logits)):
        for token in range(x.tokens):
            position = x.prompt - 1 + token
            teacher_top = teacher_log_probs[row, position].topk(top_k).indices.tolist()
            rows.append(row)
            positions.append(position)
            unions.append(torch.tensor(sorted({*teacher_top, *student_top[row][token]}), device=student_logits.device))
    ids = pad_sequence(unions, True, -1)
    outside = ids < 0

    def renormalized(scores: Tensor) -> Tensor:
        return scores[rows, positions].gather(1, ids.clamp(min=0)).masked_fill(outside, -torch.inf).log_softmax(-1)

    p, q = renormalized(teacher_log_probs), renormalized(student_logits)
    return (p.exp() * (p - q).masked_fill(outside, 0.0)).sum(1).mean()


def dense(x: Inputs, top_k: int) -> Tensor:
    student_logits = x.at_transcript(x.student_states()) @ x.student_head.T
    teacher_logits = x.at_transcript(x.teacher_hidden) @ x.teacher_head.T
    return union_topk_kl(student_logits, teacher_logits, top_k=top_k, student_support=x.top.ids).loss


def trl(x: Inputs, top_k: int) -> Tensor:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    states = x.at_transcript(x.student_states())[None], x.at_transcript(x.teacher_hidden)[None]
    mask = torch.ones(states[0].shape[:2], device=states[0].device)
    return _chunked_divergence_loss(*states, x.student_head, x.teacher_head, mask, beta=0.0)[0]


def fused(x: Inputs, top_k: int, sparse: bool = True) -> Tensor:
    student = x.at_transcript(x.student_states()), x.student_head
    teacher = x.at_transcript(x.teacher_hidden), x.teacher_head
    options = {"top_k": top_k, "student_top": x.top, "sparse_head_gradient": sparse}
    return fused_union_topk_kl(*student, *teacher, **options).loss


Implementation = Callable[[Inputs, int], Tensor]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "published": published,
    "dense": dense,
    "fused, dense gradient": partial(fused, sparse=False),
    "fused": fused,
}
if find_spec("trl"):
    IMPLEMENTATIONS["trl"] = trl


def loss_with_gradients(implementation: Implementation, x: Inputs, top_k: int) -> Tensor:
    """The detached loss; the gradients are in `x.student_hidden.grad` and `x.student_head.grad`."""
    loss = implementation(x, top_k)
    loss.backward()
    return loss.detach()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=135, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=48, help="of each transcript")
    parser.add_argument("--cap", type=int, default=256, help="positions after the prompt, padding included")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--student", type=int, default=896, help="width")
    parser.add_argument("--teacher", type=int, default=2048, help="width")
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each implementation")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--tied", action="store_true", help="the student's head also embeds the tokens, as Ark-ASR's")
    parser.add_argument("--mkl", action="store_true", help="CPU: use MKL, not oneDNN, for the teacher's head")
    parser.add_argument("--peak", choices=list(IMPLEMENTATIONS), help="run this one once and print its peak memory")
    return parser.parse_args()


def print_peak(x: Inputs, options: argparse.Namespace) -> None:
    reset_peak_memory(options.device)
    before = resident_bytes("VmRSS") if options.device == "cpu" else torch.cuda.memory_allocated()
    loss_with_gradients(IMPLEMENTATIONS[options.peak], x, options.top_k)
    print(peak_bytes(options.device) - before)


def main() -> None:
    options = parse_options()
    if options.mkl:
        output_head.LARGE_PRODUCT = sys.maxsize
    x = random_inputs(options)
    if options.peak:
        print_peak(x, options)
        return
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    losses, gradients = {}, {}
    for repeat in range(options.repeats + 1):
        for name, implementation in IMPLEMENTATIONS.items():
            x.clear_gradients()
            loss, taken = timed(partial(loss_with_gradients, implementation, x, options.top_k), options.device)
            if repeat:
                seconds[name].append(taken)
            losses[name] = loss.item()
            gradients[name] = x.student_hidden.grad.norm().item(), x.student_head.grad.norm().item()
    print(f"{torch.get_num_threads()} threads, losses {losses}, gradient norms {gradients}")
    for name in (name for name in IMPLEMENTATIONS if name != "fused"):
        print(f"{name} / fused: {median_and_range(ratios(seconds[name], seconds['fused']), digits=1)}")
    print({name: f"{statistics.median(taken):.2f} s" for name, taken in seconds.items()})
    for name in IMPLEMENTATIONS:
        command = [sys.executable, "-m", "benchmarks.objective", *sys.argv[1:], "--peak", name]
        peak = int(output_of(command).split()[-1])
        print(f"{name}: peak memory above weights and hidden states {peak / 2**20:.0f} MiB")
    gradient = x.student_head.numel() * x.student_head.element_size()
    print(f"a dense gradient of the student's head, which `fused` does not need, has {gradient / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
