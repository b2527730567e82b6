"""One sentence on what a stage's time goes into, and what would help."""

from arkasr.cost.device import Device
from arkasr.cost.estimate import StageCost

NOTICED_SHARE = 0.1  # of a step, below which waiting is not worth a word


def verdict(cost: StageCost, device: Device) -> str:
    """What holds a stage up first: no room, no work, no features, slow links, or the largest phase."""
    key = f"stages.{cost.stage}.optimization"
    if cost.peak > device.memory:
        return (
            f"does not fit: {cost.peak / 1e9:.0f} of {device.memory / 1e9:.0f} GB; the largest item is "
            f"{_largest(cost.memory)}; {_room(cost, key)}"
        )
    if cost.micro_batches < cost.devices:
        idle = cost.devices - cost.micro_batches
        return (
            f"accumulation {cost.micro_batches} leaves {idle} of {cost.devices} devices without work; "
            f"--set {key}.accumulation={cost.devices} uses them all, with "
            f"{cost.devices / cost.micro_batches:.3g} times as much audio a step"
        )
    if cost.idle > NOTICED_SHARE:
        whole = -(-cost.micro_batches // cost.devices) * cost.devices
        return (
            f"accumulation {cost.micro_batches} is no multiple of {cost.devices} devices, which stand idle "
            f"{cost.idle:.0%} of the time; --set {key}.accumulation={whole}"
        )
    if cost.data > NOTICED_SHARE * cost.seconds:
        if cost.kind == "label":
            return f"reading audio, in the process that decodes, takes {cost.data / cost.seconds:.0%} of the time"
        return (
            f"waits {cost.data / cost.seconds:.0%} of the time for features; --set "
            f"{key}.data_workers={cost.workers_needed} for every device, a core each, would keep up"
        )
    if cost.links > NOTICED_SHARE * cost.seconds:
        return (
            f"devices talk for {cost.links / cost.seconds:.0%} of the time; larger micro-batches or more of them a "
            "device make it less, as do copies instead of shares where they fit"
        )
    phase = _largest(cost.phases)
    if cost.kind == "label":
        return (
            f"{phase} takes {cost.phases[phase] / cost.seconds:.0%} of the time; a larger "
            f"stages.{cost.stage}.batch_seconds shares its passes"
        )
    return f"{phase} takes {cost.phases[phase] / cost.seconds:.0%} of the time; {_PHASES[phase]}"


_PHASES = {
    "encode": "longer clips cost more than their share, and smaller batches make it no faster",
    "rollout": "better drafts mean fewer passes, and larger batches share them",
    "teacher": "a smaller teacher, or one served by other devices, would take it off this one",
    "student": "it is the decoder and the output head; nothing in the recipe changes it but the batch",
    "backward": "that is the work itself; more devices, and as much more accumulation, share it",
    "optimizer": "more audio a step makes it a smaller share",
}


def _largest(amounts: object) -> str:
    assert isinstance(amounts, dict)
    return str(max(amounts, key=amounts.__getitem__))


def _room(cost: StageCost, key: str) -> str:
    if cost.kind == "label":
        return f"lower stages.{cost.stage}.batch_seconds"
    largest = _largest(cost.memory)
    if largest in ("activations", "scores"):
        return f"--set {key}.activation_checkpointing=true, or a smaller {key}.batch_seconds with more accumulation"
    if largest == "teacher":
        return f"--set stages.{cost.stage}.offload_teacher=true, or serve it elsewhere (docs/teachers.md)"
    return f"--set {key}.sharding=full"
