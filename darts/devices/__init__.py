"""Where a search runs: the device, its processes, and steps recorded as a CUDA graph."""
