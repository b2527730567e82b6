"""From manifest lines to batches of log-mel features."""
