"""Opens a manifest as utterances: in memory if it is small, else by its index."""

from pathlib import Path

from arkasr.data.manifests.index import open_index
from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.manifest import read_manifest
from arkasr.data.manifests.utterances import ListedUtterances, Utterances

LARGE_BYTES = 64 * 2**20  # about 200,000 lines; larger manifests are not read into memory


def open_manifest(path: str | Path) -> Utterances:
    """The utterances of a manifest: in memory if it is small, else by its index. A missing or invalid index is built.

    Raises:
        ManifestError: some lines are bad; the message names the first and counts the others.
        InputError: the file does not exist, or it holds no utterance.
    """
    path = Path(path)
    if needs_index(path):
        return IndexedUtterances(build_index(path))
    if index := open_index(path):
        return IndexedUtterances(index)
    return ListedUtterances(read_manifest(path))


def needs_index(path: Path) -> bool:
    """Whether a manifest is too large for memory and has no valid index."""
    return path.is_file() and path.stat().st_size >= LARGE_BYTES and open_index(path) is None
