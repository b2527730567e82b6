"""The trained model for others to use: vLLM's server and its engine."""
