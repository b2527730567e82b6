"""The training stages of recipes/smoke.yaml, changed so that every processor computes the same losses.

Processors round differently. Where two tokens are nearly tied, rounding selects one, and the loss jumps. So this run
selects nothing: labels and rollouts are fixed, and k is the whole vocabulary. The loss is then continuous in the
weights. float64, AdamW and a low learning rate keep rounding errors small. Muon orthogonalises in bfloat16.
"""

from dataclasses import replace
from pathlib import Path

import torch

from arkasr.data.manifests.manifest import read_rows, write_manifest
from arkasr.recipe.load import load_settings
from arkasr.recipe.settings import LabelStageSettings, Recipe, TrainingStageSettings
from arkasr.recipe.settings.continuation import schedule_steps, seed_of_order
from arkasr.recognizers.decoding import Transcripts
from arkasr.run.batches import build_stream
from arkasr.run.context import RunContext
from arkasr.run.folder import RunFolder
from arkasr.run.stages import build_stage, continuation_of
from arkasr.train.loop import train
from arkasr.train.rollouts import StudentRollouts
from arkasr.train.stages.opd import DistillationStage

SMOKE = Path(__file__).resolve().parents[1] / "recipes" / "smoke.yaml"
OPTIMIZATION = {"optimizer": "adamw", "learning_rate": 3e-4}
WHOLE_VOCABULARY = 400


class FixedRollouts(StudentRollouts):
    """Every rollout is the draft with its first character moved to the end; the first one of a batch is empty."""

    def write(self, prompts, examples, drafts, seed):
        texts = [self.drafts[example.utterance.id] for example in examples]
        longest = self.settings.max_new_tokens
        tokens = [self.student.transcript_ids(text[1:] + text[0])[:longest] for text in texts]
        tokens[0] = self.student.transcript_ids("")
        stopped = torch.tensor([ids[-1] == self.student.stop_token_id for ids in tokens])
        return Transcripts(tokens, stopped, None, passes=1)


def losses_of_smoke(folder: Path, device: str = "cpu") -> dict[str, list[float]]:
    """The loss of every step, by training stage."""
    recipe = with_fixed_optimization(load_settings(Recipe, SMOKE))
    context = RunContext(recipe, RunFolder(folder, recipe.seeds[0]), torch.device(device))
    losses = {}
    for name, settings in recipe.stages.items():
        if isinstance(settings, LabelStageSettings):
            _write_labels(context, name, settings)
        else:
            losses[name] = _losses_of_stage(context, name, settings)
    return losses


def with_fixed_optimization(recipe: Recipe) -> Recipe:
    """The recipe with `OPTIMIZATION` in every training stage."""
    stages = {
        name: settings.model_copy(update={"optimization": settings.optimization.model_copy(update=OPTIMIZATION)})
        if isinstance(settings, TrainingStageSettings)
        else settings
        for name, settings in recipe.stages.items()
    }
    return recipe.model_copy(update={"stages": stages})


def _write_labels(context: RunContext, name: str, settings: LabelStageSettings) -> None:
    """The labels are the texts of the corpus without their last character."""
    texts = {utterance.id: utterance.text[:-1] for utterance in context.set("everything")}
    labels = context.folder.labels(name, context.recipe.seeds[0])
    labels.parent.mkdir(parents=True)
    unlabelled = context.set(settings.audio)
    rows = (item.fields | {"audio": str(item.audio), "id": item.id, "text": texts[item.id]} for item in unlabelled)
    write_manifest(labels, rows)


def _losses_of_stage(context: RunContext, name: str, settings: TrainingStageSettings) -> list[float]:
    recipe, seed = context.recipe, context.recipe.seeds[0]
    student = context.recognizer(settings.start, seed)
    stage = build_stage(context, student, settings, seed).double()
    if isinstance(stage, DistillationStage):
        stage.teacher.recognizer.model.double()
        stage.objective = replace(stage.objective, top_k=WHOLE_VOCABULARY)
        stage.rollouts = FixedRollouts(student, stage.settings, stage.rollouts.drafts, None)
    train(
        stage,
        build_stream(context, stage, name, seed, rank=0, world_size=1),
        settings.optimization,
        context.folder.stage(name, seed),
        seed=seed_of_order(recipe, name, seed),
        continues=continuation_of(context, name, seed),
        schedule_steps=schedule_steps(recipe, name),
    )
    context.folder.save_model(student, name, seed)
    return [line["loss"] for line in read_rows(context.folder.stage(name, seed) / "metrics.jsonl")]
