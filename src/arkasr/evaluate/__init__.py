"""What the words are worth: normalisation, error rates, confidence and significance."""
