"""vLLM as an engine for rollouts, labels and serving, and its plugins."""
