"""What holds where vLLM is not installed, and `import arkasr` must not ask for it."""
