"""Loops compiled by numba, for FP32 training and for generation on a CPU; and the sizes that they and callers share."""

ROWS_PER_SUM = 64
"""Rows whose gradients of a norm's weight are added up together, whatever the number of threads."""
TILE = 64
"""Rows of queries that go through attention together, and keys whose values are added up together."""
PAGE = 16
"""Positions of a sequence that are cached together."""
BLOCK = 16
"""Weight rows that stay in cache while all inputs of a step pass."""
TOGETHER = 2
"""Weight rows of a narrow type whose numbers lie side by side."""
