"""From manifest lines to batches of utterances and their log-mel features."""
