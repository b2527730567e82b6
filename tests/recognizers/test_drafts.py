"""Drafts change the number of passes and nothing else."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from arkasr.recognizers.cached_decoder import CachedDecoder
from arkasr.recognizers.decoding import Sampling, decode
from arkasr.recognizers.draft import Draft
from arkasr.recognizers.head import greedy_tokens, sampled_tokens, top_tokens
from arkasr.recognizers.whisper import Whisper
from tests.models import listening_model

STOP = 99
CLIPS, CAP = 24, 20


def passes_along(transcript: list[int], draft: list[int], limit: int = 10**6) -> int:
    """Decode along a draft with a model that always writes `transcript`; returns the number of passes."""
    tracker, written, passes = Draft(draft, STOP), [], 0
    while written[-1:] != [STOP]:
        proposal = tracker.propose(limit)
        assert STOP not in proposal
        assert len(proposal) <= limit
        # After a wrong token the model predicts a token that is not in the transcript.
        right = [*written, *proposal] == transcript[: len(written) + len(proposal)]
        predicted = [transcript[len(written)]]
        for place in range(len(proposal)):
            right = [*written, *proposal[: place + 1]] == transcript[: len(written) + place + 1]
            predicted.append(transcript[len(written) + place + 1] if right else 1000)
        accepted = tracker.verify(proposal, predicted)
        written += predicted[: accepted + 1]
        assert written == transcript[: len(written)]
        passes += 1
    return passes


TRANSCRIPT = [*range(10, 30), STOP]


@pytest.mark.parametrize(
    ("draft", "passes"),
    [
        (TRANSCRIPT, 1),
        (TRANSCRIPT[:-1], 1),
        ([], 21),
        ([*TRANSCRIPT[:8], 50, *TRANSCRIPT[9:]], 2),  # one token is another
        ([*TRANSCRIPT[:8], *TRANSCRIPT[9:]], 3),  # one token is missing
        ([*TRANSCRIPT[:8], *TRANSCRIPT[12:]], 6),  # four are missing
        ([*TRANSCRIPT[:8], 50, *TRANSCRIPT[8:]], 2),  # one too many
        ([*TRANSCRIPT[:8], 50, 51, 52, *TRANSCRIPT[8:]], 2),  # three too many
        ([*TRANSCRIPT[:3], 50, *TRANSCRIPT[4:12], 51, *TRANSCRIPT[13:]], 3),  # two are others
        (TRANSCRIPT[:10], 11),  # the end is missing
        ([*TRANSCRIPT[:10], STOP, *TRANSCRIPT[10:]], 11),  # tokens after a stop token are ignored
    ],
)
def test_passes_for_a_mistake(draft, passes):
    assert passes_along(TRANSCRIPT, draft) == passes


def test_proposals_become_long_again_after_a_mistake():
    transcript = [*range(2000, 2120), STOP]
    assert passes_along(transcript, [50, *transcript[1:]]) == 5  # proposals with 0, 16, 32, 64 and 4 right tokens


def test_no_draft_costs_more_passes_than_the_transcript_has_tokens():
    generator = random.Random(0)
    for _ in range(3000):
        transcript = [*(generator.randrange(6) for _ in range(generator.randrange(15))), STOP]
        draft = [generator.randrange(6) for _ in range(generator.randrange(15))]
        assert passes_along(transcript, draft, generator.randrange(8)) <= len(transcript)


def corrupted(tokens: list[int], rate: float, vocabulary: int, generator: random.Random) -> list[int]:
    """A transcript with about this share of its tokens replaced, left out, or followed by another."""
    draft: list[int] = []
    for token in tokens:
        chance = generator.random() / rate if rate else 2
        if chance >= 1:
            draft.append(token)
        elif chance < 0.6:
            draft.append(generator.randrange(vocabulary))
        elif chance < 0.8:
            draft += [token, generator.randrange(vocabulary)]
    return draft


@pytest.fixture(params=["student", "teacher", "whisper"])
def recognizer(request, vocabulary):
    return listening_model(request.param, vocabulary)


@pytest.fixture
def prompts(recognizer):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(16_000 // 4 * (1 + place % 5), generator=generator).numpy() * 0.1 for place in range(CLIPS)]
    raw = recognizer.prompts([recognizer.features(clip).double() for clip in clips], ["English"] * CLIPS)
    with torch.no_grad():
        return recognizer.embed_audio(raw)


def test_a_long_run_of_right_tokens_is_not_aligned_token_by_token(monkeypatch):
    """Aligning every token takes longer and gives about the same number of passes."""
    generator = random.Random(0)
    transcripts = [[generator.randrange(100, 130) for _ in range(80)] + [STOP] for _ in range(50)]
    drafts = [corrupted(transcript, 0.05, 130, generator) for transcript in transcripts]
    anchored = sum(map(passes_along, transcripts, drafts))
    monkeypatch.setattr("arkasr.recognizers.draft.MAX_ALIGNED_TOKENS", 10**6)
    assert anchored == pytest.approx(sum(map(passes_along, transcripts, drafts)), 0.02)


@pytest.mark.parametrize("sampled", [False, True])
def test_the_same_transcripts_and_the_same_states_with_drafts_of_any_quality(recognizer, prompts, sampled):
    uniforms = torch.rand(CLIPS, CAP, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": CAP, "sampling": Sampling(0.7, uniforms) if sampled else None}
    expected = decode(recognizer, prompts, **options)
    # The commonest token becomes the stop, so that transcripts end at different places.
    recognizer.stop_token_id = torch.cat(expected.tokens).mode().values.item()
    expected = decode(recognizer, prompts, **options)
    assert len({len(tokens) for tokens in expected.tokens}) > 4
    assert expected.stopped.sum() > 0
    generator = random.Random(0)
    passes = []
    for rate in (0.0, 0.05, 0.2, 0.5, 1.0):
        drafts = [corrupted(tokens.tolist(), rate, recognizer.vocab_size, generator) for tokens in expected.tokens]
        found = decode(recognizer, prompts, drafts=drafts, **options)
        for ours, theirs in zip(found.tokens, expected.tokens, strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(found.stopped, expected.stopped)
        torch.testing.assert_close(found.states, expected.states)
        passes.append(found.passes)
    assert passes[0] == 1
    assert passes[0] < passes[1] < expected.passes + sampled


def test_the_cache_holds_no_more_than_the_longest_row_once_rows_have_left(recognizer, prompts, monkeypatch):
    original, widths = CachedDecoder.keep_rows, []

    def keep_rows(decoder, rows):
        before = decoder._cache.get_seq_length()
        original(decoder, rows)
        cached = decoder._attention_mask[:, :-1]
        assert decoder._cache.get_seq_length() == cached.shape[1] == cached.sum(1).max()
        parts = vars(decoder._cache).values() if isinstance(recognizer, Whisper) else [decoder._cache]
        layers = [layer for part in parts if isinstance(part, DynamicCache) for layer in part.layers]
        assert layers
        assert all(len(layer.keys) == len(layer.values) == len(rows) for layer in layers)
        widths.append((before, cached.shape[1]))

    monkeypatch.setattr(CachedDecoder, "keep_rows", keep_rows)
    expected = decode(recognizer, prompts, max_new_tokens=CAP)
    recognizer.stop_token_id = torch.cat(expected.tokens).mode().values.item()
    expected = decode(recognizer, prompts, max_new_tokens=CAP)
    generator = random.Random(0)
    drafts = [corrupted(tokens.tolist(), 0.2, recognizer.vocab_size, generator) for tokens in expected.tokens]
    widths.clear()
    found = decode(recognizer, prompts, max_new_tokens=CAP, drafts=drafts)
    assert [tokens.tolist() for tokens in found.tokens] == [tokens.tolist() for tokens in expected.tokens]
    assert any(after < before for before, after in widths)


def test_batches_with_and_without_drafts_and_smaller_caps(recognizer, prompts):
    expected = decode(recognizer, prompts, max_new_tokens=CAP)
    for cap in (1, 2, 7):
        drafts = [tokens.tolist() if place % 2 else [] for place, tokens in enumerate(expected.tokens)]
        found = decode(recognizer, prompts, max_new_tokens=cap, drafts=drafts)
        assert [tokens.tolist() for tokens in found.tokens] == [tokens[:cap].tolist() for tokens in expected.tokens]


def test_embedded_audio_gives_the_same_transcripts_as_features(recognizer):
    clip = torch.randn(16_000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    raw = recognizer.prompts([recognizer.features(clip).double()], ["English"])
    embedded = recognizer.embed_audio(raw)
    for prompts in (embedded, embedded.detach()):
        assert [tokens.tolist() for tokens in decode(recognizer, prompts, max_new_tokens=8).tokens] == [
            tokens.tolist() for tokens in decode(recognizer, raw, max_new_tokens=8).tokens
        ]
    assert embedded.audio["embeddings"].requires_grad
    assert not embedded.detach().audio["embeddings"].requires_grad


def test_sampled_tokens_follow_the_distribution():
    """Equally spaced uniform numbers give every token in proportion to its probability."""
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 4, dtype=torch.float64), torch.randn(3000, 4, dtype=torch.float64)
    allowed = torch.rand(3000) < 0.5
    draws = 200_000
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    sampled = torch.cat(
        [sampled_tokens(hidden.expand(len(part), -1), head, allowed, 1.7, part) for part in uniforms.split(1000)]
    )
    logits = (hidden @ head.T)[0].masked_fill(~allowed, -torch.inf)
    expected = (logits / 1.7).softmax(0)
    share = torch.bincount(sampled, minlength=3000) / draws
    assert (share - expected).abs().max() < 1.1 / draws
    assert not share[~allowed].any()


def test_a_uniform_number_above_the_rounded_distribution_samples_the_last_possible_token():
    head = torch.tensor([[1.0], [2.0], [-1000.0], [3.0]])
    allowed = torch.tensor([True, True, True, False])
    assert sampled_tokens(torch.ones(1, 1), head, allowed, 1.0, torch.tensor([1.0], dtype=torch.float64)).item() == 1


def test_the_first_of_equal_tokens_is_the_best(monkeypatch):
    head = torch.tensor([[0.0], [1.0], [0.5], [1.0], [1.0]]).repeat(1000, 1)
    assert top_tokens(torch.ones(2, 1), head, None, 3, torch.float32).best.tolist() == [1, 1]
    assert greedy_tokens(torch.ones(2, 1), head, None).tolist() == [1, 1]
    monkeypatch.setattr("arkasr.recognizers.head.SMALLEST_TILE_TOKENS", 7)
    monkeypatch.setitem(__import__("arkasr.recognizers.head").recognizers.head.TILE_SCORES, "cpu", 1)
    assert top_tokens(torch.ones(2, 1), head, None, 3, torch.float32).best.tolist() == [1, 1]
    assert greedy_tokens(torch.ones(2, 1), head, None).tolist() == [1, 1]


def test_a_draft_is_cut_at_its_first_token_that_is_not_allowed(recognizer, prompts):
    expected = decode(recognizer, prompts, max_new_tokens=8)
    drafts = [tokens.tolist() for tokens in expected.tokens]
    forbidden = (~recognizer.allowed_tokens).nonzero().squeeze(1).tolist()
    for bad in (forbidden[0], forbidden[-1], recognizer.vocab_size + 3):
        found = decode(
            recognizer, prompts, max_new_tokens=8, drafts=[[*draft[:3], bad, *draft[3:]] for draft in drafts]
        )
        assert [tokens.tolist() for tokens in found.tokens] == drafts


@pytest.mark.parametrize("recognizer", ["student", "teacher"], indirect=True)
def test_a_prompt_with_more_placeholders_than_audio_tokens_is_refused(recognizer):
    clip = torch.randn(16_000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    raw = recognizer.prompts([recognizer.features(clip)], ["English"])
    with pytest.raises((ValueError, RuntimeError), match=r"the audio has \d+|expects split_sizes to sum exactly"):
        recognizer.embed_audio(replace(raw, audio_lengths=[raw.audio_lengths[0] + 1]))
