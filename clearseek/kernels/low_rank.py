"""Products of low-rank adapters of many experts, one expert after the other (numba compiles them).

An expert has few rows and an adapter few columns, so that a library's call for each product takes longer than the
product. Here an expert's small matrices are laid out once, in a core's nearest cache, and its rows pass through them
four at a time. *A row's result depends on that row alone*, wherever it lies.

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
    multiply_four,
    scale,
    share,
    transpose,
)


@njit(**OPTIONS)
def _multiply(a, inner, a_row, b, columns, out, out_row, rows, more):
    """Rows of a times b, `columns` wide, of which `inner` lines count; four rows at a time, the last ones singly."""
    for r in range(0, rows - rows % 4, 4):
        for j in range(0, columns, 16):
            multiply_four(
                floats(a + 4 * r * a_row), a_row, 1, floats(b + 4 * j), columns, inner,
                floats(out + 4 * (r * out_row + j)), out_row, more,
            )  # fmt: skip
    for r in range(rows - rows % 4, rows):
        for j in range(0, columns, 16):  # the same row four times
            multiply_four(
                floats(a + 4 * r * a_row), 0, 1, floats(b + 4 * j), columns, inner,
                floats(out + 4 * (r * out_row + j)), 0, more,
            )  # fmt: skip


@njit(**OPTIONS)
def _multiply_transposed(a, a_row, count, b, columns, out, rows):
    """The first `count` columns of a, transposed, times b: lines of `columns` numbers, `count` rounded up to four."""
    for j in range(0, columns, 16):
        for i in range(0, count, 4):
            multiply_four(
                floats(a + 4 * i), 1, a_row, floats(b + 4 * j), columns, rows, floats(out + 4 * (i * columns + j)),
                columns, 0,
            )  # fmt: skip


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
        _multiply(x + 4 * first * inputs, inputs, inputs, down_t, width, here, width, rows, 0)
        scale(floats(here), factor, rows * width)
        _multiply(here, rank, width, up_t, outputs, y + 4 * first * outputs, outputs, rows, 1)


def backward(a):
    """d_low = s B^T g, and d_x += A^T d_low where wanted."""
    units, table, inputs, outputs, rank, width, factor = a[2], a[3], a[4], a[5], a[6], a[7], float_of(a[8])
    down, up, g, d_low, d_x = a[9], a[10], a[11], a[12], a[13]
    wide = a[14] + 4 * call(a[0]) * a[15]
    start, end = share(a, units)
    for unit in range(start, end):
        entry = integers(table + 24 * unit)
        expert, first, rows = entry[0], entry[1], entry[2]
        matrix = up + 4 * expert * outputs * rank
        for o in range(outputs):
            copy(floats(matrix + 4 * o * rank), floats(wide + 4 * o * width), rank)
        here = d_low + 4 * first * width
        _multiply(g + 4 * first * outputs, outputs, outputs, wide, width, here, width, rows, 0)
        scale(floats(here), factor, rows * width)
        if d_x != 0:
            lines = down + 4 * expert * rank * inputs
            _multiply(here, rank, width, lines, inputs, d_x + 4 * first * inputs, inputs, rows, 1)


def gradients(a):
    """Gradients of A, d_low^T x, and of B, g^T low; with `places`, row r of x is at line places[r] of it."""
    units, table, inputs, outputs, rank, width = a[2], a[3], a[4], a[5], a[6], a[7]
    x, places, d_low, g, low, d_down, d_up = a[8], a[9], a[10], a[11], a[12], a[13], a[14]
    lines, gathered = a[15] + 4 * call(a[0]) * a[16], a[17]
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
        _multiply_transposed(d_low + 4 * first * width, width, rank, source, inputs, lines, rows)
        copy(floats(lines), floats(d_down + 4 * expert * rank * inputs), rank * inputs)
        _multiply_transposed(low + 4 * first * width, width, rank, g + 4 * first * outputs, outputs, lines, rows)
        transpose(lines, outputs, d_up + 4 * expert * outputs * rank, rank, rank, outputs)
