"""Muon's orthogonalisation (:mod:`clearseek.train.muon`), matrix by matrix in a core's cache (numba compiles it).

A matrix with more columns than rows is transposed first, so that the sums of every product run along rows in memory. A
step has two symmetric products, of which only the blocks on and above the diagonal are computed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from clearseek.kernels.lanes import (
    ONE,
    OPTIONS,
    call,
    copy,
    dot,
    fill,
    float_of,
    floats,
    integers,
    multiply_four,
    scale,
    transpose,
)

_CHUNK = 256
_SMALLEST_NORM = np.float32(1e-7)


@njit(**OPTIONS)
def _gram(y, line, height, width, out):
    """Blocks of y^T y on and above the diagonal."""
    for first in range(0, height, _CHUNK):
        rows = min(_CHUNK, height - first)
        for j in range(0, width, 16):
            columns = floats(y + 4 * (first * line + j))
            for i in range(0, j + 16, 4):
                factors = floats(y + 4 * (first * line + i))
                multiply_four(factors, 1, line, columns, line, rows, floats(out + 4 * (i * line + j)), line, first)


@njit(**OPTIONS)
def _square(gram, line, width, out):
    """Blocks of gram * gram on and above the diagonal."""
    for j in range(0, width, 16):
        for i in range(0, j + 16, 4):
            multiply_four(
                floats(gram + 4 * i * line), line, 1, floats(gram + 4 * j), line, width,
                floats(out + 4 * (i * line + j)), line, 0,
            )  # fmt: skip


@njit(**OPTIONS)
def _mirror(x, line, width):
    for i in range(16, width):
        for j in range(i // 16 * 16):
            x[i * line + j] = x[j * line + i]


@njit(**OPTIONS)
def _polynomial(gram, square, line, width, a, b, c):
    """square becomes a + b gram + c square, in the computed blocks."""
    for i in range(width):
        for j in range(i // 16 * 16, width):
            square[i * line + j] = b * gram[i * line + j] + c * square[i * line + j]
        square[i * line + i] += a


@njit(**OPTIONS)
def _normalise(y, line, height):
    total = np.float32(0)
    for r in range(height):
        row = floats(y + 4 * r * line)
        total += dot(row, row, line)
    factor = ONE / max(np.float32(np.sqrt(total)), _SMALLEST_NORM)
    for r in range(height):
        scale(floats(y + 4 * r * line), factor, line)


def orthogonalise(a):
    """Newton-Schulz steps in place for every matrix of a table (address, rows, columns).

    The threads take matrices in turn, the largest first.
    """
    units, steps, table, scratch = a[2], a[6], a[7], a[8] + 4 * call(a[0]) * a[9]
    first, third, fifth = float_of(a[3]), float_of(a[4]), float_of(a[5])
    for unit in range(call(a[0]), units, call(a[1])):
        entry = integers(table + 24 * unit)
        matrix, rows, columns = entry[0], entry[1], entry[2]
        small, large = min(rows, columns), max(rows, columns)
        width, height = (small + 15) // 16 * 16, (large + 3) // 4 * 4
        line = ((small + 15) // 16 | 1) * 16
        y, other = scratch, scratch + 4 * height * line
        gram = other + 4 * height * line
        square = gram + 4 * width * line
        fill(floats(y), 0, height * line, np.float32(0))
        if rows <= columns:
            transpose(matrix, columns, y, line, rows, columns)
        else:
            for r in range(rows):
                copy(floats(matrix + 4 * r * columns), floats(y + 4 * r * line), columns)
        _normalise(y, line, height)
        for _ in range(steps):
            _gram(y, line, height, width, gram)
            _mirror(floats(gram), line, width)
            _square(gram, line, width, square)
            _polynomial(floats(gram), floats(square), line, width, first, third, fifth)
            _mirror(floats(square), line, width)
            for j in range(0, width, 16):
                for r in range(0, height, 4):
                    multiply_four(
                        floats(y + 4 * r * line), line, 1, floats(square + 4 * j), line, width,
                        floats(other + 4 * (r * line + j)), line, 0,
                    )  # fmt: skip
            y, other = other, y
        if rows <= columns:
            transpose(y, line, matrix, columns, large, small)
        else:
            for r in range(rows):
                copy(floats(y + 4 * r * line), floats(matrix + 4 * r * columns), columns)
