"""FP8 arithmetic in NumPy's float64, from the formats' definitions alone."""

from __future__ import annotations

import numpy as np
import torch


def values(fraction_bits: int, bias: int, largest: float) -> np.ndarray:
    """All finite magnitudes of a small float, ascending: index is code."""
    per_binade = 1 << fraction_bits
    found = [i * 2.0 ** (1 - bias - fraction_bits) for i in range(per_binade)]
    exponent = 1
    while found[-1] < largest:
        found += [(1 + i / per_binade) * 2.0 ** (exponent - bias) for i in range(per_binade)]
        exponent += 1
    return np.array([value for value in found if value <= largest])


E4M3 = values(3, 7, 448.0)
E5M2 = values(2, 15, 57344.0)
E5M6 = values(6, 15, 65024.0)


def nearest(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """To the nearest value of the table, ties to the even code, larger magnitudes to the largest."""
    magnitude = np.abs(x)
    above = np.clip(np.searchsorted(table, magnitude), 1, len(table) - 1)
    low, high = table[above - 1], table[above]
    middle = (low + high) / 2
    up = (magnitude > middle) | ((magnitude == middle) & (above % 2 == 0))
    return np.copysign(np.where(up, high, low), x)


def unit(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Distance between the two values of the table around each magnitude."""
    above = np.clip(np.searchsorted(table, np.abs(x)), 1, len(table) - 1)
    return table[above] - table[above - 1]


def spread(scale: torch.Tensor, rows: int, columns: int) -> np.ndarray:
    """Scales of tiles or blocks, one for each element, float64."""
    s = scale.double()
    if s.shape[0] != rows:
        s = s.repeat_interleave(128, 0)[:rows]
    return s.repeat_interleave(128, 1)[:, :columns].numpy()
