"""What an experiment says: its recipe, parsed, checked and planned."""
