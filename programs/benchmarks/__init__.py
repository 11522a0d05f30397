"""Benchmarks of the library itself; each is a command that prints one JSON line."""
