"""Minutes of a GPU: tests, sanitizers, benchmarks and studies, as far as the time goes."""
