"""Decoders of audio files: libsndfile for PCM, FLAC and Ogg Vorbis, FFmpeg's libraries for everything else."""
