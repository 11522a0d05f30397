"""Runnable DSPy programs, and benchmarks beside them."""
