"""What an architecture costs, and searching under a bound on it."""
