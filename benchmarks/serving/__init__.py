"""The speed of serving and of a withdrawal: `python -m benchmarks.serving`."""
