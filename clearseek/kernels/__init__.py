"""Loops compiled by numba, for FP32 training on a CPU."""
