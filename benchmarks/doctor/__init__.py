"""What is there, and does it work? `python -m benchmarks.doctor`."""
