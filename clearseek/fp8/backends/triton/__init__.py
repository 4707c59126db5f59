"""ClearSeek's own kernels for FP8 training, in Triton: written for Hopper, the same code under Triton's interpreter.

Nothing here is imported unless this backend is asked for: Triton is an optional package.
"""
