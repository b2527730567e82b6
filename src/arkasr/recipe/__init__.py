"""A recipe: sets, models, stages, variants and evaluation, run in order and resumable."""
