"""What a run shows a person: tables on a terminal, and one self-contained HTML page."""
