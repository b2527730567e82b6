"""The parts of a model that a recipe can freeze."""

from collections import Counter

import pytest
from torch import nn


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["student", "teacher"])
def test_every_parameter_belongs_to_exactly_one_part(request, family, tied):
    recognizer = request.getfixturevalue(family)
    if not tied:
        recognizer.model.lm_head.weight = nn.Parameter(recognizer.head.detach().clone())
    parts = {part: set(map(id, recognizer.parameters_of(part))) for part in recognizer.parts}
    assert all(parts.values())
    counted = Counter(parameter for parameters in parts.values() for parameter in parameters)
    assert counted == Counter(map(id, recognizer.model.parameters()))
    assert {id(recognizer.model.get_input_embeddings().weight), id(recognizer.head)} == parts["embeddings"]


@pytest.mark.parametrize("family", ["student", "teacher"])
def test_encoder_and_adapter_are_the_audio_modules(request, family):
    recognizer = request.getfixturevalue(family)
    audio = {id(parameter) for module in recognizer.audio_modules for parameter in module.parameters()}
    assert audio == {id(parameter) for part in ("encoder", "adapter") for parameter in recognizer.parameters_of(part)}
