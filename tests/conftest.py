import pytest

from tests import models


@pytest.fixture(scope="session")
def vocabulary():
    return models.small_vocabulary()


@pytest.fixture
def student(vocabulary):
    return models.small_student(vocabulary)


@pytest.fixture
def teacher(vocabulary):
    return models.small_teacher(vocabulary)


@pytest.fixture
def whisper(vocabulary):
    return models.small_whisper(vocabulary)


@pytest.fixture
def noise_examples():
    """`models.noise_examples`: builds examples of noise for the given recognisers."""
    return models.noise_examples
