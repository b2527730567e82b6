"""The cost of knowing only a server's best tokens: loss and gradient of OPD against those of the exact scores.

    python -m benchmarks.best_tokens --teacher FOLDER --student FOLDER --manifest FILE

A vLLM server that cannot score tokens by id gives the k' best tokens of a position and the forced one. The support also
has other tokens, which only the student proposes. With `scores: best` (docs/teachers.md), all other tokens share the
remaining probability equally. For every k', the table shows the share of such tokens in the support, and the errors of
loss and gradient (of the student's hidden states). In the rows `nothing`, such tokens have no probability. The scores
come from the teacher in process, so that nothing but k' differs.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from arkasr.data.audio import decode_audio
from arkasr.data.manifests.manifest import read_manifest
from arkasr.distill.fused import StudentStates, divergence_from_states
from arkasr.distill.kept_rollouts import prepare_rollouts
from arkasr.distill.options import Objective
from arkasr.distill.result import UnionTopkKL
from arkasr.distill.vocabularies import Vocabularies, map_ids
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.head import TopTokens, top_tokens
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_states
from arkasr.teacher.served import uniform_remainder
from arkasr.teacher.teacher import SparseScores
from arkasr.teacher.vocabulary_mapping import map_vocabularies

NO_PROBABILITY = -1e4  # a log-probability; −inf would make the divergence of q from p infinite


def best_scores(
    log_probs: Tensor, forced: Tensor, allowed: Tensor, top_k: int, best_tokens: int, rest: str
) -> SparseScores:
    """What the client knows when a server gives so many best tokens of log-probabilities `[N, V]`."""
    best = log_probs.topk(best_tokens, dim=1)
    repeated = (best.indices == forced[:, None]).any(dim=1)
    ids = torch.cat((best.indices, torch.where(repeated, -1, forced)[:, None]), dim=1)
    scores = torch.cat((best.values, log_probs.gather(1, forced[:, None])), dim=1)
    scores[repeated, -1] = -math.inf
    top = log_probs.masked_fill(~allowed, -math.inf).topk(top_k, dim=1).indices
    other_log_prob = uniform_remainder(scores, best_tokens, log_probs.shape[1])
    if rest == "nothing":
        other_log_prob = torch.full_like(other_log_prob, NO_PROBABILITY)
    zeros = torch.zeros(len(top))
    return SparseScores(ids, scores, other_log_prob, TopTokens(top, top[:, 0], zeros, zeros))


@torch.no_grad()
def states_of(recognizer: Recognizer, features: list[Tensor], languages: list, transcripts: list[Tensor]) -> Tensor:
    return forced_states(recognizer, recognizer.prompts(features, languages), transcripts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--top-k", type=int, default=32)
    options = parser.parse_args()
    teacher, student = load_recognizer(options.teacher), load_recognizer(options.student)
    teacher.model.eval()
    student.model.eval()
    utterances = read_manifest(options.manifest)[: options.utterances]
    waveforms = [decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances]
    languages = [item.language for item in utterances]
    heard = [student.features(waveform) for waveform in waveforms]
    transcripts = decode(student, student.prompts(heard, languages), max_new_tokens=64)
    rollouts = prepare_rollouts(student, transcripts, [None] * len(heard))
    kept = [(rollout.index, rollout.tokens) for rollout in rollouts.kept]
    vocabulary = map_vocabularies(
        student.tokenizer,
        teacher.tokenizer,
        student_stop=student.stop_token_id,
        teacher_stop=teacher.stop_token_id,
        student_vocab_size=student.vocab_size,
        teacher_vocab_size=teacher.vocab_size,
    )
    vocabularies = Vocabularies(
        vocabulary.teacher_to_student,
        vocabulary.student_to_teacher,
        student.allowed_tokens,
        teacher.allowed_tokens,
    )
    forced = [map_ids(vocabulary.student_to_teacher, tokens) for _, tokens in kept]
    assert all((ids >= 0).all() for ids in forced), "take two models of one vocabulary"
    spoken = [languages[clip] for clip, _ in kept]
    there = states_of(teacher, [teacher.features(waveforms[clip]) for clip, _ in kept], spoken, forced)
    here = states_of(student, [heard[clip] for clip, _ in kept], spoken, [tokens for _, tokens in kept])
    log_probs = (there @ teacher.head.T).detach().float().log_softmax(-1)
    student_head = student.head.detach()
    student_top = top_tokens(here, student_head, student.allowed_tokens, options.top_k, torch.float32)

    def compare(scores: SparseScores, divergence: str) -> tuple[UnionTopkKL, float, Tensor]:
        hidden = here.clone().requires_grad_()
        states = StudentStates(hidden, student_head, torch.cat([tokens for _, tokens in kept]), top=student_top)
        objective = Objective(top_k=options.top_k, divergence=divergence)
        result = divergence_from_states(states, scores, objective, vocabularies)
        result.loss.backward()
        return result, float(result.loss.detach()), hidden.grad

    def known(best_tokens: int, rest: str) -> SparseScores:
        return best_scores(log_probs, torch.cat(forced), teacher.allowed_tokens, options.top_k, best_tokens, rest)

    print(f"{len(kept)} utterances, {len(here)} positions, vocabulary {teacher.vocab_size}, k = {options.top_k}")
    print("| divergence | the others | k' | of the support | loss, exact | loss off by | gradient off by |")
    print("|---|---|---|---|---|---|---|")
    sizes = [size for size in (options.top_k, 2 * options.top_k, 4 * options.top_k) if size < teacher.vocab_size]
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        _, exact, gradient = compare(known(teacher.vocab_size, "evenly"), divergence)
        for rest in ("evenly", "nothing"):
            for size in sizes:
                scores = known(size, rest)
                found, loss, found_gradient = compare(scores, divergence)
                u = found.support
                named = (u.teacher_ids[:, :, None] == scores.ids[:, None, :]).any(dim=2)
                missing = float((u.mask & ~named).sum() / u.mask.sum())
                off = float((found_gradient - gradient).norm() / gradient.norm())
                print(
                    f"| {divergence} | {rest} | {size} | {missing:.1%} | {exact:.4f} "
                    f"| {loss / exact - 1:+.2%} | {off:.2%} |"
                )


if __name__ == "__main__":
    main()
