"""Decoders of audio files: libsndfile for PCM and FLAC files, FFmpeg's libraries for everything else."""
