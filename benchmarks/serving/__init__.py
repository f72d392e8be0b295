"""What serving costs, and how fast a withdrawal is: `python -m benchmarks.serving`."""
