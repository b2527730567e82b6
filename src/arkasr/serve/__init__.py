"""Serving: what arkasr adds to vLLM. Loaded by vLLM itself, through its plugin entry point."""
