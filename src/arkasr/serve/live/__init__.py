"""Live recognition: speech is found while it is spoken, and its text grows until the pause after it."""
