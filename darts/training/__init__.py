"""The loops: a search, and the training of what it found and what makes both resumable."""
