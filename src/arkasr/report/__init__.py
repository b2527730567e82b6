"""Reports of a finished run: tables on the terminal, and one self-contained HTML page."""
