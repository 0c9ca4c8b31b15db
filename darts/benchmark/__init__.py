"""Answers: NAS-Bench-201's table and its import from the official files; NAS-Bench-101's table."""
