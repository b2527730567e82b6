"""Every benchmark can be imported, so that renaming something in `arkasr` cannot break one unnoticed."""

import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", [path.stem for path in sorted(Path("benchmarks").glob("*.py"))])
def test_benchmark_can_be_imported(name):
    if name == "opd_curves":
        pytest.importorskip("matplotlib")
    importlib.import_module(f"benchmarks.{name}")
