from pathlib import Path

import pytest

from tests.report.example_run import build_run


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    """A finished run: six variants, two test sets of four utterances, one seed."""
    return build_run(tmp_path / "run")
