"""One interface to all model families, for training, scoring and decoding. Each family has one file."""
