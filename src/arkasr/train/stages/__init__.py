"""The three answers to "what is the loss of this batch?"."""
