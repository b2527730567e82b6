import copy
import json

import pytest
import torch

from arkasr.errors import InputError
from arkasr.recognizers.ark_asr import ArkAsr, build_ark_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.stages.opd import DistillationStage
from tests.models import SMALL_STUDENT, TEXTS
from tests.train.opd import OBJECTIVE, overfit
from tests.train.runs import SETTINGS
from tests.train.stream import Stream


def test_permuted_teacher_ids_give_the_loss_of_equal_ids(student, noise_examples):
    """A teacher with the student's weights and permuted ids gives every token string the same score."""
    twin = copy.deepcopy(student)
    order = torch.randperm(student.vocab_size, generator=torch.Generator().manual_seed(0))
    permuted = with_permuted_ids(twin, order)
    stage = DistillationStage(student, permuted, OBJECTIVE)
    loss = stage(noise_examples(student), seed=0)
    assert loss.count > 0
    assert loss.total.item() == pytest.approx(0, abs=1e-5)


def with_permuted_ids(recognizer: ArkAsr, order: torch.Tensor) -> ArkAsr:
    """The same recogniser with token `i` at id `order[i]`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    document = json.loads(recognizer.tokenizer.backend_tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {token: int(order[token_id]) for token, token_id in vocabulary.items()}
    for token in document["added_tokens"]:
        token["id"] = int(order[token["id"]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)),
        eos_token=recognizer.tokenizer.eos_token,
        pad_token=recognizer.tokenizer.pad_token,
    )
    with torch.no_grad():
        weight = recognizer.model.get_input_embeddings().weight
        weight.copy_(weight[order.argsort()].clone())
    processor = copy.copy(recognizer.processor)
    processor.tokenizer = tokenizer
    processor.audio_token_id = tokenizer.convert_tokens_to_ids(processor.audio_token)
    recognizer.model.config.audio_token_id = processor.audio_token_id
    return ArkAsr(recognizer.model, processor)


def test_different_tokenizers_are_paired_by_bytes_and_the_shares_logged(student, coarse, noise_examples, tmp_path):
    torch.manual_seed(0)
    examples = noise_examples(student)
    overfit(student, examples, tmp_path)
    loss = DistillationStage(student, coarse, OBJECTIVE)(examples, seed=0)
    values = loss.metrics.values()
    assert 0 < values["teacher/mapped_share"] < 1
    assert values["teacher/retokenised_rate"] > 0
    assert 0 < values["teacher/retokenisation_mismatch_rate"] < 1
    assert loss.count > 0


@pytest.mark.parametrize("killed_after", [None, 3])
def test_a_run_stops_if_the_teacher_can_score_too_few_tokens(student, noise_examples, tmp_path, killed_after):
    torch.manual_seed(0)
    other = build_ark_asr(SMALL_STUDENT, train_base_vocabulary(TEXTS * 3, 256))
    examples = noise_examples(student)
    overfit(student, examples, tmp_path)
    objective = OBJECTIVE.model_copy(update={"min_paired_share": 0.95})
    settings = SETTINGS.model_copy(update={"steps": 50, "learning_rate": 1e-6, "checkpoint_every": 1})
    if killed_after:
        first = settings.model_copy(update={"steps": killed_after})
        train(DistillationStage(student, other, objective), Stream([examples]), first, tmp_path / "opd", seed=0)
    with pytest.raises(InputError, match=r"objective\.min_paired_share: the teacher can score \d+%"):
        train(DistillationStage(student, other, objective), Stream([examples]), settings, tmp_path / "opd", seed=0)
    lines = read_metrics(tmp_path / "opd" / "metrics.jsonl")
    assert all(line["teacher/paired_share"] < 0.95 for line in lines)
    # The run stops after 200 tokens, those before the kill included.
    tokens = 5 * sum(line["rollout/tokens"] + line["rollout/stopped"] for line in lines)
    assert 200 - 5 * (OBJECTIVE.max_new_tokens + 1) <= tokens < 200
