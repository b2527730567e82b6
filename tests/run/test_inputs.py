"""What a run has used from outside its folder is the same at every later use, or the run says what is not."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from arkasr.data.manifests import identity as identity_module
from arkasr.data.manifests.indexing import build_index
from arkasr.errors import InputError
from arkasr.progress import Progress
from arkasr.recipe.load import parse
from arkasr.recipe.settings import Recipe
from arkasr.run import inputs as inputs_module
from arkasr.run import resumable_work as parts_module
from arkasr.run import run as run_module
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.inputs import Inputs
from arkasr.run.run import calibrate_stage, run_one_stage, run_recipe
from tests.models import small_student, small_teacher, small_vocabulary

STEP = {"steps": 1, "batch_seconds": 10, "learning_rate": 1e-3}
FIRST, SECOND = "1" * 40, "2" * 40  # commits
THEN = 1_000_000_000  # seconds, when all files of the corpus were written


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    vocabulary = small_vocabulary()
    small_student(vocabulary).save(folder / "base")
    small_teacher(vocabulary).save(folder / "teacher")
    return folder


def age(folder):
    for path in folder.rglob("*"):
        os.utime(path, (THEN, THEN))


@pytest.fixture
def folder(tmp_path, models):
    """Two manifests of four utterances each, the last of them in a tar, and the models."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    generator = np.random.default_rng(0)
    for name in ("train", "dev"):
        for place in range(4):
            soundfile.write(tmp_path / f"{name}-{place}.wav", generator.normal(size=16_000) * 0.1, 16_000)
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / f"{name}-3.wav", "3.wav")
        with tarfile.open(tmp_path / f"{name}.tar") as tar:
            member = tar.getmember("3.wav")
        rows = [{"audio": f"{name}-{n}.wav", "text": "the red book", "language": "en", "id": str(n)} for n in range(4)]
        rows[3]["audio"] = f"{name}.tar:{member.offset_data}:{member.size}"
        write(tmp_path / f"{name}.jsonl", rows)
    age(tmp_path)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def recipe_of(folder, **sets):
    sft = {"kind": "sft", "start": "base", "train": "L", "optimization": STEP}
    opd = {
        "kind": "opd",
        "start": "base",
        "teacher": "teacher",
        "train": "P",
        "objective": {"top_k": 8, "max_new_tokens": 4},
        "optimization": STEP,
        "calibration_batches": 1,
    }
    document = {
        "name": "inputs",
        "corpus": {"folder": str(folder)},
        "sets": {
            "L": {"manifest": "train.jsonl"},
            "P": {"manifest": "train.jsonl", "labels": "withheld"},
            "dev": {"manifest": "dev.jsonl"},
        }
        | sets,
        "models": {name: {"pretrained": str(folder / name)} for name in ("base", "teacher")},
        "stages": {"sft": sft, "again": sft | {"start": "sft"}, "opd": opd},
        "variants": {"base": "base", "again": "again"},
        "evaluation": {"sets": ["dev"], "max_new_tokens": 4, "samples": 100},
    }
    return parse(Recipe, document, "test")


def session(folder, recipe=None):
    return Inputs(RunContext(recipe or recipe_of(folder), RunFolder(folder / "run", 0), torch.device("cpu")))


def use(inputs, stage="sft"):
    inputs.check_stage(stage)
    inputs.record()


def edited(path, place, **changes):
    rows = rows_of(path)
    rows[place] |= changes
    write(path, rows)


