"""Model families behind one interface for training, scoring and decoding; one file a family."""
