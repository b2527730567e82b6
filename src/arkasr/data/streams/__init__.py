"""Datasets of the `datasets` library, read as a stream."""
