"""The training stages: CTC, supervised fine-tuning and on-policy distillation."""
