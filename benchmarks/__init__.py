"""Benchmarks of speed and memory; each figure is a ratio against a named alternative in the same run: `python -m benchmarks NAME`."""
