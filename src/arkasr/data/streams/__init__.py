"""Datasets that are read as a stream."""