CHANGES = {
    "the text of '2' has changed": lambda folder: edited(folder / "train.jsonl", 2, text="the red boot"),
    "the language of '1' has changed": lambda folder: edited(folder / "train.jsonl", 1, language="zh"),
    "the speaker of '1' has changed": lambda folder: edited(folder / "train.jsonl", 1, speaker="x"),
    "the `duration` of '1' has changed": lambda folder: edited(folder / "train.jsonl", 1, duration=1.0),
    "`audio` or the times of '1' have changed": lambda folder: edited(folder / "train.jsonl", 1, audio="train-2.wav"),
    "another utterance replaces '2'": lambda folder: write(
        folder / "train.jsonl", [rows_of(folder / "train.jsonl")[place] for place in (0, 2, 1, 3)]
    ),
    "it has 3 utterances and had 4": lambda folder: write(folder / "train.jsonl", rows_of(folder / "train.jsonl")[:3]),
    "the audio file of '1' has another size or is gone": lambda folder: soundfile.write(
        folder / "train-1.wav", np.zeros(16_000), 16_000, subtype="FLOAT"
    ),
    "the audio file of '1' was written at another time": lambda folder: soundfile.write(
        folder / "train-1.wav", np.zeros(16_000), 16_000
    ),
    "the audio file of '3' was written at another time": lambda folder: os.utime(folder / "train.tar"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_set_that_has_changed_is_named_with_what_has_changed(folder, change):
    use(session(folder))
    use(session(folder))
    CHANGES[change](folder)
    with pytest.raises(InputError) as refused:
        use(session(folder))
    told = str(refused.value)
    assert told.startswith(f"sets.L: {folder / 'train.jsonl'}: is not what this run has used before: {change}; ")
    remedy = (
        f"; restore it, or choose another --output; deleting {folder / 'run' / 'inputs.json'} accepts what is there "
    )
    remedy += "now for what is still to be computed"
    assert told.endswith(f"{remedy}, as is right for a copy" if "another time" in change else remedy)
    assert rows_of(folder / "train.jsonl")
    shutil.rmtree(folder / "run")
    use(session(folder))


def test_a_change_within_a_session_is_seen_at_the_next_stage(folder):
    inputs = session(folder)
    use(inputs)
    os.utime(folder / "train-0.wav")
    with pytest.raises(InputError, match="the audio file of '0' was written at another time"):
        use(inputs, "again")


def test_only_what_the_recipe_sees_counts(folder):
    use(session(folder), "opd")
    rows = [row | {"text": "other labels", "note": "new"} for row in rows_of(folder / "train.jsonl")]
    write(folder / "train.jsonl", rows)
    inputs = session(folder)
    recorded = inputs.path.read_bytes()
    use(inputs, "opd")  # its labels are withheld
    (folder / "dev.jsonl").rename(folder / "elsewhere.jsonl")
    use(session(folder), "opd")  # it does not look there
    assert inputs.path.read_bytes() == recorded


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model: os.utime(model / "model.safetensors"), "model.safetensors was written at another time; restore"),
        (lambda model: (model / "config.json").write_text("{}"), "config.json has another size; restore"),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is gone; restore"),
        (lambda model: (model / "adapter.json").write_text("{}"), "adapter.json is new; remove"),
    ],
)
@pytest.mark.parametrize("name", ["base", "teacher"])
def test_a_model_that_was_trained_anew_is_named(folder, name, change, told):
    use(session(folder), "opd")
    change(folder / name)
    with pytest.raises(InputError) as refused:
        use(session(folder), "opd")
    assert str(refused.value).startswith(
        f"models.{name}: {folder / name}: is not what this run has used before: {told} it, or choose another --output"
    )


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub that cannot be reached, with two commits of `org/base` in the cache; the file that says which is `main`."""
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--org--base"
    shutil.copytree(folder / "base", cached / "snapshots" / FIRST)
    torch.manual_seed(7)
    other = small_student(small_vocabulary())
    torch.nn.init.ones_(next(other.model.parameters()))
    other.save(cached / "snapshots" / SECOND)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(FIRST)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cached / "refs" / "main"


def test_of_a_hub_name_the_recorded_commit_is_loaded_wherever_the_branch_points(folder, hub):
    recipe = recipe_of(folder)
    recipe.models["base"] = recipe.models["base"].model_copy(update={"pretrained": "org/base"})
    inputs = session(folder, recipe)
    inputs.check_stage("sft")
    hub.write_text(SECOND)  # between the look and the loading
    loaded = [inputs._context.recognizer("base", 0)]
    inputs.record()
    assert json.loads((folder / "run" / "inputs.json").read_text())["models"]["base"] == {"commit": FIRST}
    for use_it in (lambda inputs: use(inputs, "opd"), lambda inputs: inputs.check_variant("base")):
        inputs = session(folder, recipe)
        use_it(inputs)
        assert inputs._context.model("base").revision == FIRST
        loaded.append(inputs._context.recognizer("base", 0))
    for recognizer in loaded:
        assert not (next(recognizer.model.parameters()) == 1).all()
    elsewhere = session(folder, recipe)
    elsewhere.path.unlink()
    elsewhere = session(folder, recipe)
    use(elsewhere)
    assert (next(elsewhere._context.recognizer("base", 0).model.parameters()) == 1).all()


def test_a_copy_is_accepted_when_the_record_is_deleted(folder):
    use(session(folder))
    os.utime(folder / "train-0.wav")
    with pytest.raises(InputError, match=r"deleting .* accepts what is there now") as refused:
        use(session(folder))
    Path(str(refused.value).rpartition("deleting ")[2].partition(" accepts")[0]).unlink()
    use(session(folder))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{", ""),
        ("[]", ""),
        ('{"sets": {"L": {}}, "models": {}}', " (sets.L)"),
        ('{"sets": {"L": {"utterances": 4, "size": "0", "text": 3}}, "models": {}}', " (sets.L)"),
        ('{"sets": {}, "models": {"base": {"files": {"config.json": 3}}}}', " (models.base)"),
        ('{"sets": {}, "models": {"base": {}}}', " (models.base)"),
    ],
)
def test_a_damaged_record_is_one_line(folder, content, place):
    (folder / "run").mkdir()
    (folder / "run" / "inputs.json").write_text(content)
    with pytest.raises(InputError) as refused:
        use(session(folder))
    assert str(refused.value) == (
        f"{folder / 'run' / 'inputs.json'}: is damaged{place}; delete it to accept the present inputs for what is "
        "still to be computed"
    )


def test_what_may_not_be_read_or_written_is_one_line_on_all_processes(folder, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refused)
        with pytest.raises(InputError, match="base: Permission denied; check path, permissions"):
            use(session(folder))
    inputs = session(folder)
    (folder / "run").write_text("a file in the place of the folder")
    with pytest.raises(InputError, match=r"run: File exists; check path, permissions"):
        use(inputs)
    (folder / "run").unlink()
    (folder / "run" / "inputs.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"inputs\.json: Is a directory; check path and permissions"):
        session(folder)


def test_a_manifest_that_goes_is_named_with_a_remedy(folder):
    inputs = session(folder)
    use(inputs)
    (folder / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"sets\.L: .*train\.jsonl: no such manifest; restore it"):
        use(inputs)


def test_a_large_set_is_known_by_the_lines_of_its_index_and_a_sample_of_its_files(folder, monkeypatch):
    monkeypatch.setattr(identity_module, "FULL_CHECK_LIMIT", 20)
    monkeypatch.setattr(inputs_module, "LARGE_BYTES", 0)
    rows = [rows_of(folder / "train.jsonl")[0] | {"id": f"u{number}"} for number in range(100)]
    rows[95]["audio"] = "train-1.wav"
    write(folder / "train.jsonl", rows)
    for settings in ({}, {"shuffle": 1}):
        write(folder / "train.jsonl", rows)
        build_index(folder / "train.jsonl")
        recipe = recipe_of(folder, L={"manifest": "train.jsonl", **settings})
        use(session(folder, recipe))
        recorded = json.loads((folder / "run" / "inputs.json").read_text())["sets"]["L"]
        assert "text" not in recorded
        assert len(recorded["size"]) == 8 * 20
        edited(folder / "train.jsonl", 40, text="the red boot")
        build_index(folder / "train.jsonl")
        with pytest.raises(InputError, match=r"the line of one of the utterances 41 to 41 in the order of the"):
            use(session(folder, recipe))
        write(folder / "train.jsonl", rows)
        build_index(folder / "train.jsonl")
        use(session(folder, recipe))
        (folder / "run" / "inputs.json").unlink()
    use(session(folder, recipe_of(folder)))
    with pytest.raises(InputError, match="its utterances are in another order"):
        use(session(folder, recipe_of(folder, L={"manifest": "train.jsonl", "shuffle": 1})))
    os.utime(folder / "train-1.wav")
    with pytest.raises(InputError, match="the audio file of 'u95' was written at another time"):
        use(session(folder, recipe_of(folder)))


def test_the_built_in_speech_may_be_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("ARKASR_CACHE", str(tmp_path / "cache"))
    synthetic = {"seed": 1, "train_utterances": 2, "dev_utterances": 1, "test_utterances": 1}
    recipe = recipe_of(tmp_path)
    document = recipe.model_dump(mode="json")
    document["corpus"] = {"synthetic": synthetic}
    document["models"] = {"base": {"preset": "ark-asr-tiny"}, "teacher": {"preset": "qwen3-asr-tiny"}}
    document["tokenizer"] = {"texts": "dev", "vocab_size": 300}
    document["evaluation"]["sets"] = []
    recipe = parse(Recipe, document, "test")
    inputs = session(tmp_path, recipe)
    use(inputs)
    assert set(json.loads((tmp_path / "run" / "inputs.json").read_text())["sets"]) == {"L", "dev"}
    corpus = inputs._context.corpus
    age(corpus)  # the same bytes, of another day
    use(session(tmp_path, recipe))
    edited(corpus / "train.jsonl", 0, text="something else")
    with pytest.raises(InputError, match=r"the text of .* has changed"):
        use(session(tmp_path, recipe))


def test_a_run_that_goes_on_with_other_data_stops_before_it_computes(folder):
    recipe, path = recipe_of(folder), folder / "run"
    run_one_stage(recipe, "sft", path, resume=False, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["models"]) == {"base"}
    edited(folder / "train.jsonl", 0, text="another label")
    with pytest.raises(InputError, match=r"sets\.L: .*the text of '0' has changed"):
        run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert not (path / "stages" / "again").exists()
    edited(folder / "train.jsonl", 0, text="the red book")
    run_recipe(recipe, path, resume=True, progress=Progress())
    before = (path / "results.json").read_bytes()
    (path / "evaluations" / "again" / "dev.jsonl").unlink()
    edited(folder / "dev.jsonl", 0, text="another reference")
    with pytest.raises(InputError, match=r"sets\.dev: .*the text of '0' has changed"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    assert (path / "results.json").read_bytes() == before
    assert (path / "evaluations" / "base" / "dev.jsonl").exists()


def test_a_run_of_before_the_record_goes_on_and_a_set_that_is_refused_is_not_recorded(folder):
    recipe, path = recipe_of(folder), folder / "run"
    run_one_stage(recipe, "sft", path, resume=False, progress=Progress())
    (path / "inputs.json").unlink()
    edited(folder / "train.jsonl", 0, text=None)
    with pytest.raises(InputError, match="0 has no `text`, and this stage learns from labels"):
        run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert not (path / "inputs.json").exists()
    edited(folder / "train.jsonl", 0, text="mended")
    run_one_stage(recipe, "again", path, resume=True, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["sets"]) == {"L"}


class KilledError(BaseException):
    """Ends a run at once."""


def killed_behind(monkeypatch, whose, name, run):
    """Run until a function has returned for the first time."""
    function = getattr(whose, name)

    def killed(*arguments, **others):
        function(*arguments, **others)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(whose, name, killed)
        with pytest.raises(KilledError):
            run()


def test_a_transcript_that_a_kill_cut_short_is_not_completed_by_another_model(folder, monkeypatch):
    document = recipe_of(folder).model_dump(mode="json")
    recipe, path = parse(Recipe, document | {"stages": {}, "variants": {"base": "base"}}, "test"), folder / "run"
    monkeypatch.setattr(parts_module, "MAX_PART_UTTERANCES", 2)
    begin = partial(run_recipe, recipe, path, resume=False, progress=Progress())
    killed_behind(monkeypatch, parts_module.ResumableWork, "do", begin)
    assert [part.name for part in path.glob("evaluations/base/dev.parts/*")] == ["0-2.jsonl"]
    os.utime(folder / "base" / "model.safetensors")
    with pytest.raises(InputError, match=r"models\.base: .*model\.safetensors was written at another time"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    age(folder / "base")
    run_recipe(recipe, path, resume=True, progress=Progress())


def with_labels(folder):
    """A label stage, and one that trains on its labels."""
    document = recipe_of(folder).model_dump(mode="json")
    label = {"kind": "label", "start": "teacher", "audio": "P", "drop_failures": False, "max_new_tokens": 4}
    document["stages"] = {"label": label, "learn": document["stages"]["sft"] | {"train": "label"}}
    document["evaluation"]["sets"] = []
    return parse(Recipe, document | {"variants": {}}, "test")


def test_labels_are_not_learnt_on_audio_that_has_changed_under_them(folder, monkeypatch):
    recipe, path = with_labels(folder), folder / "run"
    begin = partial(run_recipe, recipe, path, resume=False, progress=Progress())
    killed_behind(monkeypatch, run_module, "run_label_stage", begin)
    assert (path / "stages" / "label" / "labels.jsonl").exists()
    soundfile.write(folder / "train-1.wav", np.random.default_rng(1).normal(size=16_000) * 0.1, 16_000)
    with pytest.raises(InputError, match=r"sets\.P: .*the audio file of '1' was written at another time"):
        run_recipe(recipe, path, resume=True, progress=Progress())
    assert not (path / "stages" / "learn").exists()


def test_a_teacher_that_cannot_be_loaded_is_not_recorded(folder):
    recipe, path = with_labels(folder), folder / "run"
    weights = folder / "teacher" / "model.safetensors"
    weights.rename(folder / "away")
    with pytest.raises(InputError, match=r"model .*teacher"):
        run_recipe(recipe, path, resume=False, progress=Progress())
    assert not (path / "inputs.json").exists()
    (folder / "away").rename(weights)
    run_recipe(recipe, path, resume=True, progress=Progress())
    assert set(json.loads((path / "inputs.json").read_text())["models"]) == {"base", "teacher"}


def test_a_test_set_may_be_mended_until_something_is_evaluated_on_it(folder):
    recipe, path = recipe_of(folder), folder / "run"
    edited(folder / "train.jsonl", 0, text=None)
    with pytest.raises(InputError, match="0 has no `text`, and this stage learns from labels"):
        run_recipe(recipe, path, resume=False, progress=Progress())
    edited(folder / "train.jsonl", 0, text="the red book")
    edited(folder / "dev.jsonl", 0, text="the red boot")
    run_recipe(recipe, path, resume=True, progress=Progress())
    assert "dev" in json.loads((path / "inputs.json").read_text())["sets"]


def test_calibrate_compares_and_writes_nothing(folder):
    recipe, path = recipe_of(folder), folder / "run"
    calibrate_stage(recipe, "opd", path)
    assert not path.exists()
    use(session(folder), "opd")
    os.utime(folder / "teacher" / "model.safetensors")
    with pytest.raises(InputError, match=r"models\.teacher: .*model\.safetensors was written at another time"):
        calibrate_stage(recipe, "opd", path)


def test_two_processes_say_it_once(folder):
    document = recipe_of(folder).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "arkasr"]
    command += ["run", str(folder / "recipe.yaml"), "--output", str(folder / "run"), "--resume"]

    def run():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    first = run()
    assert first.returncode == 0, first.stderr
    shutil.rmtree(folder / "run" / "stages" / "opd")
    os.utime(folder / "train-2.wav")
    finished = run()
    assert finished.returncode != 0
    said = [line for line in finished.stderr.splitlines() if line.startswith("arkasr: ")]
    assert len(said) == 1
    assert "sets.P: " in said[0]
    assert "the audio file of '2' was written at another time" in said[0]
