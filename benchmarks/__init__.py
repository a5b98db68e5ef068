"""Measurements: `make bench-cpu`; see docs/performance.md."""
