import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from arkasr.errors import InputError
from arkasr.model.frames import HOP_LENGTH, WINDOW_LENGTH, audio_tokens


def plain_audio_embeddings(weights, mel, heads, merge):
    """The audio encoder and adapter in float64, one clip, one formula after the other (ark-asr-checkpoint, section 3).

    mel: [mels, T]. Returns [N, H].
    """
    get = {name: value.double().numpy() for name, value in weights.items()}.__getitem__

    def gelu(x):
        return 0.5 * x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())

    def convolve(x, kernel, bias, stride):
        padded = np.pad(x, ((0, 0), (1, 1)))
        places = range(0, padded.shape[1] - 2, stride)
        return np.stack([np.einsum("ick,ck->i", kernel, padded[:, t : t + 3]) + bias for t in places], axis=1)

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * get(f"{name}.weight") + get(f"{name}.bias")

    def rotate(vector, position, size):
        rotated = vector.copy()
        for pair in range(size // 4):
            angle = position / 10_000 ** (2 * pair / (size // 2))
            a, b = vector[2 * pair], vector[2 * pair + 1]
            rotated[2 * pair] = a * np.cos(angle) - b * np.sin(angle)
            rotated[2 * pair + 1] = b * np.cos(angle) + a * np.sin(angle)
        return rotated

    root = "audio_encoder.whisper."
    x = gelu(convolve(mel.double().numpy(), get(f"{root}conv1.weight"), get(f"{root}conv1.bias"), 1))
    x = gelu(convolve(x, get(f"{root}conv2.weight"), get(f"{root}conv2.bias"), 2)).T
    frames, width = x.shape
    size = width // heads
    for layer in range(sum(name.endswith("fc1.weight") for name in weights)):
        name = f"{root}layers.{layer}."
        normed = layer_norm(x, f"{name}self_attn_layer_norm")
        q = normed @ get(f"{name}self_attn.q_proj.weight").T + get(f"{name}self_attn.q_proj.bias")
        k = normed @ get(f"{name}self_attn.k_proj.weight").T
        v = normed @ get(f"{name}self_attn.v_proj.weight").T + get(f"{name}self_attn.v_proj.bias")
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            queries = np.stack([rotate(q[t, part], t, size) for t in range(frames)])
            keys = np.stack([rotate(k[t, part], t, size) for t in range(frames)])
            scores = np.exp(queries @ keys.T / np.sqrt(size))
            mixed[:, part] = scores / scores.sum(1, keepdims=True) @ v[:, part]
        x = x + mixed @ get(f"{name}self_attn.out_proj.weight").T + get(f"{name}self_attn.out_proj.bias")
        normed = layer_norm(x, f"{name}final_layer_norm")
        hidden = gelu(normed @ get(f"{name}fc1.weight").T + get(f"{name}fc1.bias"))
        x = x + hidden @ get(f"{name}fc2.weight").T + get(f"{name}fc2.bias")
    x = layer_norm(x, "audio_encoder.layer_norm")
    x = np.pad(x, ((0, max(merge - frames, 0)), (0, 0)))
    x = x[: len(x) // merge * merge].reshape(-1, merge * width)
    hidden = gelu(x @ get("audio_encoder.adapting.0.weight").T + get("audio_encoder.adapting.0.bias"))
    return hidden @ get("audio_encoder.adapting.2.weight").T + get("audio_encoder.adapting.2.bias")


@pytest.mark.parametrize("frames", [2, 7, 8, 9, 50, 123])
def test_the_audio_side_equals_the_formulas(student, frames):
    mel = torch.randn(40, frames, generator=torch.Generator().manual_seed(frames))
    embeddings, counts = student.model.get_audio_features(mel[None])
    expected = plain_audio_embeddings(student.model.state_dict(), mel, heads=2, merge=4)
    assert counts.tolist() == [len(expected)] == [audio_tokens(frames)]
    error = np.linalg.norm(embeddings.detach().numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-5


def test_the_decoder_is_stock_qwen2_fed_with_the_audio_embeddings(student):
    """The whole model's logits, against Transformers' own Qwen2 given the embeddings of prompt and audio."""
    config = student.model.config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: getattr(config, name) for name in (*names, "intermediate_size", "rms_norm_eps")}
    stock = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True, rope_parameters=config.rope_parameters))
    weights = {
        name: value for name, value in student.model.state_dict().items() if not name.startswith("audio_encoder")
    }
    stock.load_state_dict(weights)
    mel = torch.randn(40, 90)
    ids = torch.tensor([student.prompt_ids(90, None)])
    with torch.no_grad():
        ours = student.model(input_ids=ids, audios=mel[None]).logits
        embeddings = stock.model.embed_tokens(ids)
        embeddings[ids == config.audio_token_id] = student.model.get_audio_features(mel[None])[0]
        theirs = stock(inputs_embeds=embeddings).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [
        (400 * 160, 50),
        (3000 * 160, 375),
        (160, 1),
        (1, 1),
        (16_001, 12),
        (9 * 160, 1),
        (15 * 160, 2),
    ],
)
def test_the_number_of_audio_tokens(samples, tokens):
    assert audio_tokens(samples // HOP_LENGTH) == tokens


@pytest.mark.parametrize("samples", [1, 100, 199, 200, 201, 399, 400, 401, 1_000, 16_001, 16_160, 33_333])
def test_the_prompt_has_as_many_placeholders_as_the_model_gives_embeddings(student, teacher, samples):
    waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    for recognizer in (student, teacher):
        features = recognizer.features(waveform)
        embeddings, counts = recognizer.audio_embeddings(recognizer.pad_features([features]))
        assert len(embeddings) == counts.item() == recognizer.audio_token_count(features.shape[1])
    frames = student.features(waveform).shape[1]
    assert student.audio_token_count(frames) == audio_tokens(max(samples, WINDOW_LENGTH) // HOP_LENGTH)


def test_thirty_seconds_are_heard_whole_and_more_is_refused(student, teacher):
    for recognizer in (student, teacher):
        assert recognizer.features(np.zeros(30 * 16_000 + 159, dtype=np.float32)).shape[1] == 3_000
        with pytest.raises(InputError, match=r"the audio is 30\.5 s long and the model hears 30 s; cut it into pieces"):
            recognizer.features(np.zeros(int(30.5 * 16_000), dtype=np.float32))


def test_what_lies_in_the_padding_does_not_matter(student):
    short, long = torch.randn(40, 33), torch.randn(40, 80)
    audio = student.pad_features([short, long])
    clean, _ = student.audio_embeddings(audio)
    audio["audios"][0, :, 33:] = 1e3
    dirty, _ = student.audio_embeddings(audio)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_even_with_huge_activations(student, dtype):
    model = student.model.to(dtype)
    with torch.no_grad():
        model.audio_encoder.whisper.layers[0].fc2.weight.mul_(1e5)
        embeddings, _ = model.get_audio_features(torch.randn(1, 40, 60))
    assert embeddings.dtype == dtype
    assert embeddings.isfinite().all()


def test_a_prompt_that_does_not_fit_its_audio_is_refused(student):
    ids = torch.tensor([student.prompt_ids(90, None)])
    with pytest.raises(ValueError, match="audio tokens"):
        student.model(input_ids=ids, audios=torch.randn(1, 40, 200))
