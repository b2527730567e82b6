"""Scoring transcripts: text normalisation, error rates, confidence intervals, significance tests."""
