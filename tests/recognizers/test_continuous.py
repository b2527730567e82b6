"""Clips that enter and leave a batch at different times are written as in a batch of their own."""

import random

import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.continuous import Clip, ContinuousDecoder
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.scoring import forced_logits
from tests.models import listening_model

CLIPS, CAP = 24, 20


@pytest.fixture(params=["student", "teacher", "whisper"])
def recognizer(request, vocabulary):
    return listening_model(request.param, vocabulary)


@pytest.fixture
def features(recognizer):
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(4_000 * (1 + place % 5), generator=generator).numpy() * 0.1 for place in range(CLIPS)]
    return [recognizer.features(waveform).double() for waveform in waveforms]


@pytest.fixture
def expected(recognizer, features):
    """Transcripts in one batch; the commonest token becomes the stop, so that they end at different places."""
    prompts = recognizer.prompts(features, ["English"] * CLIPS)
    first = decode(recognizer, prompts, max_new_tokens=CAP)
    recognizer.stop_token_id = torch.cat(first.tokens).mode().values.item()
    written = decode(recognizer, prompts, max_new_tokens=CAP)
    assert len({len(tokens) for tokens in written.tokens}) > 4
    return written


def clip(features, **options):
    return Clip(features, "English", CAP, **options)


def run_all(decoder, arrivals, most=10**6):
    """Let clips enter in groups, a random number of steps apart, at most so many at a time."""
    chance, waiting, written = random.Random(0), list(arrivals), {}
    while waiting or decoder.keys:
        room = most - len(decoder.keys)
        entering = [waiting.pop(0) for _ in range(min(chance.randint(0, 3), len(waiting), room))]
        if entering:
            written |= decoder.enter(dict(entering))
        for _ in range(chance.randint(0, 3)):
            written |= decoder.step()
    return written


@pytest.mark.parametrize("most", [1, 5, CLIPS])
def test_the_transcripts_are_those_of_one_batch(recognizer, features, expected, most):
    arrivals = [(place, clip(features[place])) for place in random.Random(1).sample(range(CLIPS), CLIPS)]
    written = run_all(ContinuousDecoder(recognizer), arrivals, most)
    assert sorted(written) == list(range(CLIPS))
    for place, found in written.items():
        assert torch.equal(found.tokens, expected.tokens[place])
        assert found.stopped == expected.stopped[place]
        assert found.log_probabilities is None


def test_the_cache_does_not_grow_with_the_number_of_clips(recognizer, features):
    decoder, widest = ContinuousDecoder(recognizer), 0
    for place in range(60):
        decoder.enter({place: clip(features[place % CLIPS])})
        while len(decoder.keys) > 2:
            decoder.step()
            if decoder._decoder is not None:
                widest = max(widest, decoder._decoder._attention_mask.shape[1])
    longest_prompt = max(recognizer.prompts(features, ["English"] * CLIPS).lengths)
    # A column per token of one transcript, and those of the clips that entered while it was written.
    assert widest <= 2 * (longest_prompt + CAP)


def test_a_clip_that_is_given_up_does_not_disturb_the_others(recognizer, features, expected):
    decoder = ContinuousDecoder(recognizer)
    written = decoder.enter({place: clip(features[place]) for place in range(6)})
    for place in (0, 3):
        decoder.drop(place)
    while decoder.keys:
        written |= decoder.step()
    assert set(written) - {0, 3} == {1, 2, 4, 5}
    assert not {0, 3} & set(written) or all(len(written[place].tokens) == 1 for place in {0, 3} & set(written))
    assert all(torch.equal(found.tokens, expected.tokens[place]) for place, found in written.items())
    assert decoder.step() == {}


