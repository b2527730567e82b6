"""Seeds that are the same in every process, on every machine and in every Python, unlike `hash()`."""

import hashlib


def seed_of(*parts: object) -> int:
    """A 64-bit seed from what names a random choice, such as `seed_of(corpus_seed, "train-en-000012")`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")
