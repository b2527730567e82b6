"""The estimate for whole recipes on clusters, and the command that prints it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from arkasr.cost.assumptions import Assumptions, share_of_passes
from arkasr.cost.device import DEVICES, device_called
from arkasr.cost.estimate import Cluster, batch_of_seconds, stage_costs
from arkasr.cost.sizes import size_of_model
from arkasr.cost.work import Batch, encoder_pass
from arkasr.errors import InputError
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import ModelSettings, Recipe
from arkasr.recognizers.whisper_window import with_window
from tests.models import small_whisper

PAPER = Path("recipes/ark-asr-0.6b.yaml")
H100 = DEVICES["h100"]
H100_KEYS = H100.model_dump(by_alias=True)


def costs_of(devices, *overrides, device=H100, assumptions=None):
    recipe = load_settings(Recipe, PAPER, list(overrides))
    costs = stage_costs(recipe, Cluster(device, devices), assumptions or Assumptions())
    return {cost.stage: cost for cost in costs}


def test_more_devices_never_take_longer_up_to_the_accumulation():
    days = [costs_of(devices)["opd"].days(1000) for devices in (1, 2, 3, 4, 6, 8, 12, 24)]
    assert days == sorted(days, reverse=True)
    assert days[-1] < days[0] / 12


def test_devices_beyond_the_accumulation_do_not_help():
    assert costs_of(32)["opd"].days(1) >= costs_of(24)["opd"].days(1)


def test_devices_that_do_not_divide_the_accumulation_need_a_last_partial_round():
    assert costs_of(16)["base"].micro_batches_per_device == 2
    assert costs_of(12)["base"].micro_batches_per_device == 2


def test_phases_and_waits_add_up_to_the_step():
    for cost in costs_of(24).values():
        waits = cost.link_seconds + cost.slowest_wait_seconds + cost.feature_wait_seconds
        assert math.isclose(cost.seconds, sum(cost.phases.values()) + waits)
        assert math.isclose(cost.days(1) * 86_400 * cost.audio, 3600 * cost.seconds)


def test_sharding_takes_less_memory():
    copies, shards = (
        costs_of(24, f"stages.opd.optimization.sharding={sharding}")["opd"] for sharding in ("none", "full")
    )
    assert shards.memory["moments"] == copies.memory["moments"] / 24
    assert shards.peak < copies.peak


def test_enough_data_workers_leave_nothing_to_wait_for():
    slow_features = H100.model_copy(update={"feature_rate": 20.0})
    cost = costs_of(24, device=slow_features)["opd"]
    assert cost.feature_wait_seconds > 0
    many_workers = costs_of(24, "stages.opd.optimization.data_workers=1000", device=slow_features)["opd"]
    assert many_workers.feature_wait_seconds == 0


def test_activation_checkpointing_takes_less_memory_and_more_time():
    cost = costs_of(24)["opd"]
    checkpointed = costs_of(24, "stages.opd.optimization.activation_checkpointing=true")["opd"]
    assert checkpointed.peak < 0.6 * cost.peak
    assert checkpointed.phases["backward"] > cost.phases["backward"]


def test_frozen_parts_have_no_gradients_moments_or_updates_and_a_frozen_encoder_no_backward_pass():
    trained = costs_of(24)["opd"]
    frozen = costs_of(24, "stages.opd.optimization.freeze=[encoder]")["opd"]
    for item in ("gradients", "moments"):
        assert frozen.memory[item] / trained.memory[item] == pytest.approx(0.45, abs=0.01)  # 629 of 1,151 million
    assert frozen.memory["weights"] == trained.memory["weights"]
    assert frozen.memory["activations"] < 0.5 * trained.memory["activations"]
    assert trained.checkpoint - frozen.checkpoint == trained.memory["moments"] - frozen.memory["moments"]
    for phase in ("backward", "optimizer"):
        assert frozen.phases[phase] < 0.6 * trained.phases[phase]
    for phase in ("encode", "rollout", "teacher", "student"):
        assert frozen.phases[phase] == trained.phases[phase]


def test_a_ctc_stage_has_no_moments_of_the_decoder():
    cost = costs_of(24, "stages.base.kind=ctc")["base"]
    assert cost.memory["moments"] / (2 * cost.memory["weights"]) == pytest.approx(0.69, abs=0.01)  # all but 358 million


def test_an_unknown_part_is_a_one_line_error():
    with pytest.raises(
        InputError, match=r"^stages\.opd\.optimization\.freeze: the model has no part 'encodr'; did you"
    ):
        costs_of(24, "stages.opd.optimization.freeze=[encodr]")


def test_a_sharded_student_in_a_rollout_is_counted_at_its_peak():
    """Only rollouts gather all weights, at a moment when the decoder has saved nothing for the backward pass."""
    sharded = [f"stages.{name}.optimization.sharding=full" for name in ("base", "opd")]
    costs = costs_of(24, *sharded)
    assert costs["opd"].memory["compute"] == costs["base"].memory["compute"] < 1e9
    assert costs["opd"].memory["activations"] == costs["base"].memory["activations"]
    small = [f"stages.opd.optimization.{value}" for value in ("activation_checkpointing=true", "batch_seconds=30")]
    in_rollout = costs_of(24, *sharded, *small)["opd"]
    assert in_rollout.memory["compute"] == pytest.approx(24 * in_rollout.memory["weights"] / 2)
    assert in_rollout.memory["temporary"] == 0


def test_worse_drafts_mean_more_passes_and_longer_rollouts():
    rollouts = [
        costs_of(24, assumptions=replace(Assumptions(), draft_error=share))["opd"].phases["rollout"]
        for share in (0.0, 0.05, 0.2, 1.0)
    ]
    assert rollouts == sorted(rollouts)
    assert share_of_passes(0.053) == 328 / 2446  # as measured


def test_without_labels_or_drafts_a_rollout_has_all_passes():
    drafted, undrafted = costs_of(24)["opd"], costs_of(24, "stages.opd.drafts=null")["opd"]
    assert undrafted.phases["rollout"] > 3 * drafted.phases["rollout"]


def test_labels_beside_rollouts_cost_a_pass_of_the_decoder():
    rollouts, both = costs_of(24)["opd"], costs_of(24, "stages.opd.objective.label_weight=0.5")["opd"]
    assert both.phases["encode"] == rollouts.phases["encode"]
    assert both.phases["rollout"] == rollouts.phases["rollout"]
    for phase in ("student", "backward"):
        assert 1.2 < both.phases[phase] / rollouts.phases[phase] < 2.5
    assert both.memory["activations"] > 1.1 * rollouts.memory["activations"]
    assert both.memory["temporary"] > rollouts.memory["temporary"]
    sharded = "stages.opd.optimization.sharding=full"
    labels = "stages.opd.objective.label_weight=0.5"
    assert costs_of(24, sharded, labels)["opd"].peak > costs_of(24, sharded)["opd"].peak


def test_a_served_teacher_takes_neither_time_nor_memory():
    local = costs_of(24)["opd"]
    served = costs_of(24, "models.teacher.served.urls=[http://host:8000]")["opd"]
    assert "teacher" in local.phases
    assert "teacher" not in served.phases
    assert local.peak - served.peak > local.memory["teacher"]
    offloaded = costs_of(24, "stages.opd.offload_teacher=true")["opd"]
    assert offloaded.phases == local.phases
    assert offloaded.memory["teacher"] == 4 * 151_936 * 2_048  # the head stays for the logits on the support
    assert local.peak - offloaded.peak == local.memory["teacher"] - offloaded.memory["teacher"]


def test_an_offloaded_teacher_needs_its_memory_while_it_scores():
    small = [f"stages.opd.optimization.{change}" for change in ("batch_seconds=30", "activation_checkpointing=true")]
    offloaded = costs_of(24, "stages.opd.offload_teacher=true", *small)["opd"]
    assert offloaded.memory["teacher"] == costs_of(24, *small)["opd"].memory["teacher"]


def test_a_device_may_come_from_a_file(tmp_path):
    path = tmp_path / "device.json"
    assert {"hearing", "launches_ahead"} < H100_KEYS.keys()
    assert "sweeps" in H100_KEYS["shares"]
    path.write_text(json.dumps(H100_KEYS))
    assert device_called(str(path)) == H100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        (
            json.dumps(H100_KEYS | {"bandwith": 1}),
            "unknown key 'bandwith'; did you mean 'bandwidth'?",
        ),
        (json.dumps(H100_KEYS | {"memory": "much"}), "memory"),
    ],
)
def test_a_file_that_describes_no_device_is_a_one_line_error(tmp_path, text, message):
    path = tmp_path / "device.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"benchmarks\.plan") as error:
        device_called(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_precision_without_a_figure_is_a_one_line_error():
    single = H100.model_copy(update={"operations": {"no": 67e12}})
    with pytest.raises(InputError, match=r"^mixed_precision bf16: device .* known are no$"):
        costs_of(24, device=single)


@pytest.fixture
def arkasr(command):
    """`arkasr plan` of the paper's recipe. It returns what `command` returns."""
    return lambda *arguments: command("plan", PAPER, *arguments)


