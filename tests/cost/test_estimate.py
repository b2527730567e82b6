"""What a plan says of recipes and clusters."""

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arkasr.cli import main
from arkasr.cost.assumptions import Assumptions, passes_left
from arkasr.cost.device import DEVICES, device_called
from arkasr.cost.estimate import Cluster, Plan
from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import Recipe

PAPER = Path("recipes/ark-asr-0.6b.yaml")
H100 = DEVICES["h100"]


def plan_of(devices, *overrides, device=H100, assumed=None):
    return Plan(load_settings(Recipe, PAPER, list(overrides)), Cluster(device, devices), assumed or Assumptions())


def costs_of(devices, *overrides, device=H100, assumed=None):
    return {cost.stage: cost for cost in plan_of(devices, *overrides, device=device, assumed=assumed).costs()}


def test_more_devices_never_take_longer_until_the_accumulation_is_used_up():
    days = [costs_of(devices)["opd"].days(1000) for devices in (1, 2, 3, 4, 6, 8, 12, 24)]
    assert days == sorted(days, reverse=True)
    assert days[-1] < days[0] / 12


def test_devices_beyond_the_accumulation_have_no_work():
    assert costs_of(32)["opd"].days(1) >= costs_of(24)["opd"].days(1)


def test_devices_that_do_not_divide_the_accumulation_need_a_last_partial_round():
    assert costs_of(16)["base"].rounds == costs_of(12)["base"].rounds == 2


def test_phases_and_waits_add_up_to_the_step():
    for cost in costs_of(24).values():
        assert math.isclose(cost.seconds, sum(cost.phases.values()) + cost.links + cost.slowest + cost.data)
        assert math.isclose(cost.days(1) * 86_400 * cost.audio, 3600 * cost.seconds)


def test_shares_take_less_memory_and_more_talk_than_copies():
    copies, shares = (
        costs_of(24, f"stages.opd.optimization.sharding={sharding}")["opd"] for sharding in ("none", "full")
    )
    assert shares.memory["moments"] == copies.memory["moments"] / 24
    assert shares.peak < copies.peak


def test_enough_data_workers_leave_nothing_to_wait_for():
    deaf = H100.model_copy(update={"hearing": 20.0})
    cost = costs_of(24, device=deaf)["opd"]
    assert cost.data > 0
    assert costs_of(24, "stages.opd.optimization.data_workers=1000", device=deaf)["opd"].data == 0


def test_activation_checkpointing_takes_less_memory_and_more_time():
    cost = costs_of(24)["opd"]
    remedied = costs_of(24, "stages.opd.optimization.activation_checkpointing=true")["opd"]
    assert remedied.peak < 0.6 * cost.peak
    assert remedied.phases["backward"] > cost.phases["backward"]


def test_shares_that_write_are_counted_at_their_worst_moment():
    """Stages that write nothing never hold the whole student; while it writes, its decoder has kept nothing yet."""
    sharded = [f"stages.{name}.optimization.sharding=full" for name in ("base", "opd")]
    costs = costs_of(24, *sharded)
    assert costs["opd"].memory["in use"] == costs["base"].memory["in use"] < 1e9
    assert costs["opd"].memory["activations"] == costs["base"].memory["activations"]
    keeping = [f"stages.opd.optimization.{value}" for value in ("activation_checkpointing=true", "batch_seconds=30")]
    writing = costs_of(24, *sharded, *keeping)["opd"]
    assert writing.memory["in use"] == pytest.approx(24 * writing.memory["weights"] / 2)
    assert writing.memory["scores"] == 0


def test_worse_drafts_mean_more_passes_and_longer_rollouts():
    rollouts = [
        costs_of(24, assumed=replace(Assumptions(), draft_error=share))["opd"].phases["rollout"]
        for share in (0.0, 0.05, 0.2, 1.0)
    ]
    assert rollouts == sorted(rollouts)
    assert passes_left(0.053) == 328 / 2446  # as measured


