"""Discrete architectures, and the networks built from them, by the operations of the papers."""
