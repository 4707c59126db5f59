"""Training on many processes, in the bits of one."""
