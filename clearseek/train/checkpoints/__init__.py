"""Checkpoints of a run: saved by one process or many, loaded by any number."""