def test_the_command_prints_the_cost_only_with_gpus(arkasr):
    status, printed, _ = arkasr()
    assert status == 0
    assert "Seconds of a step" not in printed
    status, printed, _ = arkasr("--gpus", "24", "--hours", "2000")
    assert status == 0
    assert "Seconds of a step on 24 x NVIDIA H100 SXM 80 GB" in printed
    assert "days for 2,000 hours of audio" in printed
    assert "assumed, not measured on such a device" in printed
    assert "opd: fits: 72.3 of 80 GB" in printed
    assert "does not fit" not in printed
    assert "…" not in printed


def test_the_command_names_what_the_cache_of_a_teacher_takes_on_disk(arkasr):
    arguments = ("--set", "stages.opd.teacher_cache=states", "--set", "stages.opd.teacher_cache_gib=40")
    _, printed, _ = arkasr(*arguments, "--gpus", "1")
    assert "opd: up to 40 GiB of the run's folder hold embeddings and states of teacher until" in printed
    assert "opd: the teacher is counted as if it had no cache" in printed
    assert "cache" not in arkasr()[1]


def test_a_stage_that_does_not_fit_is_reported_with_its_figures(arkasr, tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(H100_KEYS | {"memory": 70e9}))
    status, printed, _ = arkasr("--gpus", "24", "--device", str(path))
    assert status == 0
    assert "opd: does not fit: 72.3 of 70 GB; the largest item is activations, 42.1 GB\n" in printed
    assert "base: fits: " in printed


