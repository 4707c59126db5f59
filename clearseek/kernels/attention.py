"""Causal attention of latent heads, head by head, each in a core's cache (numba compiles it).

A head's keys and values are laid out in scratch memory once, then its queries go through in tiles of 64 rows: scores,
softmax, weighted values. Scores above the diagonal are computed for at most 15 keys a row. Nothing but each row's
largest score and the inverse of its sum is kept for the backward, which computes the probabilities again (Dao et al.,
"FlashAttention", 2022).

Where documents are told apart, a tile leaves out the keys before the first that any of its queries sees, in groups of
16: packed short documents cost what their own lengths cost.

Keys and queries are computed in groups of four: a number that is not finite spreads within its group, also to earlier
positions.

Shapes: S positions, C channels of a key, V of a value, N of a key without position, P rotary ones.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from clearseek.kernels import TILE
from clearseek.kernels.lanes import (
    LANES,
    ONE,
    OPTIONS,
    call,
    copy,
    dot,
    exp_below,
    exp_below_largest,
    fill,
    float_of,
    floats,
    integers,
    multiply,
    multiply_four,
    scale,
    share,
    transpose,
)


@njit(**OPTIONS)
def _turn(x, turn, factor, sign, y, n):
    """Multiply n complex numbers by `factor * turn`, conjugated for sign -1."""
    for i in range(n):
        real, imaginary = x[2 * i], x[2 * i + 1]
        c, s = turn[2 * i] * factor, turn[2 * i + 1] * factor * sign
        y[2 * i] = real * c - imaginary * s
        y[2 * i + 1] = real * s + imaginary * c


@njit(inline="always", **OPTIONS)
def _first_seen(starts, index):
    """First key that a query sees: the start of its document, or 0 without documents."""
    return integers(starts)[index] if starts != 0 else 0


@njit(**OPTIONS)
def _first_of_tile(starts, index, rows):
    """A multiple of 16, before which no query of a tile sees a key."""
    if starts == 0:
        return 0
    first = integers(starts)[index]
    for i in range(1, rows):
        first = min(first, integers(starts)[index + i])
    return first // 16 * 16


@njit(**OPTIONS)
def _scale_and_turn(source, turn, nope, rotary, factor, sign, target):
    multiply(floats(source), factor, floats(target), nope)
    _turn(floats(source + 4 * nope), floats(turn), factor, sign, floats(target + 4 * nope), rotary // 2)


@njit(**OPTIONS)
def _scores(q, width, keys, line, channels, begin, first, rows, out):
    """out[i][s] = q[i] . keys[:, s] for the keys from `begin` on that query `first + i` sees, and some more."""
    for s in range(begin, first + rows, 16):
        for i in range(max(0, s - first), rows, 4):
            multiply_four(
                floats(q + 4 * i * width), width, 1, floats(keys + 4 * s), line, channels,
                floats(out + 4 * (i * line + s)), line, 0,
            )  # fmt: skip


@njit(**OPTIONS)
def _sums_over_keys(p, line, begin, first, rows, x, width, out):
    """out[i] = sum over the keys s from `begin` on that query `first + i` sees of p[i][s] x[s]."""
    for s in range(begin, first + rows, TILE):
        for i in range(0, rows, 4):
            seen = min(TILE, first + i + 4 - s)
            for c in range(0, width, 16):
                multiply_four(
                    floats(p + 4 * (i * line + s)), line, 1, floats(x + 4 * (s * width + c)), width, seen,
                    floats(out + 4 * (i * width + c)), width, s - begin,
                )  # fmt: skip


@njit(**OPTIONS)
def _add_sums_over_queries(p, line, begin, first, rows, x, width, out):
    """out[s] += sum over the queries i that see key s of p[i][s] x[i], for the keys from `begin` on."""
    for s in range(begin, first + rows, 4):
        start = max(0, s - first)
        for c in range(0, width, 16):
            multiply_four(
                floats(p + 4 * (start * line + s)), 1, line, floats(x + 4 * (start * width + c)), width, rows - start,
                floats(out + 4 * (s * width + c)), width, 1,
            )  # fmt: skip


def forward(a):
    """out = softmax(q k^T) v for every sequence and head; each row's largest score and inverse sum into `stats`."""
    units, heads, length, nope, rotary, values, factor = a[2], a[3], a[4], a[5], a[6], a[7], float_of(a[8])
    q, kv, rope, turn, out, stats = a[9], a[10], a[11], a[12], a[13], a[14]
    width_v, line = a[16], a[17]
    scratch = a[18] + 4 * call(a[0]) * a[19]
    keys, v, tile_q = scratch, scratch + 4 * a[20], scratch + 4 * a[21]
    p, tile_out = scratch + 4 * a[22], scratch + 4 * a[23]
    starts, turn_step = a[24], a[25]
    channels, both = nope + rotary, nope + values
    start, end = share(a, units)
    for unit in range(start, end):
        b, h = unit // heads, unit % heads
        at_kv, at_turn = kv + 4 * (b * length * heads + h) * both, turn + 4 * b * turn_step
        transpose(at_kv, heads * both, keys, line, length, nope)
        transpose(rope + 4 * b * length * rotary, rotary, keys + 4 * nope * line, line, length, rotary)
        for s in range(length):
            copy(floats(at_kv + 4 * (s * heads * both + nope)), floats(v + 4 * s * width_v), values)
        for first in range(0, length, TILE):
            rows = min(TILE, length - first)
            begin = _first_of_tile(starts, b * length + first, rows)
            for i in range(rows):
                row = ((b * length + first + i) * heads + h) * channels
                _scale_and_turn(
                    q + 4 * row, at_turn + 4 * (first + i) * rotary, nope, rotary, factor, ONE,
                    tile_q + 4 * i * channels,
                )  # fmt: skip
            _scores(tile_q, channels, keys, line, channels, begin, first, rows, p)
            kept = floats(stats + 8 * (unit * length + first))
            for i in range(rows):
                low = _first_seen(starts, b * length + first + i)
                whole = low // LANES * LANES  # from `whole` on, so that all lanes belong to this row
                fill(floats(p + 4 * i * line), whole, low, np.float32(-np.inf))
                most, total = exp_below_largest(floats(p + 4 * (i * line + whole)), first + i + 1 - whole)
                fill(floats(p + 4 * i * line), begin, low, np.float32(0))
                kept[2 * i], kept[2 * i + 1] = most, ONE / total
            _sums_over_keys(p, line, begin, first, rows, v, width_v, tile_out)
            for i in range(rows):
                row = ((b * length + first + i) * heads + h) * values
                multiply(floats(tile_out + 4 * i * width_v), kept[2 * i + 1], floats(out + 4 * row), values)


