"""NAS-Bench-201's answers: the table of all its cells, and its import from the official files."""
