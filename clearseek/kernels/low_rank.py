"""Products of the rows of many experts with small matrices of their own, expert by expert (numba compiles them).

An expert has few rows and an adapter few columns, so that a library's call for each product takes longer than the
product. Here an expert's adapter is laid out once, in a core's nearest cache, and its rows pass through it. *A row's
result depends on that row alone*, wherever it lies.

Rows of the experts lie one after the other; a table has the number, the first row and the rows of each expert that has
some. Products with A (rank x inputs) have as many columns as the rank rounded up to a multiple of 16, the `width`;
inputs and outputs are multiples of 16.
"""

from __future__ import annotations

from numba import njit

from clearseek.kernels.lanes import (
    OPTIONS,
    call,
    copy,
    float_of,
    floats,
    integers,
    multiply_strip,
    scale,
    share,
    transpose,
)


@njit(**OPTIONS)
def _multiply(a, a_row, a_inner, inner, b, columns, out, rows, more):
    """Rows of a, or its columns, times b, whose `inner` lines are `columns` wide; with `more`, added to `out`."""
    for j in range(0, columns, 16):
        multiply_strip(a, a_row, a_inner, b + 4 * j, columns, inner, out + 4 * j, columns, rows, more)


def products(a):
    """y = x W."""
    units, table, inner, columns, w, x, y = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    start, end = share(a, units)
    for unit in range(start, end):
        entry = integers(table + 24 * unit)
        expert, first, rows = entry[0], entry[1], entry[2]
        matrix = w + 4 * expert * inner * columns
        _multiply(x + 4 * first * inner, inner, 1, inner, matrix, columns, y + 4 * first * columns, rows, 0)


def update(a):
    """low = s A x, and y += B low."""
    units, table, inputs, outputs, rank, width, factor = a[2], a[3], a[4], a[5], a[6], a[7], float_of(a[8])
    down, up, x, low, y = a[9], a[10], a[11], a[12], a[13]
    scratch = a[14] + 4 * call(a[0]) * a[15]
    down_t, up_t = scratch, scratch + 4 * inputs * width
    start, end = share(a, units)
    for unit in range(start, end):
        entry = integers(table + 24 * unit)
        expert, first, rows = entry[0], entry[1], entry[2]
        transpose(down + 4 * expert * rank * inputs, inputs, down_t, width, rank, inputs)
        transpose(up + 4 * expert * outputs * rank, rank, up_t, outputs, outputs, rank)
        here = low + 4 * first * width
        _multiply(x + 4 * first * inputs, inputs, 1, inputs, down_t, width, here, rows, 0)
        scale(floats(here), factor, rows * width)
        _multiply(here, width, 1, rank, up_t, outputs, y + 4 * first * outputs, rows, 1)


def backward(a):
    """d_low = s B^T g, and d_x += A^T d_low where wanted; with frozen weights W, d_x = W^T g + A^T d_low."""
    units, table, inputs, outputs, rank, width, factor = a[2], a[3], a[4], a[5], a[6], a[7], float_of(a[8])
    down, up, g, d_low, d_x = a[9], a[10], a[11], a[12], a[13]
    frozen, wide = a[14], a[15] + 4 * call(a[0]) * a[16]
    start, end = share(a, units)
    for unit in range(start, end):
        entry = integers(table + 24 * unit)
        expert, first, rows = entry[0], entry[1], entry[2]
        matrix = up + 4 * expert * outputs * rank
        for o in range(outputs):
            copy(floats(matrix + 4 * o * rank), floats(wide + 4 * o * width), rank)
        here = d_low + 4 * first * width
        _multiply(g + 4 * first * outputs, outputs, 1, outputs, wide, width, here, rows, 0)
        scale(floats(here), factor, rows * width)
        target = d_x + 4 * first * inputs
        if frozen != 0:
            block = frozen + 4 * expert * outputs * inputs
            _multiply(g + 4 * first * outputs, outputs, 1, outputs, block, inputs, target, rows, 0)
        if d_x != 0:
            lines = down + 4 * expert * rank * inputs
            _multiply(here, width, 1, rank, lines, inputs, target, rows, 1)


def gradients(a):
    """Gradients of A, d_low^T x, and of B, g^T low; with `places`, row r of x is at line places[r] of it."""
    units, table, inputs, outputs, rank, width = a[2], a[3], a[4], a[5], a[6], a[7]
    x, places, d_low, g, low, d_down, d_up = a[8], a[9], a[10], a[11], a[12], a[13], a[14]
    lines, gathered = a[15] + 4 * call(a[0]) * a[16], a[17]
    whole = (rank + 3) // 4 * 4  # rows of a and b beyond the rank are zero
    start, end = share(a, units)
    for unit in range(start, end):
        entry = integers(table + 24 * unit)
        expert, first, rows = entry[0], entry[1], entry[2]
        source = x + 4 * first * inputs
        if places != 0:
            source = lines + 4 * gathered
            for r in range(rows):
                line = x + 4 * integers(places)[first + r] * inputs
                copy(floats(line), floats(source + 4 * r * inputs), inputs)
        _multiply(d_low + 4 * first * width, 1, width, rows, source, inputs, lines, whole, 0)
        copy(floats(lines), floats(d_down + 4 * expert * rank * inputs), rank * inputs)
        _multiply(low + 4 * first * width, 1, width, rows, g + 4 * first * outputs, outputs, lines, whole, 0)
        transpose(lines, outputs, d_up + 4 * expert * outputs * rank, rank, rank, outputs)
