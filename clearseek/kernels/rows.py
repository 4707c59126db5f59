"""Loops over rows: exp, norms, SwiGLU and the loss's softmax, each one pass over memory (numba compiles them)."""

from __future__ import annotations

import numpy as np
from numba import njit

from clearseek.kernels import ROWS_PER_SUM
from clearseek.kernels.lanes import (
    ONE,
    OPTIONS,
    copy,
    dot,
    exp,
    exp_below,
    fill,
    float_of,
    floats,
    integers,
    largest,
    scale,
    share,
    sum_of,
)

_LARGEST = np.float32(88.0)


def exponential(a):
    """y = exp(x): the loop by which :func:`clearseek.kernels.launch.unavailable` tries numba."""
    start, end = share(a, a[2])
    copy(floats(a[3] + 4 * start), floats(a[4] + 4 * start), end - start)
    exp_below(floats(a[4] + 4 * start), np.float32(0), end - start)


# --- Norm -------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _scale_row(x, scale, w, y, n):
    for i in range(n):
        y[i] = x[i] * scale * w[i]


def norm(a):
    """y = w * x * rstd and rstd = 1 / sqrt(mean(x^2) + eps)."""
    rows, n, x, stride, w, eps, y, rstd = a[2], a[3], a[4], a[5], floats(a[6]), float_of(a[7]), a[8], floats(a[9])
    start, end = share(a, rows)
    for r in range(start, end):
        row = floats(x + 4 * r * stride)
        scale = ONE / np.float32(np.sqrt(dot(row, row, n) / np.float32(n) + eps))
        rstd[r] = scale
        _scale_row(row, scale, w, floats(y + 4 * r * n), n)


@njit(**OPTIONS)
def _add_weight_gradient(g, x, scale, dw, n):
    for i in range(n):
        dw[i] += g[i] * (x[i] * scale)


@njit(**OPTIONS)
def _norm_backward_row(g, x, w, scale, dx, n):
    for i in range(n):
        dx[i] = g[i] * w[i]
    excess = dot(dx, x, n) * (scale * scale / np.float32(n))
    for i in range(n):
        dx[i] = (dx[i] - x[i] * excess) * scale


def norm_backward(a):
    """dx, and where wanted, for every 64 rows the sum of their g * x * rstd."""
    rows, n, g, g_stride, x, stride, w, rstd = a[2], a[3], a[4], a[5], a[6], a[7], floats(a[8]), floats(a[9])
    dx, dw = a[10], a[11]
    first, last = share(a, (rows + ROWS_PER_SUM - 1) // ROWS_PER_SUM)
    for block in range(first, last):
        sums = floats(dw + 4 * block * n)
        if dw != 0:
            fill(sums, 0, n, np.float32(0))
        for r in range(block * ROWS_PER_SUM, min(rows, (block + 1) * ROWS_PER_SUM)):
            g_row, x_row = floats(g + 4 * r * g_stride), floats(x + 4 * r * stride)
            if dw != 0:
                _add_weight_gradient(g_row, x_row, rstd[r], sums, n)
            _norm_backward_row(g_row, x_row, w, rstd[r], floats(dx + 4 * r * n), n)


# --- SwiGLU -----------------------------------------------------------------------------------------------------------


@njit(inline="always", **OPTIONS)
def _sigmoid(x):
    x = -_LARGEST if -_LARGEST > x else x  # noqa: SIM300
    return ONE / (ONE + exp(-x))


@njit(**OPTIONS)
def _swiglu_row(gate, up, weight, out, n):
    for i in range(n):
        out[i] = gate[i] * _sigmoid(gate[i]) * up[i] * weight


def swiglu(a):
    """out = silu(gate) * up, times the row's weight if weights are given."""
    rows, n, gate, up, stride, weights, out = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    start, end = share(a, rows)
    for r in range(start, end):
        weight = floats(weights)[r] if weights != 0 else ONE
        _swiglu_row(floats(gate + 4 * r * stride), floats(up + 4 * r * stride), weight, floats(out + 4 * r * n), n)


@njit(**OPTIONS)
def _swiglu_backward_row(d, gate, up, d_gate, d_up, n):
    for i in range(n):
        sigmoid = _sigmoid(gate[i])
        silu = gate[i] * sigmoid
        slope = sigmoid + silu * (ONE - sigmoid)
        d_gate[i] = d[i] * up[i] * slope
        d_up[i] = d[i] * silu


@njit(**OPTIONS)
def _weighted_swiglu_backward_row(d, gate, up, weight, d_gate, d_up, act, n):
    for i in range(n):
        sigmoid = _sigmoid(gate[i])
        silu = gate[i] * sigmoid
        slope = sigmoid + silu * (ONE - sigmoid)
        weighted = d[i] * weight
        d_gate[i] = weighted * up[i] * slope
        d_up[i] = weighted * silu
        act[i] = silu * up[i]


def swiglu_backward(a):
    """Gradients of :func:`swiglu`'s gate and up; with weights, also their gradient and the recomputed output."""
    rows, n, d, gate, up, stride, d_gate, d_up, weights = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
    act, d_weight = a[11], a[12]
    start, end = share(a, rows)
    for r in range(start, end):
        at, d_row = 4 * r * stride, floats(d + 4 * r * n)
        gate_row, up_row = floats(gate + at), floats(up + at)
        d_gate_row, d_up_row = floats(d_gate + at), floats(d_up + at)
        if weights == 0:
            _swiglu_backward_row(d_row, gate_row, up_row, d_gate_row, d_up_row, n)
        else:
            weight, act_row = floats(weights)[r], floats(act + 4 * r * n)
            _weighted_swiglu_backward_row(d_row, gate_row, up_row, weight, d_gate_row, d_up_row, act_row, n)
            floats(d_weight)[r] = dot(d_row, act_row, n)
            scale(act_row, weight, n)


# --- Loss -------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _softmax(x, n):
    """In place."""
    exp_below(x, largest(x, n), n)
    scale(x, ONE / sum_of(x, n), n)


def softmax_loss(a):
    """Replace each row of logits by the gradient of its cross-entropy; keep its target's probability in `hit`."""
    rows, vocabulary, logits, targets, hit = a[2], a[3], a[4], integers(a[5]), floats(a[6])
    start, end = share(a, rows)
    for r in range(start, end):
        row = floats(logits + 4 * r * vocabulary)
        _softmax(row, vocabulary)
        hit[r] = row[targets[r]]
        row[targets[r]] -= ONE


# --- Choice -----------------------------------------------------------------------------------------------------------


@njit(inline="always", **OPTIONS)
def _above(x, y):
    """Whether x comes before y in falling order, in which NaN is the largest."""
    return x > y or (x != x and y == y)


def best(a):
    """Places of the k largest numbers of each row, in falling order, equal ones by their places."""
    rows, n, k, x, out = a[2], a[3], a[4], a[5], a[6]
    start, end = share(a, rows)
    for r in range(start, end):
        row, chosen = floats(x + 4 * r * n), integers(out + 8 * r * k)
        count = 0
        for i in range(n):
            if count == k and not _above(row[i], row[chosen[k - 1]]):
                continue
            j = min(count, k - 1)
            while j > 0 and _above(row[i], row[chosen[j - 1]]):
                chosen[j] = chosen[j - 1]
                j -= 1
            chosen[j] = i
            count = min(count + 1, k)