def test_without_labels_or_drafts_a_rollout_is_planned_as_the_first_hearing_is():
    drafted, undrafted = costs_of(24)["opd"], costs_of(24, "stages.opd.drafts=null")["opd"]
    assert undrafted.phases["rollout"] > 3 * drafted.phases["rollout"]


def test_a_teacher_elsewhere_takes_neither_time_nor_memory_here():
    here = costs_of(24)["opd"]
    served = costs_of(24, "models.teacher.served.urls=[http://host:8000]")["opd"]
    assert "teacher" in here.phases
    assert "teacher" not in served.phases
    assert here.peak - served.peak > here.memory["teacher"]
    offloaded = costs_of(24, "stages.opd.offload_teacher=true")["opd"]
    assert offloaded.phases == here.phases
    assert offloaded.memory["teacher"] == 4 * 151_936 * 2_048  # its head stays for the comparison
    assert here.peak - offloaded.peak == here.memory["teacher"] - offloaded.memory["teacher"]


def test_an_offloaded_teacher_needs_its_room_while_it_reads():
    small = [f"stages.opd.optimization.{change}" for change in ("batch_seconds=30", "activation_checkpointing=true")]
    offloaded = costs_of(24, "stages.opd.offload_teacher=true", *small)["opd"]
    assert offloaded.memory["teacher"] == costs_of(24, *small)["opd"].memory["teacher"]


def test_a_device_comes_from_a_file_as_well(tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(H100.model_dump()))
    assert device_called(str(path)) == H100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        (json.dumps(H100.model_dump() | {"bandwith": 1}), "unknown key 'bandwith'; did you mean 'bandwidth'?"),
        (json.dumps(H100.model_dump() | {"memory": "much"}), "memory"),
    ],
)
def test_a_file_that_is_no_device_is_one_line(tmp_path, text, told):
    path = tmp_path / "device.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"benchmarks\.plan") as error:
        device_called(str(path))
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_precision_that_was_not_measured_is_one_line():
    single = H100.model_copy(update={"operations": {"no": 67e12}})
    with pytest.raises(InputError, match=r"^mixed_precision bf16: device .* known are no$"):
        costs_of(24, device=single)


@pytest.fixture
def arkasr(monkeypatch, capsys):
    """The command in this process: its status, and what it printed on either stream."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["arkasr", "plan", str(PAPER), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_command_prints_cost_only_when_asked(arkasr):
    status, printed, _ = arkasr()
    assert status == 0
    assert "Seconds of a step" not in printed
    status, printed, _ = arkasr("--gpus", "24", "--hours", "2000")
    assert status == 0
    assert "Seconds of a step on 24 x NVIDIA H100 SXM 80 GB" in printed
    assert "days for 2,000 hours of audio" in printed
    assert "assumed, measured on no such device" in printed
    assert "opd: fits: 72.3 of 80 GB" in printed
    assert "does not fit" not in printed
    assert "…" not in printed


def test_a_stage_that_does_not_fit_is_reported_with_its_figures(arkasr, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(H100.model_dump() | {"memory": 70e9}))
    status, printed, _ = arkasr("--gpus", "24", "--device", str(path))
    assert status == 0
    assert "opd: does not fit: 72.3 of 70 GB; the largest item is activations\n" in printed
    assert "base: fits: " in printed


def test_the_page_on_scaling_shows_what_the_command_prints(arkasr):
    """Whoever changes a price pastes the output anew, and reads the page again."""
    _, printed, _ = arkasr("--gpus", "24", "--hours", "100000")
    cost = printed[printed.index("Seconds of a step") :]
    page = Path("docs/scaling.md").read_text(encoding="utf-8")
    assert [line for line in map(str.rstrip, cost.splitlines()) if line not in page] == []


@pytest.mark.parametrize(
    "arguments",
    [("--gpus", "0"), ("--gpus", "1", "--device", "h1000"), ("--gpus", "2", "--set", "models.student.pretrained=a/b")],
)
def test_bad_input_is_one_line_and_status_two(arkasr, arguments):
    status, _, told = arkasr(*arguments)
    assert status == 2
    assert len(told.strip().splitlines()) == 1
    assert told.startswith("arkasr: ")
