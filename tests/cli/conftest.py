"""One finished run of recipes/smoke.yaml for all tests of the command line."""

import pytest

from tests.cli.command import arkasr


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, cache):
    """The folder of a finished run of recipes/smoke.yaml, and the output of the command."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    finished = arkasr("run", "recipes/smoke.yaml", "--output", folder, cache=cache)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout
