"""The full-size 0.6B, published layout and random weights, against the plain float64 formulas: run once, no ratio.

    python -m benchmarks.parity --audio CLIP

Writes the checkpoint (4.6 GB) into a temporary folder, loads it through the Auto classes, and prints the largest
difference of audio embeddings and logits relative to the largest value.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from tests import published, reference_ark_asr
from transformers import AutoModelForCausalLM, AutoProcessor

import arkasr  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.data.audio import decode_audio
from arkasr.model.processor import transcription_conversation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--size", choices=["0.6b", "3b"], default="0.6b")
    options = parser.parse_args()
    sizes = published.SIZES[options.size]
    waveform = decode_audio(options.audio)
    with tempfile.TemporaryDirectory() as folder:
        weights = published.write_checkpoint(folder, sizes, lm_head=False, shards=3)
        model = AutoModelForCausalLM.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(transcription_conversation(waveform), add_generation_prompt=True)
    ids = torch.cat((inputs["input_ids"][0], torch.tensor([4321, 99, 151_645])))
    with torch.no_grad():
        embeddings, _ = model.get_audio_features(inputs["audios"])
        logits = model(input_ids=ids[None], audios=inputs["audios"]).logits[0]
    del model
    audio = reference_ark_asr.audio_embeddings(
        weights, inputs["audios"][0], sizes["whisper_config"]["encoder_attention_heads"]
    )
    heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    plain = reference_ark_asr.logits(weights, ids, audio, *heads, audio_token_id=151_663)
    parameters = sum(tensor.numel() for name, tensor in weights.items() if name != "lm_head.weight")
    print(f"{options.size}: {parameters:,} parameters, {len(waveform) / 16_000:.1f} s, {len(ids)} positions")
    for name, found, expected in (("embeddings", embeddings, audio), ("logits", logits, plain)):
        difference = (found.double() - expected).abs().max() / expected.abs().max()
        agreeing = (found.argmax(-1) == expected.argmax(-1)).float().mean()
        print(f"{name}: largest relative difference {difference:.1e}, same argmax {agreeing:.1%}")


if __name__ == "__main__":
    main()
