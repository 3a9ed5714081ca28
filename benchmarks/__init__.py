"""Scripts that measure speed, memory and accuracy: `python -m benchmarks.NAME --help`, from the repository's root."""
