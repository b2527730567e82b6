"""Advice of a plan: whatever is advised is not in the recipe yet, may be, fits, and does what the sentence says."""

import re
from itertools import product

import pytest

from arkasr.cost.verdict import verdict
from tests.cost.test_estimate import H100, plan_of

SETTING = re.compile(r"--set (\S+?)(?=[:,]? |: |$)")
DEVICES_SAID = re.compile(r"(\d+) devices and ")


def said_of(plan, stage):
    return verdict(plan, plan.cost(stage))


def taken(plan, said):
    """The plan with what a verdict advises in settings and devices."""
    found = DEVICES_SAID.search(said)
    if found:
        cluster = type(plan.cluster)(plan.cluster.device, int(found[1]))
        plan = type(plan)(plan.recipe, cluster, plan.assumed, plan.sizes)
    return plan.with_set([setting.rstrip(":") for setting in SETTING.findall(said)])


def check(plan, stage):
    """Take what is advised, and see that it is what was said; the sentence."""
    cost, said = plan.cost(stage), said_of(plan, stage)
    if "--set" not in said:  # in words
        return said
    advised = taken(plan, said)
    assert advised != plan, said
    better = advised.cost(stage)
    assert better.peak <= plan.cluster.device.memory, said
    if "does not fit" in said:
        gigabytes, times = re.search(r": ([\d.]+) GB, ([\d.]+) times as long$", said).groups()
        assert float(gigabytes) == pytest.approx(better.peak / 1e9, rel=0.006)
        assert float(times) == pytest.approx(cost.speed / better.speed, rel=0.06)
        assert stage == "labels" or better.audio == pytest.approx(cost.audio)
    else:
        times = float(re.search(r": ([\d.,]+) times as fast", said)[1].replace(",", ""))
        assert times == pytest.approx(better.speed / cost.speed, rel=0.06)
        assert times > 1
        assert ("as much audio" in said) == (stage != "labels" and better.audio != pytest.approx(cost.audio)), said
    return said


LARGE = "models.student={pretrained: AutoArk-AI/ARK-ASR-3B}"
LARGE_TEACHER = "models.teacher={pretrained: AutoArk-AI/ARK-ASR-3B}"
STAGES = ("base", "more-sft", "opd", "td", "more-td", "opd-after-td")
SINGLE = [f"stages.{name}.optimization.mixed_precision='no'" for name in STAGES]
OPTIONS = {
    "devices": (1, 24),
    "memory": (15e9, 24e9, 40e9),
    "activation_checkpointing": ("true", "false"),
    "sharding": ("none", "full"),
    "offload_teacher": ("true", "false"),
}


@pytest.mark.parametrize(
    ("student", "advised"),
    [
        ("0.6B", {"activation_checkpointing", "sharding", "batch_seconds"}),
        ("3B", {"activation_checkpointing", "sharding", "offload_teacher", "nothing in the recipe makes it fit"}),
    ],
)
def test_no_advice_is_taken_already_and_every_one_does_what_it_says(student, advised):
    seen = set()
    for devices, memory, checkpointing, sharding, offloaded in product(*OPTIONS.values()):
        overrides = [LARGE] if student == "3B" else []
        for name in ("base", "opd"):
            key = f"stages.{name}.optimization"
            overrides += [f"{key}.activation_checkpointing={checkpointing}", f"{key}.sharding={sharding}"]
        overrides.append(f"stages.opd.offload_teacher={offloaded}")
        plan = plan_of(devices, *overrides, device=H100.model_copy(update={"memory": memory}))
        for name in ("base", "opd"):
            said = check(plan, name)
            seen |= {key for key in advised if key in said}
            for key, value in {
                "activation_checkpointing": checkpointing,
                "sharding": sharding,
                "offload_teacher": offloaded,
            }.items():
                assert f"{key}={value}" not in said
    assert seen == advised


