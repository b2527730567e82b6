"""`benchmarks.gpu_carry`: wheels are complete, files fit the limit, speech is copied, the command names all folders."""

import json
import zipfile

import pytest
from benchmarks.gpu_carry import LIMIT_MIB, bytes_of, check_complete, check_size, command_for, copy_speech

from arkasr.data.manifests.manifest import read_manifest
from arkasr.errors import InputError


def wheel_of(folder, name, *requirements):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {x}" for x in requirements)]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


def test_a_missing_dependency_of_a_wheel_is_named(tmp_path):
    wheels = [wheel_of(tmp_path, "ear", "drum>=2", "Nerve_cell"), wheel_of(tmp_path, "nerve_cell")]
    with pytest.raises(InputError, match=r"^ear requires drum>=2, found none: correct PACKAGES") as error:
        check_complete(wheels, {}, [])
    assert "\n" not in str(error.value)


def test_installed_packages_and_requirements_of_other_systems_are_not_missing(tmp_path):
    wheel = wheel_of(
        tmp_path, "ear", "drum>=2", "old; python_version < '3.12'", "win; os_name == 'nt'", "more; extra == 'a'"
    )
    check_complete([wheel], {"drum": "2.1+local", "numpy": None}, ["numpy>=2", "ear"])


@pytest.mark.parametrize("installed", [{"drum": "1.9"}, {"drum": "3.0"}])
def test_a_version_out_of_bounds_is_named(tmp_path, installed):
    with pytest.raises(InputError, match=rf"ear requires drum<3,>=2, found {installed['drum']}"):
        check_complete([wheel_of(tmp_path, "ear", "drum<3,>=2")], installed, [])


def test_an_unmet_requirement_of_the_project_is_named():
    with pytest.raises(InputError, match=r"arkasr requires torch>=2\.10, found none"):
        check_complete([], {}, ["torch>=2.10"])


def test_files_over_the_limit_are_an_error_of_one_line(capsys):
    limit = int(LIMIT_MIB * 2**20)
    check_size(limit - 1, 1)
    assert "64.0 MiB of at most 64" in capsys.readouterr().out
    with pytest.raises(InputError, match="over the limit of 64") as error:
        check_size(limit, 2**20)
    assert "\n" not in str(error.value)


def test_the_command_names_every_folder(tmp_path):
    (tmp_path / "wheels").mkdir()
    assert "--speech" not in command_for(tmp_path)
    (tmp_path / "speech").mkdir()
    assert all(str(folder) in command_for(tmp_path) for folder in tmp_path.iterdir())


def test_the_first_utterances_are_copied_with_their_licence(tmp_path):
    corpus, copied = tmp_path / "corpus", tmp_path / "copied"
    (corpus / "flac").mkdir(parents=True)
    (corpus / "LICENSE.TXT").write_text("free")
    rows = [{"audio": f"flac/{number}.flac", "text": "yes", "speaker": "s1"} for number in range(3)]
    (corpus / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (corpus / row["audio"]).write_bytes(bytes(1000))
    assert copy_speech(corpus / "all.jsonl", copied, megabytes=0.0025) == 2
    found = read_manifest(copied / "all.jsonl")
    assert [utterance.audio for utterance in found] == [copied / row["audio"] for row in rows[:2]]
    assert bytes_of((copied / "flac").iterdir()) == 2000
    assert (copied / "LICENSE.TXT").read_text() == "free"