def test_log_probabilities_are_those_of_teacher_forcing(recognizer, features, expected):
    written = run_all(
        ContinuousDecoder(recognizer), [(place, clip(features[place], scored=True)) for place in range(8)]
    )
    places = sorted(written)
    transcripts = [written[place].tokens for place in places]
    prompts = recognizer.prompts([features[place] for place in places], ["English"] * len(places))
    logits = forced_logits(recognizer, prompts, transcripts)
    lengths = torch.tensor([len(tokens) for tokens in transcripts])
    allowed = recognizer.allowed_tokens.repeat(len(logits), 1)
    allowed[lengths.cumsum(0) - lengths] = recognizer.allowed_first_tokens
    forced = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1).gather(1, torch.cat(transcripts)[:, None])[:, 0]
    found = torch.cat([written[place].log_probabilities for place in places])
    assert found.dtype == torch.float32
    assert (found <= 0).all()
    assert torch.allclose(found.double(), forced, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_gives_the_best_tokens(recognizer, features, expected, temperature):
    arrivals = [(place, clip(features[place], temperature=temperature, seed=place)) for place in range(8)]
    written = run_all(ContinuousDecoder(recognizer), arrivals)
    assert all(torch.equal(written[place].tokens, expected.tokens[place]) for place in range(8))


def test_a_sampled_clip_depends_on_its_seed_and_not_on_the_others(recognizer, features):
    def sample(seed, others):
        decoder = ContinuousDecoder(recognizer)
        arrivals = [(place, clip(features[place])) for place in range(1, 1 + others)]
        arrivals.insert(others // 2, (0, clip(features[0], temperature=1.0, seed=seed)))
        return run_all(decoder, arrivals)[0].tokens.tolist()

    assert sample(3, others=0) == sample(3, others=6)
    assert len({tuple(sample(seed, others=0)) for seed in range(5)}) > 1


def test_what_the_model_cannot_write_does_not_enter(vocabulary):
    whisper = listening_model("whisper", vocabulary)
    decoder = ContinuousDecoder(whisper)
    features = whisper.features(torch.zeros(4_000).numpy()).double()
    for bad, message in ((Clip(features, "English", 1_000), "max_new_tokens"), (Clip(features, "Elvish", 5), "Elvish")):
        with pytest.raises(InputError, match=message):
            decoder.enter({0: clip(features), 1: bad})
    assert decoder.keys == []


def test_a_context_is_read_as_by_transformers(vocabulary):
    """Beside clips without one, and with a language that is detected or given."""
    whisper = listening_model("whisper", vocabulary)
    generator = torch.Generator().manual_seed(0)
    features = [whisper.features(torch.randn(8_000, generator=generator).numpy() * 0.1).double() for _ in range(4)]
    contexts = ["", "mary met john", "two green apples please", ""]
    languages = ["English", "English", None, None]
    clips = {
        place: Clip(features[place], languages[place], CAP, context=whisper.context_ids(text, CAP) if text else ())
        for place, text in enumerate(contexts)
    }
    decoder = ContinuousDecoder(whisper)
    written = decoder.enter(clips)
    while decoder.keys:
        written |= decoder.step()
    for place, text in enumerate(contexts):
        found = written[place]
        expected = whisper.model.generate(
            **whisper.pad_features([features[place]]),
            language=found.language.lower(),
            task="transcribe",
            prompt_ids=torch.tensor(whisper.context_ids(text, CAP)) if text else None,
            max_new_tokens=CAP,
            do_sample=False,
        )[0].tolist()
        # Without prompt and stop token, which Transformers gives in some versions.
        tokens = [token for token in found.tokens.tolist() if token != whisper.stop_token_id]
        assert tokens
        assert [token for token in expected if token != whisper.stop_token_id][-len(tokens) :] == tokens
    assert written[0].language == "English"
    assert not torch.equal(written[0].tokens, written[1].tokens)


def test_a_context_that_is_too_long_or_not_taken_is_refused(vocabulary):
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens; .*; shorten it"):
        listening_model("whisper", vocabulary).context_ids("two green apples " * 20, CAP)
    with pytest.raises(InputError, match="takes no prompt"):
        listening_model("student", vocabulary).context_ids("two green apples", CAP)


def test_finished_clips_do_not_run_past_the_last_position(vocabulary):
    """A clip at its cap stays in the batch while others that entered later go on; Whisper's positions are limited."""
    whisper = listening_model("whisper", vocabulary)
    whisper.stop_token_id = -1
    features, cap = whisper.features(torch.zeros(4_000).numpy()).double(), whisper.longest_transcript
    decoder = ContinuousDecoder(whisper)
    written = decoder.enter({0: Clip(features, "English", cap)})
    for _ in range(cap - 3):
        written |= decoder.step()
    written |= decoder.enter({key: Clip(features, "English", cap) for key in range(1, 7)})
    while decoder.keys:
        written |= decoder.step()
    assert {len(found.tokens) for found in written.values()} == {cap}
    assert all(torch.equal(found.tokens, written[0].tokens) for found in written.values())


def test_an_empty_batch_keeps_no_cache(recognizer, features):
    decoder = ContinuousDecoder(recognizer)
    decoder.enter({0: clip(features[0])})
    while decoder.keys:
        decoder.step()
    assert decoder._decoder is None
