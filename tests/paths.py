"""The folder of real speech for tests. It is not part of the project and may be missing."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared folder of real speech is missing")
