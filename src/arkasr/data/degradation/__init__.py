"""Degradations of clean speech, for the built-in corpus and for what a student hears in training."""
