"""Transcription of recordings of any length: find speech, cut it into pieces, decode them, write the text."""
