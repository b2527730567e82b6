import pytest
import torch


@pytest.fixture
def student(student):
    """Weights are so large that the transcript depends on the audio."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(2.5)
    return student
