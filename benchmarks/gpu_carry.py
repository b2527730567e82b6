"""What a machine without network needs to run `benchmarks/gpu.py`: wheels and real speech, in the ignored `.gpu`.

    python -m benchmarks.gpu_carry

Writes `.gpu` anew, checks that the wheels lack nothing, and prints the call. On the machine PyTorch, Transformers and
the other packages of `THERE` are installed, arkasr is not: `PYTHONPATH` finds its source. Carries no model weights,
since the smallest Whisper in half precision (76 MB) alone is over the limit.
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
LIMIT_MIB = 64.0  # of the folder and the project's files together
SPEECH_MB = {"librispeech-train-piece/all.jsonl": 4.0, "an4/train.jsonl": 2.0}  # of audio, from the first line on

# pip matches a platform exactly, so that every age of the C library has to be named.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
PYTHON = {"python_version": "3.12", "python_full_version": "3.12.3", "implementation_name": "cpython", "extra": ""}
SYSTEM = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
# A package stands behind those that need it: their bounds on its version are known when its turn comes.
PACKAGES = (
    *("jiwer", "rapidfuzz", "silero-vad", "plotly", "soxr", "soundfile", "cffi", "pycparser"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "httpx2", "httpcore2", "truststore"),
    *("typing-extensions", "idna"),  # there, but pydantic and httpx2 ask for late versions
    "espeakng-loader",  # speaks the corpus of recipes/smoke.yaml
    *("wetext", "kaldifst", "contractions", "textsearch", "anyascii", "pyahocorasick"),  # normalises its Mandarin
    *("trl", "datasets", "multiprocess", "dill"),  # a row of benchmarks/objective.py; trl imports datasets
)
# What is installed there of all that the above and arkasr ask for; None = some version.
THERE: dict[str, str | None] = {
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
    """Put one wheel of `package` into `folder`, of a version that the wheels there agree to.

    Raises:
        InputError: the index has no such wheel, or does not answer.
    """
    needs = [need for wheel in folder.glob("*.whl") for need in needs_of(wheel)]
    bounds = ",".join(
        str(need.specifier) for need in needs if need.specifier and canonicalize_name(need.name) == package
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", "3.12", "--implementation", "cp"]
    command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    command += ["--dest", str(folder), package + bounds]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise InputError(f"{package}{bounds}: cannot be downloaded ({said}); see PACKAGES in benchmarks/gpu_carry.py")


def needs_of(wheel: Path) -> list[Requirement]:
    """What a wheel asks for on the machine, its extras left out."""
    [metadata] = distributions(path=[str(wheel)])
    needs = [Requirement(requirement) for requirement in metadata.requires or []]
    return [need for need in needs if need.marker is None or need.marker.evaluate(PYTHON | SYSTEM)]


def check_complete(wheels: Iterable[Path], there: Mapping[str, str | None], project: Iterable[str]) -> None:
    """See that the wheels and what is there meet all requirements of the wheels and of the project.

    Args:
        wheels: their files.
        there: versions of installed packages by name; None = not known, and taken to be right.
        project: the project's own requirements, without markers.

    Raises:
        InputError: names every requirement that is not met.
    """
    needs, versions = {"arkasr": [Requirement(requirement) for requirement in project]}, dict(there)
    for wheel in wheels:
        name, version, *_ = parse_wheel_filename(wheel.name)
        needs[name], versions[name] = needs_of(wheel), str(version)
    unmet = []
    for asking, need in ((asking, need) for asking, all_needs in needs.items() for need in all_needs):
        name = canonicalize_name(need.name)
        found = versions.get(name)
        if name not in versions or (found and not need.specifier.contains(found, prereleases=True)):
            unmet.append(f"{asking} needs {need} and finds {found or 'none'}")
    if unmet:
        raise InputError(f"{'; '.join(unmet)}: mend PACKAGES or THERE in benchmarks/gpu_carry.py")


def copy_speech(manifest: Path, folder: Path, megabytes: float) -> int:
    """Copy the first utterances of a manifest, as many as fit into `megabytes`, and its licence; returns how many."""
    rows, left = [], megabytes * 1e6
    for utterance in read_manifest(manifest):
        left -= utterance.audio.stat().st_size
        if left < 0:
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
    """Of all files among the paths."""
    return sum(path.stat().st_size for path in files if path.is_file())


def files_of_project() -> list[Path]:
    """What travels without being named: the files that Git tracks, and those that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


def check_size(carried: int, project: int) -> None:
    """Print both sizes, given in bytes, and their sum; an `InputError` if that is over the limit."""
    sizes = [f"{size / 2**20:.1f}" for size in (carried, project, carried + project)]
    print("{} MiB carried + {} MiB of the project = {} MiB".format(*sizes), f"of at most {LIMIT_MIB:.0f}")
    if carried + project > LIMIT_MIB * 2**20:
        raise InputError(f"{sizes[2]} MiB are over the limit of {LIMIT_MIB:.0f}; shorten PACKAGES or SPEECH_MB")


def call_of(folder: Path) -> str:
    """The shell command for the machine, in the project's root there; what it writes goes into the folder `$OUT`."""
    install = "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade"
    speech = f" --speech {folder / 'speech'}" if (folder / "speech").exists() else ""
    run = f"export PYTHONPATH={folder / 'site'}:src:. && python3 -m benchmarks.gpu --output $OUT{speech}"
    return f"{install} --target {folder / 'site'} {folder / 'wheels'}/*.whl && {run}"


def main() -> None:
    wheels = FOLDER / "wheels"
    shutil.rmtree(FOLDER, ignore_errors=True)  # two versions of a package would stop the installation
    wheels.mkdir(parents=True)
    for package in PACKAGES:
        download(package, wheels)
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    check_complete(sorted(wheels.iterdir()), THERE, project)
    print(f"{len(PACKAGES)} wheels, {bytes_of(wheels.iterdir()) / 2**20:.1f} MiB")
    for name, megabytes in SPEECH_MB.items():
        manifest = SHARED_DATA / name
        if not manifest.exists():
            print(f"{name}: not here, so no speech of it")
            continue
        copied = FOLDER / "speech" / manifest.parent.name
        count = copy_speech(manifest, copied, megabytes)
        print(f"{name}: {count} utterances, {bytes_of(copied.rglob('*')) / 2**20:.1f} MiB")
    check_size(bytes_of(FOLDER.rglob("*")), bytes_of(files_of_project()))
    print(f"carry: {FOLDER}\ncommand: {call_of(FOLDER)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.stderr.write(f"gpu_carry: {error}\n")
        sys.exit(2)
