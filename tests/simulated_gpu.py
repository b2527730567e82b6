"""A GPU that is not there: tensors of the CPU that say they are on one, and a count of what makes the host wait.

On a GPU the host runs ahead of the device until it asks for a value, for a shape that depends on values, or copies
from memory that is not pinned. Code that asks here would wait there. Knows nothing of time.
"""

import sys
import traceback
from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from arkasr.recognizers import device as devices

GPU, HOST = torch.device("cuda"), torch.device("cpu")
ASKS_FOR_VALUES = {
    *("copy_", "new_tensor"),
    *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "equal", "is_nonzero"),
    *(
        "nonzero",
        "masked_select",
        "unique",
        "unique_consecutive",
        "_unique2",
        "bincount",
        "argwhere",
        "repeat_interleave",
    ),
}
LEAVES_THE_DEVICE = {"cpu", "numpy"}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the GPU, and so do all that are computed from it."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)


class Waits(TorchFunctionMode):
    """What the host has asked the device, call by call, in `asked`; `mixed` holds calls with tensors of both.

    `where` says which line asked, in the order of `asked`.
    """

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []
        self.where: list[str] = []
        self.mixed: list[str] = []

    def _ask(self, what: str) -> None:
        lines = [frame for frame in traceback.extract_stack() if "torch/" not in frame.filename]
        asking = next(frame for frame in reversed(lines) if frame.filename != __file__)
        self.asked.append(what)
        self.where.append(f"{what}: {asking.filename}:{asking.lineno} {asking.line}")

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        name = function.__name__
        tensors = _tensors_in((arguments, tuple(keywords.values())))
        on_device = any(isinstance(tensor, OnDevice) for tensor in tensors)
        target = keywords.get("device", next((item for item in arguments if isinstance(item, torch.device)), None))
        by_mask = name in ("__getitem__", "__setitem__") and _by_mask(arguments)
        places = name == "where" and len(arguments) == 1
        if on_device and (name in ASKS_FOR_VALUES or by_mask or places):
            self._ask(name)
        to_host = arguments[1:] == ("cpu",) or (target is not None and torch.device(target).type == "cpu")
        if on_device and name == "to" and to_host:
            self._ask("to the host")
        if (
            on_device
            and name not in ("__get__", "to", "__setitem__")
            and any(tensor.dim() and not isinstance(tensor, OnDevice) for tensor in tensors)
        ):
            self.mixed.append(name)
        if target is not None and torch.device(target).type == "cuda":
            copied = (
                name in ("tensor", "as_tensor")
                and not on_device
                and not (isinstance(arguments[0], list) and not arguments[0])
            )
            if copied or (name == "to" and not on_device):
                self._ask(f"{name} from memory that is not pinned")
            if "device" in keywords:
                keywords["device"] = HOST
            arguments = tuple(HOST if isinstance(item, torch.device) and item == GPU else item for item in arguments)
            return _as(OnDevice, function(*arguments, **keywords))
        result = function(*arguments, **keywords)
        if name in LEAVES_THE_DEVICE or (name == "to" and target is not None):
            return _as(torch.Tensor, result)
        return result


def _tensors_in(items) -> list[torch.Tensor]:
    found = []
    for item in items:
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, tuple | list):
            found += _tensors_in(item)
    return found


def _by_mask(arguments) -> bool:
    return any(tensor.dtype == torch.bool for tensor in _tensors_in((arguments[1],)))


def _as(kind, result):
    return result.as_subclass(kind) if isinstance(result, torch.Tensor) else result


def put_on_device(*modules: nn.Module) -> None:
    """Have the weights and buffers of modules say that they are on the device; tied ones stay tied."""
    moved: dict[int, torch.Tensor] = {}
    for module in (part for whole in modules for part in whole.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = nn.Parameter(parameter.data.as_subclass(OnDevice), parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), there)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.as_subclass(OnDevice)


@contextmanager
def simulated_gpu(monkeypatch):
    """Inside the block, tensors go to the device without a wait by `to_device` only."""
    real = devices.to_device

    def upload(tensor, device):
        return tensor.as_subclass(OnDevice) if device.type == "cuda" else real(tensor, device)

    for module in [module for name, module in sys.modules.items() if name.startswith("arkasr.")]:
        if getattr(module, "to_device", None) is real:
            monkeypatch.setattr(module, "to_device", upload)
    with Waits() as waits:
        yield waits
