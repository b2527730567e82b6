"""What a machine without network needs to run `benchmarks/gpu.py`: wheels and real speech, in the ignored `.gpu`.

    python -m benchmarks.gpu_carry

Writes `.gpu` anew, checks that the wheels lack nothing, and prints the call. On the machine PyTorch, Transformers and
the other packages of `THERE` are installed, arkasr is not: `PYTHONPATH` finds its source. Carries no model weights,
since the smallest Whisper in half precision (76 MB) alone is over the limit.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from arkasr.data.manifest import read_manifest, write_manifest
from arkasr.errors import InputError

FOLDER = Path(".gpu")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LIMIT_MIB = 64.0  # of the folder and the project's files together
SPEECH_MB = {"librispeech-train-piece/all.jsonl": 4.0, "an4/train.jsonl": 2.0}  # of audio, from the first line on

# pip matches a platform exactly, so that every age of the C library has to be named.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
PYTHON = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "extra": "",
}
# A package stands behind those that need it: their bounds on its version are known when its turn comes.
PACKAGES = (
    *("jiwer", "rapidfuzz"),
    *("soundfile", "cffi", "pycparser", "soxr"),
    "silero-vad",
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    "plotly",
    *("httpx2", "httpcore2", "truststore"),
    *("typing-extensions", "idna"),  # there, but pydantic and httpx2 ask for late versions
    "espeakng-loader",  # speaks the corpus of recipes/smoke.yaml
    *("wetext", "kaldifst", "contractions", "textsearch", "anyascii", "pyahocorasick"),  # its Mandarin numbers
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
    """Put one wheel of `package` into `folder`, of a version that the wheels already there agree to.

    Raises:
        InputError: the index has no such wheel, or does not answer.
    """
    asked = [
        need for wheel in folder.glob("*.whl") for need in needs_of(wheel) if canonicalize_name(need.name) == package
    ]
    bounds = SpecifierSet(",".join(str(need.specifier) for need in asked if need.specifier))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", "3.12", "--implementation", "cp"]
    command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
    command += ["--dest", str(folder), f"{package}{bounds}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise InputError(
            f"{package}{bounds}: cannot be downloaded ({said[-1]}); see PACKAGES in benchmarks/gpu_carry.py"
        )


def needs_of(wheel: Path) -> list[Requirement]:
    """What a wheel asks for on the machine, its extras left out."""
    [metadata] = distributions(path=[str(wheel)])
    return needed_there(metadata.requires or [])


def needed_there(requirements: Iterable[str]) -> list[Requirement]:
    """Those whose markers hold on the machine."""
    parsed = [Requirement(requirement) for requirement in requirements]
    return [need for need in parsed if need.marker is None or need.marker.evaluate(PYTHON)]


def check_complete(wheels: Iterable[Path], there: Mapping[str, str | None], project: Iterable[str]) -> None:
    """See that all requirements of wheels and project are met by the wheels or by what is there.

    Args:
        wheels: their files.
        there: versions of installed packages by name; None = not known, and taken to be right.
        project: the project's own requirements.

    Raises:
        InputError: names every requirement that is not met.
    """
    needs = {"arkasr": needed_there(project)}
    versions = dict(there)
    for wheel in wheels:
        name, version, *_ = parse_wheel_filename(wheel.name)
        needs[name], versions[name] = needs_of(wheel), str(version)
    unmet = []
    for asking, requirements in needs.items():
        for need in requirements:
            name = canonicalize_name(need.name)
            version = versions.get(name)
            if name not in versions or (version and not need.specifier.contains(version, prereleases=True)):
                unmet.append(f"{asking} needs {need} and finds {version or 'none'}")
    if unmet:
        raise InputError(f"{'; '.join(unmet)}: mend PACKAGES or THERE in benchmarks/gpu_carry.py")


def copy_speech(manifest: Path, folder: Path, megabytes: float) -> int:
    """Copy the first utterances of a manifest, as many as fit into `megabytes` of audio, and the corpus's licence.

    Returns:
        How many; `folder` then holds a manifest of the same name with relative paths.
    """
    folder.mkdir(parents=True)
    rows, left = [], megabytes * 1e6
    for utterance in read_manifest(manifest):
        left -= utterance.audio.stat().st_size
        if left < 0:
            break
        audio = f"flac/{len(rows):04d}{utterance.audio.suffix}"
        (folder / audio).parent.mkdir(exist_ok=True)
        shutil.copyfile(utterance.audio, folder / audio)
        rows.append({**utterance.fields, "audio": audio})
    write_manifest(folder / manifest.name, rows)
    for licence in manifest.parent.glob("LICENSE*"):
        shutil.copyfile(licence, folder / licence.name)
    return len(rows)


def bytes_of(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_size(carried: int, project: int) -> None:
    """Print both sizes in bytes and their sum.

    Raises:
        InputError: the sum is over the limit.
    """
    sizes = [f"{size / 2**20:.1f}" for size in (carried, project, carried + project)]
    print("{} MiB carried + {} MiB of the project = {} MiB".format(*sizes), f"of at most {LIMIT_MIB:.0f}")
    if carried + project > LIMIT_MIB * 2**20:
        raise InputError(f"{sizes[2]} MiB are over the limit of {LIMIT_MIB:.0f}; shorten PACKAGES or SPEECH_MB")
