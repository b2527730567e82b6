"""The teacher's distribution over the student's tokens, for a student whose tokens are shorter (docs/objective.md,
"Pieces").

In: the teacher's scores of its own tokens. Out: log-probabilities of the student's tokens, also inside a token of the
teacher. A token of the teacher is cut into its pieces: the tokens that the student writes for the same bytes. The
probability of a student token is that of all tokens of the teacher whose next piece it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from arkasr.distill.chunked import CHUNK_POSITIONS
from arkasr.distill.support import NO_PROBABILITY, log_probabilities, mask_disallowed
from arkasr.model.allowed import tokens_within
from arkasr.recognizers.device import to_device
from arkasr.recognizers.head_scores import vocabulary_scores
from arkasr.recognizers.plain_text import plain_tokenizer
from arkasr.recognizers.token_bytes import SYMBOL_OF, token_bytes

# Of a student token that is no token's next piece. A probability of 0 would keep it out of the support, and the student
# would not learn to avoid it.
LOWEST_LOG_PROB = -25.0
BLANK = b" "

Spans = Sequence[tuple[int, int]]


class Pieces:
    """Every token of the teacher in tokens of the student.

    Args:
        student_tokenizer: byte-level BPE.
        teacher_tokenizer: byte-level BPE.
        student_stop: id of the student's stop token.
        teacher_stop: id of the teacher's; its only piece is the student's.
        student_vocab_size: V_S.
        teacher_vocab_size: V_T.

    Raises:
        InputError: a tokenizer is not byte-level.
    """

    def __init__(
        self,
        student_tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase,
        *,
        student_stop: int,
        teacher_stop: int,
        student_vocab_size: int,
        teacher_vocab_size: int,
    ) -> None:
        self._student, self._student_vocab_size = student_tokenizer, student_vocab_size
        self._stops = student_stop, teacher_stop
        ids = sorted(tokens_within(teacher_tokenizer, teacher_vocab_size).values())
        self._bytes_of = dict(zip(ids, token_bytes(teacher_tokenizer, ids), strict=True))
        self._teacher_vocab_size = teacher_vocab_size
        self._tables: dict[int, Tensor] = {}

    def table(self, added: int) -> Tensor:
        """The pieces of every token, int32 `[V_T, D]`, −1 = no further piece; the last column is −1.

        A token without pieces is special, or its text would be changed by the student's tokenizer.

        Args:
            added: 0, or of a token at the beginning of a text: 1 if only the teacher writes a blank there, which has no
                piece; −1 if only the student does, which then is in the first piece.
        """
        if added not in self._tables:
            bytes_of = {token: _with_student_blank(content, added) for token, content in self._bytes_of.items()}
            pieces = [torch.zeros(0, dtype=torch.int32)] * self._teacher_vocab_size
            for token, found in zip(bytes_of, _tokenised(self._student, list(bytes_of.values())), strict=True):
                pieces[token] = torch.tensor(found, dtype=torch.int32)
            student_stop, teacher_stop = self._stops
            pieces[teacher_stop] = torch.tensor([student_stop], dtype=torch.int32)
            self._tables[added] = F.pad(pad_sequence(pieces, batch_first=True, padding_value=-1), (0, 1), value=-1)
        return self._tables[added]

    def positions(
        self, student_ids: Sequence[int], teacher_ids: Sequence[int], spans: tuple[Spans, Spans], same_until: float
    ) -> tuple[Tensor, Tensor]:
        """Which token of the teacher each token of a transcript is a piece of, and which one.

        Args:
            student_ids: n tokens.
            teacher_ids: m tokens of the same text.
            spans: the bytes of both, counted in the teacher's text; the student's begin before or after 0 if only one
                of the models writes a blank before the text.
            same_until: number of bytes in which both texts are the same.

        Returns:
            LongTensors [n]: the teacher's position, and the number of pieces before; −1 = not a piece.
        """
        student_spans, teacher_spans = spans
        teacher_positions, depths = (torch.full((len(student_ids),), -1) for _ in range(2))
        added = student_spans[0][0] if student_spans else 0
        student_stop, teacher_stop = self._stops
        starting_at = {start: index for index, (start, end) in enumerate(student_spans) if start < end}
        for position, (token, (start, end)) in enumerate(zip(teacher_ids, teacher_spans, strict=True)):
            is_first = position == 0
            if token == teacher_stop:
                index = len(student_ids) - 1
                if student_ids[index] == student_stop and student_spans[index][1] == end <= same_until:
                    teacher_positions[index], depths[index] = position, 0
                continue
            index = starting_at.get(added if is_first else start, len(student_ids))
            pieces = self.table(added if is_first else 0)[token].tolist()
            # No token is −1, so the loop ends after the last piece.
            for depth, piece in enumerate(pieces[: len(student_ids) - index]):
                if student_ids[index + depth] != piece or student_spans[index + depth][1] > same_until:
                    break
                teacher_positions[index + depth], depths[index + depth] = position, depth
        return teacher_positions, depths

    @torch.no_grad()
    def log_probs(
        self,
        states: tuple[Tensor, Tensor],
        allowed: Tensor,
        student_ids: Tensor,
        depths: Tensor,
        added: Tensor,
    ) -> Tensor:
        """The teacher's log-probabilities of the student's tokens, float32 `[N, V_S]`.

        Args:
            states: the teacher's hidden states [N, H_T] at the positions of its tokens, and its head [V_T, H_T].
            allowed: A_T, BoolTensor [V_T].
            student_ids: the transcripts, LongTensor [N], one after the other.
            depths: number of pieces of the same token before each position, LongTensor [N]; at −1 the row is undefined.
            added: as for `table`, LongTensor [N]; 0 but at the first tokens of the teacher.
        """
        hidden, head = states
        allowed = to_device(allowed, hidden.device)
        depths = depths.clamp_min(0)
        result = torch.empty(len(hidden), self._student_vocab_size, device=hidden.device)
        steps = torch.arange(int(depths.max()) if len(depths) else 0)
        # Row t holds y_{t−d} … y_{t−1}, padded with −1.
        before = (torch.arange(len(depths)) - depths)[:, None] + steps
        prefixes = torch.where(steps < depths[:, None], student_ids[before.clamp(max=len(depths) - 1)], -1)
        for which in added.unique().tolist():
            table = to_device(self.table(which), hidden.device)
            for rows in (added == which).nonzero()[:, 0].split(CHUNK_POSITIONS):
                here = rows.to(hidden.device)
                scores = mask_disallowed(vocabulary_scores(hidden[here], head), allowed, torch.float32)
                prefix, depth = prefixes[rows].to(hidden.device), depths[rows].to(hidden.device)
                result[here] = next_piece_log_probs(
                    log_probabilities(scores), table, prefix, depth, self._student_vocab_size
                )
        return result


def next_piece_log_probs(
    teacher_log_probs: Tensor, table: Tensor, prefixes: Tensor, depths: Tensor, student_vocab_size: int
) -> Tensor:
    """Log-probabilities [R, V_S] of the student's tokens, given the pieces already written.

    Args:
        teacher_log_probs: over the teacher's tokens, [R, V_T].
        table: of `Pieces`, int32 [V_T, D].
        prefixes: the pieces already written, [R, P], −1 after the last.
        depths: how many they are, LongTensor [R].
        student_vocab_size: V_S.
    """
    next_pieces = table.T[depths].long()
    goes_on = next_pieces >= 0
    for step, piece in enumerate(prefixes.T):
        goes_on &= (table[:, step] == piece[:, None]) | (depths <= step)[:, None]
    scores = teacher_log_probs.masked_fill(~goes_on, NO_PROBABILITY)
    highest = scores.amax(dim=1, keepdim=True)
    masses = torch.zeros(len(scores), student_vocab_size, dtype=scores.dtype, device=scores.device)
    masses.scatter_add_(1, next_pieces.clamp_min(0), (scores - highest).exp().nan_to_num(0.0))
    return (masses.log() - masses.sum(dim=1, keepdim=True).log()).nan_to_num(LOWEST_LOG_PROB).clamp_min(LOWEST_LOG_PROB)


def _with_student_blank(content: bytes, added: int) -> bytes:
    if added > 0:
        return content.removeprefix(BLANK)
    return BLANK + content if added < 0 and content else content


def _tokenised(tokenizer: PreTrainedTokenizerBase, contents: Sequence[bytes]) -> list[list[int]]:
    """The tokens of bytes; none where they would decode to other bytes."""
    backend = plain_tokenizer(tokenizer)
    texts = [content.decode(errors="replace") for content in contents]
    found = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    for index, content in enumerate(contents):
        # A part of a character is no text, so it is not split into words first.
        if texts[index].encode() != content:
            symbols = "".join(SYMBOL_OF[byte] for byte in content)
            found[index] = [token.id for token in backend.model.tokenize(symbols)]
        if b"".join(token_bytes(tokenizer, found[index])) != content:
            found[index] = []
    return found
