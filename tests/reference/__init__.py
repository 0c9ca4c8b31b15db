"""Slow, conventional versions of what the library does fast."""