def test_the_page_on_scaling_shows_what_the_command_prints(arkasr):
    """If this fails, paste the new output into the page and read the page again."""
    _, printed, _ = arkasr("--gpus", "24", "--hours", "100000")
    cost = printed[printed.index("Seconds of a step") :]
    page = Path("docs/scaling.md").read_text(encoding="utf-8")
    assert [line for line in map(str.rstrip, cost.splitlines()) if line not in page] == []


@pytest.mark.parametrize(
    "arguments",
    [("--gpus", "0"), ("--gpus", "1", "--device", "h1000"), ("--gpus", "2", "--set", "models.student.pretrained=a/b")],
)
def test_bad_input_is_a_one_line_error_with_status_two(arkasr, arguments):
    status, _, errors = arkasr(*arguments)
    assert status == 2
    assert len(errors) == 1
    assert errors[0].startswith("arkasr: ")


def test_a_batch_of_whisper_holds_as_many_utterances_as_windows():
    recipe = load_settings(Recipe, Path("recipes/whisper-noise.yaml"))
    assumptions = Assumptions(utterance_seconds=2.0)
    costs = {cost.stage: cost for cost in stage_costs(recipe, Cluster(H100, 1), assumptions)}
    assert recipe.stages["td"].optimization.batch_seconds == 180
    assert costs["td"].audio == pytest.approx(6 * 2.0)
    assert costs["labels"].audio == pytest.approx(120 / 30 * 2.0)
    assert batch_of_seconds(20.0, None, None, assumptions, window_seconds=30.0).utterances == 1


def test_a_shorter_window_of_whisper_costs_less(command, vocabulary, tmp_path):
    """Half the window is half the positions, and so less than half the operations of the encoder."""
    for name, window in (("whole", 30), ("half", 15), ("short", 5)):
        with_window(small_whisper(vocabulary), window).save(tmp_path / name)
    overrides = [f"models.{model}.pretrained={tmp_path / '{}'}" for model in ("tiny", "whisper-base")]
    recipe = Path("recipes/whisper-noise.yaml")

    def costs_with(window):
        settings = load_settings(Recipe, recipe, [item.format(window) for item in overrides])
        return {cost.stage: cost for cost in stage_costs(settings, Cluster(H100, 1), Assumptions())}

    whole, half = costs_with("whole"), costs_with("half")
    for stage in ("labels", "td", "opd"):
        assert half[stage].audio == pytest.approx(2 * whole[stage].audio)
    sizes = [size_of_model("x", ModelSettings(pretrained=str(tmp_path / name)), None) for name in ("whole", "half")]
    assert [(size.padded_seconds, size.cross_positions) for size in sizes] == [(30, 1500), (15, 750)]
    work = [encoder_pass(size, Batch(8, 2.0, 5.0), mixed=False).operations for size in sizes]
    assert work[1] < work[0] / 2
    set_options = [option for item in overrides for option in ("--set", item.format("short"))]
    message = (
        "arkasr: stages.labels: the estimate assumes utterances of 10 s, but a model has a window of 5 s; give "
        "--utterance-seconds of at most 5"
    )
    status, _, errors = command("plan", recipe, "--gpus", 1, *set_options)
    assert (status, errors) == (2, [message])
    assert command("plan", recipe, "--gpus", 1, "--utterance-seconds", 5, *set_options)[0] == 0
