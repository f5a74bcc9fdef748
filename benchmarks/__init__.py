"""Timings; `python -m benchmarks` runs them all."""
