"""Collects what `benchmarks/gpu.py` needs on a machine without network: wheels and real speech, in the ignored `.gpu`.

    python -m benchmarks.gpu_carry

Replaces `.gpu`, checks that no wheel is missing, and prints the command for the machine. PyTorch, Transformers and the
other packages of `INSTALLED` must be installed there; arkasr need not be, since `PYTHONPATH` points to its source.
Needs pip and an index. There are no model weights, because the smallest Whisper (76 MB in half precision) alone is over
the limit.
"""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.errors import InputError

FOLDER = Path(".gpu")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LIMIT_MIB = 64.0  # for the folder and the project's files together
SPEECH_MB = {"librispeech-train-piece/all.jsonl": 4.0, "an4/train.jsonl": 2.0}  # the first ones of the manifest

# pip matches a platform exactly, so every version of the C library must be listed.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
PYTHON = {"python_version": "3.12", "python_full_version": "3.12.3", "implementation_name": "cpython", "extra": ""}
SYSTEM = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
# A package comes after those that require it, because their version bounds must be known when it is downloaded.
PACKAGES = (
    *("jiwer", "rapidfuzz", "silero-vad", "plotly", "soxr", "soundfile", "cffi", "pycparser"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "httpx2", "httpcore2", "truststore"),
    *("typing-extensions", "idna"),  # installed there, but too old for pydantic and httpx2
    "espeakng-loader",  # synthesises the corpus of recipes/smoke.yaml
    *("wetext", "kaldifst", "contractions", "textsearch", "anyascii", "pyahocorasick"),  # normalises its Mandarin
    *("trl", "datasets", "multiprocess", "dill"),  # for benchmarks/objective.py; trl imports datasets
)
# Packages that the machine has, of those that the above and arkasr require; None = the version is not checked.
INSTALLED: dict[str, str | None] = {
    "accelerate": "1.15.0",
    "huggingface-hub": "1.33.0",
    "numpy": "2.5.2",
    "safetensors": "0.8.0",
    "torch": "2.11.0",
    "transformers": "5.17.0",
    **dict.fromkeys(("anyio", "click", "filelock", "fsspec", "h11", "jinja2", "narwhals", "packaging", "pandas")),
    **dict.fromkeys(("psutil", "pyarrow", "pyyaml", "rich", "tensorboard", "tqdm", "typer", "xxhash")),
}


def download(package: str, folder: Path) -> None:
    """Download a wheel of `package` whose version meets the requirements of the wheels in `folder`.

    Raises:
        InputError: pip failed, for example because the index has no such wheel.
    """
    requirements = [requirement for wheel in folder.glob("*.whl") for requirement in requirements_of(wheel)]
    bounds = ",".join(
        str(requirement.specifier)
        for requirement in requirements
        if requirement.specifier and canonicalize_name(requirement.name) == package
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", "3.12", "--implementation", "cp"]
    command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    command += ["--dest", str(folder), package + bounds]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message from pip"])[-1]
        raise InputError(f"{package}{bounds}: cannot be downloaded ({reason}); see PACKAGES in benchmarks/gpu_carry.py")


def requirements_of(wheel: Path) -> list[Requirement]:
    """Requirements of a wheel on the machine, without extras."""
    [metadata] = distributions(path=[str(wheel)])
    requirements = [Requirement(text) for text in metadata.requires or []]
    return [item for item in requirements if item.marker is None or item.marker.evaluate(PYTHON | SYSTEM)]


def check_complete(wheels: Iterable[Path], installed: Mapping[str, str | None], project: Iterable[str]) -> None:
    """Check that wheels and installed packages meet all requirements of the wheels and of the project.

    Args:
        wheels: their files.
        installed: versions of installed packages by name; None = not checked.
        project: the project's own requirements, without markers.

    Raises:
        InputError: names every requirement that is not met.
    """
    requirements, versions = {"arkasr": [Requirement(text) for text in project]}, dict(installed)
    for wheel in wheels:
        package, version, *_ = parse_wheel_filename(wheel.name)
        requirements[package], versions[package] = requirements_of(wheel), str(version)
    unmet = []
    for package, required in requirements.items():
        for requirement in required:
            name = canonicalize_name(requirement.name)
            found = versions.get(name)
            if name not in versions or (found and not requirement.specifier.contains(found, prereleases=True)):
                unmet.append(f"{package} requires {requirement}, found {found or 'none'}")
    if unmet:
        raise InputError(f"{'; '.join(unmet)}: correct PACKAGES or INSTALLED in benchmarks/gpu_carry.py")


def copy_speech(manifest: Path, folder: Path, megabytes: float) -> int:
    """Copy the first utterances of a manifest up to `megabytes`, and its licence. Returns the number of utterances."""
    rows, bytes_left = [], megabytes * 1e6
    for utterance in read_manifest(manifest):
        bytes_left -= utterance.audio.stat().st_size
        if bytes_left < 0:
            break
        copy = folder / utterance.fields["audio"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(utterance.audio, copy)
        rows.append(utterance.fields)
    write_manifest(folder / manifest.name, rows)
    for licence in manifest.parent.glob("LICENSE*"):
        shutil.copyfile(licence, folder / licence.name)
    return len(rows)


def bytes_of(files: Iterable[Path]) -> int:
    """Total size of the files among the paths."""
    return sum(path.stat().st_size for path in files if path.is_file())


def files_of_project() -> list[Path]:
    """Files that are copied to the machine anyway: tracked by Git, or untracked and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


def check_size(collected: int, project: int) -> None:
    """Print both sizes and their sum; sizes in bytes.

    Raises:
        InputError: the sum is over the limit.
    """
    sizes = [f"{size / 2**20:.1f}" for size in (collected, project, collected + project)]
    print("{} MiB in .gpu + {} MiB of the project = {} MiB".format(*sizes), f"of at most {LIMIT_MIB:.0f}")
    if collected + project > LIMIT_MIB * 2**20:
        raise InputError(f"{sizes[2]} MiB are over the limit of {LIMIT_MIB:.0f}; shorten PACKAGES or SPEECH_MB")


def command_for(folder: Path) -> str:
    """The shell command for the machine, run in the project's root; its findings go into the folder `$OUT`."""
    install = "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade"
    speech = f" --speech {folder / 'speech'}" if (folder / "speech").exists() else ""
    run = f"export PYTHONPATH={folder / 'site'}:src:. && python3 -m benchmarks.gpu --output $OUT{speech}"
    return f"{install} --target {folder / 'site'} {folder / 'wheels'}/*.whl && {run}"


def main() -> None:
    wheels = FOLDER / "wheels"
    shutil.rmtree(FOLDER, ignore_errors=True)  # pip refuses two versions of a package
    wheels.mkdir(parents=True)
    for package in PACKAGES:
        download(package, wheels)
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    check_complete(sorted(wheels.iterdir()), INSTALLED, project)
    print(f"{len(PACKAGES)} wheels, {bytes_of(wheels.iterdir()) / 2**20:.1f} MiB")
    for name, megabytes in SPEECH_MB.items():
        manifest = SHARED_DATA / name
        if not manifest.exists():
            print(f"{name}: not found, its speech is left out")
            continue
        target = FOLDER / "speech" / manifest.parent.name
        count = copy_speech(manifest, target, megabytes)
        print(f"{name}: {count} utterances, {bytes_of(target.rglob('*')) / 2**20:.1f} MiB")
    check_size(bytes_of(FOLDER.rglob("*")), bytes_of(files_of_project()))
    print(f"carry: {FOLDER}\ncommand: {command_for(FOLDER)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"gpu_carry: {error}\n")
        sys.exit(2)
