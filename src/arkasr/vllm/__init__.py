"""vLLM as an engine for rollouts, labels and serving, and the plugins that it loads."""
