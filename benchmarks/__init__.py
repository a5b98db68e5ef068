"""Measurements of the losses. `python -m benchmarks.loss --help`."""
