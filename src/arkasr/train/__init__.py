"""The training loop, and the stages with their losses."""
