"""Comparisons of methods with their authors' code; see `bench.parity.__main__`."""
