import pytest

from tests.models import noise_examples, small_student, small_teacher, small_vocabulary


@pytest.fixture(scope="session")
def vocabulary():
    return small_vocabulary()


@pytest.fixture
def student(vocabulary):
    return small_student(vocabulary)


@pytest.fixture
def teacher(vocabulary):
    return small_teacher(vocabulary)


@pytest.fixture
def hear():
    """Examples of noise that say something, as the given recognisers hear them."""
    return noise_examples
