"""Commands on the models of a finished run, and the commands of the README."""

import json
import shlex
import shutil

from arkasr.data.manifests.manifest import read_rows, write_manifest
from tests.cli.command import ROOT, arkasr, english_test_set


def test_calibrate_prints_metrics_and_doubts(smoke, cache):
    folder, _ = smoke
    finished = arkasr("calibrate", "recipes/smoke.yaml", "--output", folder, "--stage", "opd", cache=cache)
    assert finished.returncode == 0, finished.stderr
    assert "support/vuss_mean" in finished.stdout
    assert "OPD may not work: " in finished.stdout


def test_models_can_be_evaluated_compared_and_used_for_labels(smoke, cache, tmp_path):
    folder, _ = smoke
    manifest = english_test_set(cache)
    outputs = []
    for stage in ("base", "opd"):
        outputs.append(tmp_path / f"{stage}.jsonl")
        model = folder / "stages" / stage / "model"
        finished = arkasr(
            "evaluate", manifest, "--model", model, "-o", outputs[-1], "--max-new-tokens", 12, cache=cache
        )
        assert finished.returncode == 0, finished.stderr
        assert "normalizer basic@2" in finished.stdout
    compared = arkasr("compare", *outputs, cache=cache)
    assert compared.returncode == 0, compared.stderr
    assert "permutation" in compared.stdout
    labelled = arkasr(
        "label",
        manifest,
        "--teacher",
        folder / "stages" / "teacher" / "model",
        "-o",
        tmp_path / "labels.jsonl",
        "--max-new-tokens",
        12,
        cache=cache,
    )
    assert labelled.returncode == 0, labelled.stderr
    assert "kept=" in labelled.stdout


def test_a_manifest_of_two_languages_is_scored_by_language(smoke, cache, tmp_path):
    folder, _ = smoke
    corpus = english_test_set(cache).parent
    rows = read_rows(corpus / "en-clean.jsonl") + read_rows(corpus / "zh-read.jsonl")
    write_manifest(corpus / "both.jsonl", rows)
    outputs = [tmp_path / "base.jsonl", tmp_path / "opd.jsonl"]
    for output in outputs:
        model = folder / "stages" / output.stem / "model"
        arguments = ["--model", model, "-o", output, "--max-new-tokens", 12]
        finished = arkasr("evaluate", corpus / "both.jsonl", *arguments, cache=cache)
        assert finished.returncode == 0, finished.stderr
        lines = finished.stdout.splitlines()
        assert [line[:13] for line in lines[-2:]] == ["English: wer ", "Chinese: cer "]
    compared = arkasr("compare", *outputs, cache=cache)
    assert compared.returncode == 0, compared.stderr
    differences = [line for line in compared.stdout.splitlines() if "permutation" in line]
    assert [line.split(": ")[1] for line in differences] == ["English", "Chinese"]
    counts = [f"{sum(row['language'] == language for row in rows)} utterances" for language in ("English", "Chinese")]
    assert all(count in line for count, line in zip(counts, differences, strict=True))


def test_the_commands_of_the_readme_run_unchanged(smoke, cache, tmp_path, monkeypatch):
    """Files of the smoke run get the names that the README uses for the reader's own files.

    Models of the hub are replaced by one of the run. Servers do not end; `tests/serve` starts them.
    """
    folder, _ = smoke
    readme = (ROOT / "README.md").read_text()
    fenced = "".join(readme.split("```")[1::2])
    lines = [line.split("#")[0].strip() for line in fenced.splitlines() if line.startswith("arkasr ")]
    lines = [line.replace("openai/whisper-base", "runs/mine/stages/opd/model") for line in lines]
    commands = [line for line in lines if not line.startswith("arkasr serve ")]
    assert len(commands) >= 6
    corpus = next(cache.glob("synthetic-*/en-clean.jsonl")).parent
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(corpus / "en-clean.jsonl", tmp_path / "test.jsonl")
    shutil.copyfile(ROOT / "recipes" / "smoke.yaml", tmp_path / "my-recipe.yaml")
    shutil.copyfile(sorted(corpus.rglob("*.flac"))[0], tmp_path / "meeting.mp3")
    (tmp_path / "recordings").mkdir()
    shutil.copyfile(sorted(corpus.rglob("*.flac"))[1], tmp_path / "recordings" / "a.flac")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(folder)
    shutil.copyfile(folder / "evaluations" / "base+sft" / "en-clean.jsonl", tmp_path / "sft.jsonl")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        finished = arkasr(*shlex.split(command)[1:], cache=cache)
        assert finished.returncode == 0, f"{command}\n{finished.stderr}"
    results = json.loads((tmp_path / "runs" / "smoke" / "results.json").read_text())
    assert results["seeds"] == [0, 1, 2]
    assert len(results["rows"]) == 5 + 5 * 5 * 3
