import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from tests.models import small_student, small_teacher, small_vocabulary
from tests.run.inputs.corpus import set_file_times, write_rows


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    vocabulary = small_vocabulary()
    small_student(vocabulary).save(folder / "base")
    small_teacher(vocabulary).save(folder / "teacher")
    return folder


@pytest.fixture
def folder(tmp_path, models):
    """Two manifests with four utterances each, of which the last is in a tar, and the models."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    generator = np.random.default_rng(0)
    for name in ("train", "dev"):
        for index in range(4):
            soundfile.write(tmp_path / f"{name}-{index}.wav", generator.normal(size=16_000) * 0.1, 16_000)
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / f"{name}-3.wav", "3.wav")
        with tarfile.open(tmp_path / f"{name}.tar") as tar:
            member = tar.getmember("3.wav")
        rows = [{"audio": f"{name}-{n}.wav", "text": "the red book", "language": "en", "id": str(n)} for n in range(4)]
        rows[3]["audio"] = f"{name}.tar:{member.offset_data}:{member.size}"
        write_rows(tmp_path / f"{name}.jsonl", rows)
    set_file_times(tmp_path)
    return tmp_path
