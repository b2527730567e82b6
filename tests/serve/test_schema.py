"""Random requests to a server that listens, made from its own description by Schemathesis: `make test-schema`."""

import shutil
import subprocess

import pytest

from tests.serve.conftest import KEY, running

pytestmark = pytest.mark.schema


def test_answers_are_as_described(served_folder):
    command = shutil.which("schemathesis")
    if command is None:
        pytest.skip("needs Schemathesis: make test-schema")
    options = ["--checks", "all", "--max-examples", "100", "--seed", "1", "--request-timeout", "20"]
    # The description cannot say which fields exclude each other, and no random file is a recording.
    options += ["--exclude-checks", "positive_data_acceptance"]
    with running(served_folder) as server:
        address = f"{server.url}/openapi.json"
        authorization = ["--header", f"Authorization: Bearer {KEY}"]
        found = subprocess.run([command, "run", address, *authorization, *options], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
