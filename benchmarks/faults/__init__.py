"""Faults that a study meets, injected on purpose: each module is a part of `benchmarks/torture.py`."""
