import pytest
import torch
from transformers import StaticCache

from arkasr.recognizers.scoring import positions

LENGTHS = (60, 33, 47)


@pytest.fixture
def audio(student):
    generator = torch.Generator().manual_seed(0)
    return student.pad_features([torch.randn(40, length, generator=generator) for length in LENGTHS])


def test_every_attention_implementation_gives_the_same_embeddings(student, audio):
    student.model.set_attn_implementation("sdpa")
    expected, counts = student.audio_embeddings(audio)
    student.model.set_attn_implementation("eager")
    found, again = student.audio_embeddings(audio)
    assert torch.equal(counts, again)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_encoder_compiles_to_one_graph(student, audio, dtype):
    model = student.model.to(dtype)
    mel, mask = audio["audios"].to(dtype), audio["audios_mask"].bool()
    expected, counts = model.audio_encoder(mel, mask)
    compiled = torch.compile(model.audio_encoder, fullgraph=True, backend="aot_eager")
    found, again = compiled(mel, mask)
    assert torch.equal(counts, again)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_a_decode_step_compiles_to_one_graph(student, audio):
    model = student.model.eval()
    prompts = student.prompts([torch.randn(40, length) for length in LENGTHS], [None] * 3)
    width = prompts.input_ids.shape[1]
    mask = torch.cat((prompts.attention_mask, torch.ones(3, 1, dtype=torch.long)), dim=1)
    step = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    token = torch.tensor([[5], [7], [9]])
    written = []
    with torch.no_grad():
        for forward in (model.forward, step):
            cache = StaticCache(config=model.config, max_cache_len=width + 1)
            model(
                input_ids=prompts.input_ids,
                attention_mask=prompts.attention_mask,
                past_key_values=cache,
                use_cache=True,
                **prompts.audio,
            )
            output = forward(
                input_ids=token,
                attention_mask=mask,
                position_ids=positions(mask)[:, -1:],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            written.append(output.logits)
    torch.testing.assert_close(*written, rtol=1e-5, atol=1e-5)
    assert not torch.equal(written[0][0], written[0][1])


def test_float16_states_are_clamped(student):
    layer = student.model.half().audio_encoder.whisper.layers[0]
    hidden = torch.full((1, 4, 32), 60_000.0, dtype=torch.float16)
    with torch.no_grad():
        layer.fc2.bias.fill_(30_000.0)
        cos = torch.ones(4, 4, dtype=torch.float16)
        found = layer(hidden, (cos, torch.zeros_like(cos)), None)
    assert found.max() == torch.tensor(64_504.0).half()
