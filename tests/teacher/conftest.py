import copy

import pytest
import torch

from arkasr.teacher.replicas import Replicas
from arkasr.teacher.served import ServedTeacher
from tests.teacher.scores_server import serving


@pytest.fixture
def server(teacher):
    """A server of the teacher."""
    yield from serving(teacher)


@pytest.fixture
def second_server(teacher):
    """Another server of the teacher."""
    yield from serving(teacher)


@pytest.fixture
def other_server(teacher):
    """A server of other weights."""
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.decoder.layers[0].mlp.down_proj.weight.mul_(1.1)
    yield from serving(other)


@pytest.fixture
def serve(teacher):
    """Builds a `ServedTeacher` on given servers, with the teacher's processor."""
    made = []

    def build(*servers, in_flight=4, timeout=20.0, patience=20.0, **options):
        urls = [server.url for server in servers]
        replicas = Replicas(urls, in_flight=in_flight, timeout=timeout, patience=patience)
        made.append(ServedTeacher(teacher, replicas, **options))
        return made[-1]

    yield build
    for served in made:
        served.close()
