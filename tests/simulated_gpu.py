"""A simulated GPU: CPU tensors that report the device `cuda`, and a list of the calls that would make the host wait.

On a GPU the host runs ahead of the device. It waits when it reads a value, needs a shape that depends on values, or
copies memory that is not pinned. Time is not simulated.
"""

import sys
import traceback
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from arkasr.recognizers import device as devices

GPU, HOST = torch.device("cuda"), torch.device("cpu")
READS_VALUES = {
    *("copy_", "new_tensor"),
    *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "equal", "is_nonzero"),
    *("nonzero", "masked_select", "unique", "unique_consecutive", "_unique2", "bincount", "argwhere"),
    "repeat_interleave",
}
RETURNS_TO_HOST = {"cpu", "numpy"}


class GpuTensor(torch.Tensor):
    """A CPU tensor that reports the device `cuda`, and so does every tensor computed from it."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)


class HostWaits(TorchFunctionMode):
    """Records the calls for which the host would wait.

    Attributes:
        calls: names of the calls, in order.
        lines: source lines of the calls, in the same order.
        mixed: names of calls with tensors of both devices.
    """

    def __init__(self):
        super().__init__()
        self.calls: list[str] = []
        self.lines: list[str] = []
        self.mixed: list[str] = []

    def clear(self) -> None:
        self.calls.clear()
        self.lines.clear()

    def _record(self, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "torch/" not in frame.filename]
        caller = next(frame for frame in reversed(frames) if frame.filename != __file__)
        self.calls.append(name)
        self.lines.append(f"{name}: {caller.filename}:{caller.lineno} {caller.line}")

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        name = function.__name__
        target = keywords.get("device", next((item for item in arguments if isinstance(item, torch.device)), None))
        target_kind = None if target is None else torch.device(target).type
        tensors = _tensors_in((arguments, tuple(keywords.values())))
        on_gpu = any(isinstance(tensor, GpuTensor) for tensor in tensors)
        if on_gpu:
            self._check_gpu_call(name, arguments, tensors, target_kind)
        if target_kind != "cuda":
            result = function(*arguments, **keywords)
            is_on_host = name in RETURNS_TO_HOST or (name == "to" and target is not None)
            return _as(torch.Tensor, result) if is_on_host else result
        empty_list = isinstance(arguments[0], list) and not arguments[0] if arguments else True
        from_values = name in ("tensor", "as_tensor") and not empty_list
        if not on_gpu and (from_values or name == "to"):
            self._record(f"{name} from memory that is not pinned")
        if "device" in keywords:
            keywords["device"] = HOST
        arguments = tuple(HOST if isinstance(item, torch.device) and item == GPU else item for item in arguments)
        return _as(GpuTensor, function(*arguments, **keywords))

    def _check_gpu_call(self, name, arguments, tensors, target_kind) -> None:
        by_mask = name in ("__getitem__", "__setitem__") and _has_mask(arguments[1])
        indices_of_mask = name == "where" and len(arguments) == 1
        if name in READS_VALUES or by_mask or indices_of_mask:
            self._record(name)
        if name == "to" and (arguments[1:] == ("cpu",) or target_kind == "cpu"):
            self._record("to the host")
        on_host = any(tensor.dim() and not isinstance(tensor, GpuTensor) for tensor in tensors)
        if on_host and name not in ("__get__", "to", "__setitem__"):
            self.mixed.append(name)


def _tensors_in(items) -> list[torch.Tensor]:
    tensors = []
    for item in items:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
        elif isinstance(item, tuple | list):
            tensors += _tensors_in(item)
    return tensors


def _has_mask(index) -> bool:
    return any(tensor.dtype == torch.bool for tensor in _tensors_in((index,)))


def _as(tensor_class, result):
    return result.as_subclass(tensor_class) if isinstance(result, torch.Tensor) else result


def move_to_gpu(*modules: nn.Module) -> None:
    """Replace the weights and buffers of modules by GPU tensors; tied weights stay tied."""
    moved: dict[int, torch.Tensor] = {}
    for module in (part for root in modules for part in root.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                on_gpu = nn.Parameter(parameter.data.as_subclass(GpuTensor), parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), on_gpu)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.as_subclass(GpuTensor)


@contextmanager
def simulated_gpu(monkeypatch):
    """Record the waits inside the block. Only `to_device` copies to the GPU without a wait."""
    original = devices.to_device

    def upload(tensor, device):
        return tensor.as_subclass(GpuTensor) if device.type == "cuda" else original(tensor, device)

    for module in [module for name, module in sys.modules.items() if name.startswith("arkasr.")]:
        if getattr(module, "to_device", None) is original:
            monkeypatch.setattr(module, "to_device", upload)
    with HostWaits() as waits:
        yield waits