def test_the_fewest_changes_that_make_it_fit_are_advised():
    small = H100.model_copy(update={"memory": 40e9})
    said = check(plan_of(24, device=small), "opd")
    assert said.startswith("does not fit: 72.3 of 40 GB; the largest item is activations; --set stages.opd.optim")
    assert said.count("--set") == 1
    tiny = H100.model_copy(update={"memory": 13e9})
    assert check(plan_of(24, device=tiny), "opd").count("--set") > 1
    assert said_of(plan_of(1, device=tiny), "opd").endswith(
        "nothing in the recipe makes it fit: take a smaller model or larger devices"
    )


def test_drafts_are_not_advised_to_an_engine_that_does_not_use_them():
    settings = ["stages.opd.drafts=null", "stages.opd.objective.rollouts.engine=vllm"]
    assert "drafts" in said_of(plan_of(24, settings[0]), "opd")
    assert "drafts" not in said_of(plan_of(24, *settings), "opd")


def test_labels_that_do_not_fit_are_cut_into_smaller_batches():
    small = H100.model_copy(update={"memory": 9e9})
    said = check(plan_of(24, "stages.labels.batch_seconds=480", device=small), "labels")
    assert "--set stages.labels.batch_seconds=" in said
    assert "nothing in the recipe makes it fit" in said_of(
        plan_of(24, device=small.model_copy(update={"memory": 8e9})), "labels"
    )


@pytest.mark.parametrize(
    ("devices", "overrides", "changes", "stage", "told"),
    [
        (
            32,
            [],
            {},
            "opd",
            "8 of 32 devices without work; --set stages.opd.optimization.accumulation=32: 1.3 times as fast, with 1",
        ),
        (16, [], {}, "base", "stand idle 25% of the time; --set stages.base.optimization.accumulation=32: "),
        (24, [], {"hearing": 20.0}, "opd", "of the time for features; --set stages.opd.optimization.data_workers="),
        (24, [], {"hearing": 20.0}, "labels", "waits 66% of the time for features, which it reads itself"),
        (24, [], {"link_between_nodes": 1e8}, "opd", "of the time; --set stages.opd.optimization.accumulation=48: "),
        (
            24,
            ["stages.base.optimization.sharding=full", "stages.base.optimization.accumulation=96"],
            {"link_between_nodes": 2e9},
            "base",
            "--set stages.base.optimization.sharding=none: ",
        ),
        (
            24,
            ["stages.base.optimization.activation_checkpointing=true"],
            {},
            "base",
            "--set stages.base.optimization.activation_checkpointing=false: ",
        ),
        (24, ["stages.opd.drafts=null"], {}, "opd", "rollout takes 67% of the time; --set stages.opd.drafts=L: "),
        (24, [], {}, "labels", "rollout takes 97% of the time; --set stages.labels.batch_seconds=240: "),
        (24, SINGLE, {"memory": 200e9}, "base", "of the time; mixed_precision: bf16 in every stage: "),
        (
            24,
            [],
            {},
            "base",
            "backward takes 54% of the time; 48 devices and --set stages.base.optimization.accumulation=48: ",
        ),
        (2048, [], {}, "base", "accumulation=2048: 85 times as fast, with 85 times as much audio a step"),
        (8, [], {}, "base", "backward takes 56% of the time; 16 devices: 1.5 times as fast"),
        (
            24,
            [LARGE_TEACHER],
            {"memory": 200e9},
            "opd",
            "of the time; the teacher on servers of its own (docs/teachers.md): 1.",
        ),
        (
            24,
            ["stages.base.optimization.batch_seconds=10"],
            {"layer_seconds": 1e-6, "link_in_node": 1e13, "link_between_nodes": 1e13, "hop_seconds": 0},
            "base",
            "optimizer takes 64% of the time; --set stages.base.optimization.",
        ),
    ],
)
def test_what_holds_a_stage_up_is_named_with_what_helps(devices, overrides, changes, stage, told):
    said = check(plan_of(devices, *overrides, device=H100.model_copy(update=changes)), stage)
    assert told in said, said
