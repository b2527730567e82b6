"""Error of OPD's loss and gradient if a server returns only its best tokens (`scores: best`, docs/teachers.md).

    python -m benchmarks.best_tokens --teacher FOLDER --student FOLDER --manifest FILE

A vLLM server without named scores returns the k' best tokens of each position and the forced token. Other tokens of the
support get the remaining probability in equal parts (`evenly`), or none (`nothing`).

Prints for every k' the share of the support that the server does not return, and the errors of the loss and of the
gradient for the student's hidden states. All scores come from the teacher in process, so that only k' differs. Teacher
and student must have the same vocabulary.
"""

import argparse
import math
from dataclasses import dataclass
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

NO_PROBABILITY = -1e4  # a log-probability; −inf would make the reverse divergence infinite


@dataclass
class Positions:
    """The N positions of all transcripts.

    Attributes:
        student: states, head and top-k of the student.
        teacher_log_probs: `[N, V]`.
        forced: tokens of the transcripts in the teacher's vocabulary, `[N]`.
        teacher_allowed: bool `[V]`.
        vocabularies: of both models.
        utterances: their number.
    """

    student: StudentStates
    teacher_log_probs: Tensor
    forced: Tensor
    teacher_allowed: Tensor
    vocabularies: Vocabularies
    utterances: int

    def server_scores(self, top_k: int, best_tokens: int, others: str) -> SparseScores:
        """The scores that the client of a server with k' = `best_tokens` has."""
        log_probs, forced = self.teacher_log_probs, self.forced
        best = log_probs.topk(best_tokens, dim=1)
        repeated = (best.indices == forced[:, None]).any(dim=1)
        ids = torch.cat((best.indices, torch.where(repeated, -1, forced)[:, None]), dim=1)
        scores = torch.cat((best.values, log_probs.gather(1, forced[:, None])), dim=1)
        scores[repeated, -1] = -math.inf
        top = log_probs.masked_fill(~self.teacher_allowed, -math.inf).topk(top_k, dim=1).indices
        other_log_prob = uniform_remainder(scores, best_tokens, log_probs.shape[1])
        if others == "nothing":
            other_log_prob = torch.full_like(other_log_prob, NO_PROBABILITY)
        zeros = torch.zeros(len(top))
        return SparseScores(ids, scores, other_log_prob, TopTokens(top, top[:, 0], zeros, zeros))

    def loss_with_gradient(self, scores: SparseScores, objective: Objective) -> tuple[UnionTopkKL, float, Tensor]:
        """The result, its loss, and the gradient for the student's hidden states, `[N, H]`."""
        hidden = self.student.hidden.clone().requires_grad_()
        states = StudentStates(hidden, self.student.head, self.student.generated, top=self.student.top)
        result = divergence_from_states(states, scores, objective, self.vocabularies)
        result.loss.backward()
        return result, float(result.loss.detach()), hidden.grad


@torch.no_grad()
def score_rollouts(teacher: Recognizer, student: Recognizer, options: argparse.Namespace) -> Positions:
    """Roll out the student and score its transcripts with both models."""
    utterances = read_manifest(options.manifest)[: options.utterances]
    waveforms = [decode_audio(item.audio, item.begin_time, item.end_time) for item in utterances]
    languages = [item.language for item in utterances]
    features = [student.features(waveform) for waveform in waveforms]
    transcripts = decode(student, student.prompts(features, languages), max_new_tokens=64)
    kept = prepare_rollouts(student, transcripts, [None] * len(features)).kept
    vocabulary = map_vocabularies(
        student.tokenizer,
        teacher.tokenizer,
        student_stop=student.stop_token_id,
        teacher_stop=teacher.stop_token_id,
        student_vocab_size=student.vocab_size,
        teacher_vocab_size=teacher.vocab_size,
    )
    id_maps = vocabulary.teacher_to_student, vocabulary.student_to_teacher
    vocabularies = Vocabularies(*id_maps, student.allowed_tokens, teacher.allowed_tokens)
    tokens = [rollout.tokens for rollout in kept]
    forced = [map_ids(vocabulary.student_to_teacher, ids) for ids in tokens]
    assert all((ids >= 0).all() for ids in forced), "take two models of one vocabulary"
    kept_languages = [languages[rollout.index] for rollout in kept]
    teacher_features = [teacher.features(waveforms[rollout.index]) for rollout in kept]
    student_features = [features[rollout.index] for rollout in kept]
    teacher_states = forced_states(teacher, teacher.prompts(teacher_features, kept_languages), forced)
    hidden = forced_states(student, student.prompts(student_features, kept_languages), tokens)
    head = student.head.detach()
    top = top_tokens(hidden, head, student.allowed_tokens, options.top_k, torch.float32)
    return Positions(
        StudentStates(hidden, head, torch.cat(tokens), top=top),
        (teacher_states @ teacher.head.T).float().log_softmax(-1),
        torch.cat(forced),
        teacher.allowed_tokens,
        vocabularies,
        len(kept),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=40, help="use the first ones of the manifest")
    parser.add_argument("--top-k", type=int, default=32)
    options = parser.parse_args()
    teacher, student = load_recognizer(options.teacher), load_recognizer(options.student)
    teacher.model.eval()
    student.model.eval()
    positions = score_rollouts(teacher, student, options)
    vocab_size, top_k = teacher.vocab_size, options.top_k
    count = len(positions.student.hidden)
    print(f"{positions.utterances} utterances, {count} positions, vocabulary {vocab_size}, k = {top_k}")
    print("| divergence | other tokens | k' | support outside the best | exact loss | loss error | gradient error |")
    print("|---|---|---|---|---|---|---|")
    sizes = [size for size in (top_k, 2 * top_k, 4 * top_k) if size < vocab_size]
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        objective = Objective(top_k=top_k, divergence=divergence)
        all_scores = positions.server_scores(top_k, vocab_size, "evenly")
        _, exact_loss, exact_gradient = positions.loss_with_gradient(all_scores, objective)
        for others in ("evenly", "nothing"):
            for size in sizes:
                scores = positions.server_scores(top_k, size, others)
                result, loss, gradient = positions.loss_with_gradient(scores, objective)
                support = result.support
                returned = (support.teacher_ids[:, :, None] == scores.ids[:, None, :]).any(dim=2)
                outside = float((support.mask & ~returned).sum() / support.mask.sum())
                error = float((gradient - exact_gradient).norm() / exact_gradient.norm())
                print(
                    f"| {divergence} | {others} | {size} | {outside:.1%} | {exact_loss:.4f} "
                    f"| {loss / exact_loss - 1:+.2%} | {error:.2%} |"
                )


if __name__ == "__main__":
    main()