@njit(**OPTIONS)
def _softmax_again(x, most, inverse, n):
    exp_below(x, most, n)
    scale(x, inverse, n)
    fill(x, n, n + -n % 16, np.float32(0))


@njit(**OPTIONS)
def _softmax_backward(p, dp, n):
    """dp becomes the gradient of the scores."""
    inner = dot(p, dp, n)
    for i in range(n):
        dp[i] = p[i] * (dp[i] - inner)
    fill(dp, n, n + -n % 16, np.float32(0))


def backward(a):
    """Gradients of :func:`forward`'s q and kv, and of the shared rotary key for every head by itself."""
    units, heads, length, nope, rotary, values, factor = a[2], a[3], a[4], a[5], a[6], a[7], float_of(a[8])
    q, kv, rope, turn, g, stats = a[9], a[10], a[11], a[12], a[13], a[14]
    width, width_v, line = a[15], a[16], a[17]
    scratch = a[18] + 4 * call(a[0]) * a[19]
    keys, v, tile_q, p, dp = scratch, scratch + 4 * a[20], scratch + 4 * a[21], scratch + 4 * a[22], scratch + 4 * a[23]
    rows_k, dk, dv = scratch + 4 * a[24], scratch + 4 * a[25], scratch + 4 * a[26]
    tile_g, tile_dq = scratch + 4 * a[27], scratch + 4 * a[28]
    d_q, d_kv, d_rope, starts, turn_step = a[29], a[30], a[31], a[32], a[33]
    channels, both = nope + rotary, nope + values
    start, end = share(a, units)
    for unit in range(start, end):
        b, h = unit // heads, unit % heads
        at_kv, at_rope = kv + 4 * (b * length * heads + h) * both, rope + 4 * b * length * rotary
        at_turn = turn + 4 * b * turn_step
        for s in range(length):
            copy(floats(at_kv + 4 * s * heads * both), floats(rows_k + 4 * s * width), nope)
            copy(floats(at_rope + 4 * s * rotary), floats(rows_k + 4 * (s * width + nope)), rotary)
        transpose(rows_k, width, keys, line, length, channels)
        transpose(at_kv + 4 * nope, heads * both, v, line, length, values)
        fill(floats(dk), 0, length * width, np.float32(0))
        fill(floats(dv), 0, length * width_v, np.float32(0))
        for first in range(0, length, TILE):
            rows = min(TILE, length - first)
            begin = _first_of_tile(starts, b * length + first, rows)
            for i in range(rows):
                row = (b * length + first + i) * heads + h
                _scale_and_turn(
                    q + 4 * row * channels, at_turn + 4 * (first + i) * rotary, nope, rotary, factor, ONE,
                    tile_q + 4 * i * width,
                )  # fmt: skip
                copy(floats(g + 4 * row * values), floats(tile_g + 4 * i * width_v), values)
            _scores(tile_q, width, keys, line, channels, begin, first, rows, p)
            _scores(tile_g, width_v, v, line, values, begin, first, rows, dp)
            kept = floats(stats + 8 * (unit * length + first))
            for i in range(rows):
                at, seen = 4 * (i * line + begin), first + i + 1 - begin
                _softmax_again(floats(p + at), kept[2 * i], kept[2 * i + 1], seen)
                low = _first_seen(starts, b * length + first + i)
                fill(floats(p + 4 * i * line), begin, low, np.float32(0))
                _softmax_backward(floats(p + at), floats(dp + at), seen)
            _add_sums_over_queries(p, line, begin, first, rows, tile_g, width_v, dv)
            _add_sums_over_queries(dp, line, begin, first, rows, tile_q, width, dk)
            _sums_over_keys(dp, line, begin, first, rows, rows_k, width, tile_dq)
            for i in range(rows):
                row = ((b * length + first + i) * heads + h) * channels
                _scale_and_turn(
                    tile_dq + 4 * i * width, at_turn + 4 * (first + i) * rotary, nope, rotary, factor, -ONE,
                    d_q + 4 * row,
                )  # fmt: skip
        for s in range(length):
            target = d_kv + 4 * ((b * length + s) * heads + h) * both
            copy(floats(dk + 4 * s * width), floats(target), nope)
            copy(floats(dv + 4 * s * width_v), floats(target + 4 * nope), values)
            copy(floats(dk + 4 * (s * width + nope)), floats(d_rope + 4 * (unit * length + s) * rotary), rotary)
