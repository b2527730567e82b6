"""Manifests: their lines, an index for large ones, checks, and audio in tar shards."""
