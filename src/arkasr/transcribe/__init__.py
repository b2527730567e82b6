"""Recordings of any length into text: where speech is, pieces that a model can hear, and what was said in them."""
