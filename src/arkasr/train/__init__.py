"""The one training loop and the stages that give it a loss."""
