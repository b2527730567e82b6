"""An uploaded file as a path that the decoders open as often as they need.

On Linux the file has no name on the disk, so nothing is left of it when the process ends, however it ends.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

from arkasr.scratch import scratch_folder


@contextmanager
def path_of(upload: BinaryIO) -> Iterator[Path]:
    """A path to the upload, until the context ends.

    On Linux it is that of the open file. Other systems have no such path, so a copy gets a name in the scratch folder,
    which the next server removes if this one is killed.

    Args:
        upload: a file of Python's `tempfile`.
    """
    if sys.platform == "linux":
        upload.flush()
        yield Path(f"/proc/self/fd/{upload.fileno()}")
        return
    with NamedTemporaryFile(dir=scratch_folder()) as file:
        upload.seek(0)
        shutil.copyfileobj(upload, file)
        file.flush()
        yield Path(file.name)
