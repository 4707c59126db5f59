"""Loops compiled by numba, each one pass over memory.

A kernel is called by every thread of PyTorch's pool with the same array `a` of 64-bit numbers
(:func:`clearseek.kernels.launch.launch`): the address of OpenMP's thread number, the number of threads, pieces of work,
then addresses of tensors, sizes and strides in elements, bit patterns of floats. Each thread takes its share of the
pieces. What a row gives depends on nothing but the row: sums are taken in 16 interleaved lanes that are joined in one
order (:func:`_reduce`), so neither the number of threads nor the width of the processor's vectors changes bits. Only
whether a product and a sum are one instruction (FMA) does.

All stands in one file because numba's disk cache looks at a kernel's own file only: a helper from elsewhere that was
changed would leave old machine code in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SIGNATURE = types.void(types.CPointer(types.int64))
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
ROWS_PER_SUM = 64
"""Rows whose gradients of a norm's weight are added up together, whatever the number of threads."""

_LANES = 16
_FLOATS = types.CPointer(types.float32)
_ONE = np.float32(1)


def _constant(value: float) -> Any:
    return np.float32(value)


# exp(x) = 2^n e^r with n whole and |r| <= ln(2) / 2; ln(2) in two parts, and the polynomial of Cephes' expf.
_LOG2_E, _LN2_HIGH, _LN2_LOW = _constant(1.44269504), _constant(0.693359375), _constant(-2.12194440e-4)
_P0, _P1, _P2 = _constant(1.9875691500e-4), _constant(1.3981999507e-3), _constant(8.3334519073e-3)
_P3, _P4, _P5 = _constant(4.1665795894e-2), _constant(1.6666665459e-1), _constant(5.0000001201e-1)
_ROUND = _constant(1.5 * 2**23)
_SMALLEST, _LARGEST = _constant(-87.0), _constant(88.0)


@intrinsic
def _floats(context: Any, address: Any) -> Any:
    """The float32 array at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return _FLOATS(types.int64), generate


@intrinsic
def _integers(context: Any, address: Any) -> Any:
    """The int64 array at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def _call(context: Any, address: Any) -> Any:
    """What the C function ``int f(void)`` at an address returns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], function), [])

    return types.int32(types.int64), generate


def _bitcast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


@intrinsic
def _float32_of_bits(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), _bitcast


@intrinsic
def _float64_of_bits(context: Any, bits: Any) -> Any:
    return types.float64(types.int64), _bitcast


def _reduce(builder: Any, pointers: Any, n: Any, first: Any, join: Any) -> Any:
    """Reduce n numbers, a multiple of 16, in 16 interleaved lanes which are then joined by halves."""
    number = ir.FloatType()
    vector = ir.VectorType(number, _LANES)
    lanes = cgutils.alloca_once_value(builder, ir.Constant(vector, [first] * _LANES))
    start, step = ir.Constant(n.type, 0), ir.Constant(n.type, _LANES)
    with cgutils.for_range_slice(builder, start, n, step, intp=n.type) as (i, _):
        places = (builder.bitcast(builder.gep(p, [i]), vector.as_pointer()) for p in pointers)
        factors = [builder.load(place, align=4, typ=vector) for place in places]
        value = factors[0] if len(factors) == 1 else builder.fmul(*factors, flags=("contract",))
        builder.store(join(value, builder.load(lanes, typ=vector)), lanes)
    whole = builder.load(lanes, typ=vector)
    parts = [builder.extract_element(whole, ir.Constant(ir.IntType(32), i)) for i in range(_LANES)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [join(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


@intrinsic
def _dot_of_lanes(context: Any, x: Any, y: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def add(a: Any, b: Any) -> Any:
            return builder.fadd(a, b, flags=("contract",))

        return _reduce(builder, arguments[:2], arguments[2], 0.0, add)

    return types.float32(_FLOATS, _FLOATS, types.int64), generate


@intrinsic
def _largest_of_lanes(context: Any, x: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, arguments[:1], arguments[1], float("-inf"), larger)

    return types.float32(_FLOATS, types.int64), generate


@njit(inline="always", **OPTIONS)
def _float(bits):
    return np.float32(_float64_of_bits(bits))


@njit(inline="always", **OPTIONS)
def _share(a, units):
    """First and last unit (exclusive) of this thread's share of equal units."""
    thread = _call(a[0])
    threads = a[1]
    return units * thread // threads, units * (thread + 1) // threads


@njit(**OPTIONS)
def dot(x, y, n):
    """Sum of products, in an order that depends on n alone."""
    whole = n - n % _LANES
    total = _dot_of_lanes(x, y, whole)
    for i in range(whole, n):
        total += x[i] * y[i]
    return total


@njit(inline="always", **OPTIONS)
def exp(x):
    """e^x to 1e-7 of itself for -87 <= x <= 88, below that what it is at -87; NaN for NaN. No x may be above 88."""
    x = _SMALLEST if _SMALLEST > x else x  # noqa: SIM300  (in this order NaN stays, in one instruction)
    n = x * _LOG2_E + _ROUND - _ROUND
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    p = p * r * r + r + _ONE
    return p * _float32_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(inline="always", **OPTIONS)
def _sigmoid(x):
    x = -_LARGEST if -_LARGEST > x else x  # noqa: SIM300
    return _ONE / (_ONE + exp(-x))


@njit(**OPTIONS)
def exp_row(x, y, n):
    for i in range(n):
        y[i] = exp(x[i])


def exponential(a):
    """y = exp(x): for tests."""
    start, end = _share(a, a[2])
    exp_row(_floats(a[3] + 4 * start), _floats(a[4] + 4 * start), end - start)


# --- Norm -------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _scale_row(x, scale, w, y, n):
    for i in range(n):
        y[i] = x[i] * scale * w[i]


@njit(**OPTIONS)
def _add_row(x, y, out, n):
    for i in range(n):
        out[i] = x[i] + y[i]


def norm(a):
    """y = w * x * rstd and rstd = 1 / sqrt(mean(x^2) + eps)."""
    rows, n, x, stride, w, eps, y, rstd = a[2], a[3], a[4], a[5], _floats(a[6]), _float(a[7]), a[8], _floats(a[9])
    start, end = _share(a, rows)
    for r in range(start, end):
        row = _floats(x + 4 * r * stride)
        scale = _ONE / np.float32(np.sqrt(dot(row, row, n) / np.float32(n) + eps))
        rstd[r] = scale
        _scale_row(row, scale, w, _floats(y + 4 * r * n), n)


@njit(**OPTIONS)
def _norm_backward_row(g, x, w, scale, dx, dw, n):
    for i in range(n):
        dw[i] += g[i] * (x[i] * scale)
        dx[i] = g[i] * w[i]
    excess = dot(dx, x, n) * (scale * scale / np.float32(n))
    for i in range(n):
        dx[i] = (dx[i] - x[i] * excess) * scale


def norm_backward(a):
    """dx, and for every 64 rows the sum of their g * x * rstd."""
    rows, n, g, g_stride, x, stride, w, rstd = a[2], a[3], a[4], a[5], a[6], a[7], _floats(a[8]), _floats(a[9])
    dx, dw = a[10], a[11]
    first, last = _share(a, (rows + ROWS_PER_SUM - 1) // ROWS_PER_SUM)
    for block in range(first, last):
        sums = _floats(dw + 4 * block * n)
        _fill(sums, 0, n, np.float32(0))
        for r in range(block * ROWS_PER_SUM, min(rows, (block + 1) * ROWS_PER_SUM)):
            g_row, x_row = _floats(g + 4 * r * g_stride), _floats(x + 4 * r * stride)
            _norm_backward_row(g_row, x_row, w, rstd[r], _floats(dx + 4 * r * n), sums, n)


# --- SwiGLU -----------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _swiglu_row(gate, up, weight, out, n):
    for i in range(n):
        out[i] = gate[i] * _sigmoid(gate[i]) * up[i] * weight


def swiglu(a):
    """out = silu(gate) * up, times the row's weight where there are weights."""
    rows, n, gate, up, stride, weights, out = a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    start, end = _share(a, rows)
    for r in range(start, end):
        weight = _floats(weights)[r] if weights != 0 else _ONE
        _swiglu_row(_floats(gate + 4 * r * stride), _floats(up + 4 * r * stride), weight, _floats(out + 4 * r * n), n)


@njit(**OPTIONS)
def _swiglu_backward_row(d, gate, up, d_gate, d_up, n):
    for i in range(n):
        sigmoid = _sigmoid(gate[i])
        silu = gate[i] * sigmoid
        slope = sigmoid + silu * (_ONE - sigmoid)
        d_gate[i] = d[i] * up[i] * slope
        d_up[i] = d[i] * silu


@njit(**OPTIONS)
def _weighted_swiglu_backward_row(d, gate, up, weight, d_gate, d_up, act, n):
    for i in range(n):
        sigmoid = _sigmoid(gate[i])
        silu = gate[i] * sigmoid
        slope = sigmoid + silu * (_ONE - sigmoid)
        weighted = d[i] * weight
        d_gate[i] = weighted * up[i] * slope
        d_up[i] = weighted * silu
        act[i] = silu * up[i]


@njit(**OPTIONS)
def _multiply_row(x, factor, n):
    for i in range(n):
        x[i] *= factor


def swiglu_backward(a):
    """Gradients of :func:`swiglu`'s gate and up; where there are weights, theirs too, and its output again."""
    rows, n, d, gate, up, stride, d_gate, d_up, weights = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
    act, d_weight = a[11], a[12]
    start, end = _share(a, rows)
    for r in range(start, end):
        at, d_row = 4 * r * stride, _floats(d + 4 * r * n)
        gate_row, up_row = _floats(gate + at), _floats(up + at)
        d_gate_row, d_up_row = _floats(d_gate + at), _floats(d_up + at)
        if weights == 0:
            _swiglu_backward_row(d_row, gate_row, up_row, d_gate_row, d_up_row, n)
        else:
            weight, act_row = _floats(weights)[r], _floats(act + 4 * r * n)
            _weighted_swiglu_backward_row(d_row, gate_row, up_row, weight, d_gate_row, d_up_row, act_row, n)
            _floats(d_weight)[r] = dot(d_row, act_row, n)
            _multiply_row(act_row, weight, n)


# --- Attention --------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _largest(x, n):
    whole = n - n % _LANES
    most = _largest_of_lanes(x, whole)
    for i in range(whole, n):
        most = x[i] if x[i] > most else most
    return most


@njit(**OPTIONS)
def _exp_below(x, most, n):
    for i in range(n):
        x[i] = exp(x[i] - most)


@njit(**OPTIONS)
def _fill(x, start, end, value):
    for i in range(start, end):
        x[i] = value


@njit(**OPTIONS)
def _softmax_row(x, ones, n, width):
    """Softmax of the first n numbers, in place; the rest up to `width` become 0."""
    _exp_below(x, _largest(x, n), n)
    _fill(x, n, width, np.float32(0))
    total = dot(x, ones, min(width, n + -n % _LANES))
    _multiply_row(x, _ONE / total, n)
    return total


def causal_softmax(a):
    """Softmax in place where row q of each block of rows sees `before + q + 1` of its `keys` numbers."""
    blocks, queries, keys, before, scores, ones = a[2], a[3], a[4], a[5], a[6], _floats(a[7])
    start, end = _share(a, blocks)
    for b in range(start, end):
        for q in range(queries):
            _softmax_row(_floats(scores + 4 * (b * queries + q) * keys), ones, before + q + 1, keys)


@njit(**OPTIONS)
def _softmax_backward_row(p, dp, n, width):
    inner = dot(p, dp, n)
    for i in range(n):
        dp[i] = p[i] * (dp[i] - inner)
    _fill(dp, n, width, np.float32(0))


def causal_softmax_backward(a):
    """Gradient of the scores in place of the probabilities' gradient."""
    blocks, queries, keys, before, p, dp = a[2], a[3], a[4], a[5], a[6], a[7]
    start, end = _share(a, blocks)
    for b in range(start, end):
        for q in range(queries):
            at = 4 * (b * queries + q) * keys
            _softmax_backward_row(_floats(p + at), _floats(dp + at), before + q + 1, keys)


@njit(**OPTIONS)
def _scaled_row(x, scale, y, n):
    for i in range(n):
        y[i] = x[i] * scale


@njit(**OPTIONS)
def _copy_row(x, y, n):
    for i in range(n):
        y[i] = x[i]


@njit(**OPTIONS)
def _turn_row(x, turn, scale, sign, y, n):
    """Multiply complex numbers by `scale * turn`, conjugated for sign -1."""
    for i in range(n):
        real, imaginary = x[2 * i], x[2 * i + 1]
        c, s = turn[2 * i] * scale, turn[2 * i + 1] * scale * sign
        y[2 * i] = real * c - imaginary * s
        y[2 * i + 1] = real * s + imaginary * c


def queries(a):
    """Between [B, S, H, C] and [B, H, S, C]: scale, and turn the channels after the first `nope`.

    `sign` 1 goes from the first to the second; -1 turns back, from the second to the first.
    """
    batch, length, heads, nope, rotary, scale, sign, flat = a[2], a[3], a[4], a[5], a[6], _float(a[7]), a[8], a[9]
    turn, laid = a[10], a[11]
    channels = nope + rotary
    start, end = _share(a, batch * length)
    for row in range(start, end):
        b, s = row // length, row % length
        turn_row = _floats(turn + 4 * s * rotary)
        for h in range(heads):
            one = flat + 4 * (row * heads + h) * channels
            other = laid + 4 * ((b * heads + h) * length + s) * channels
            source, target = (one, other) if sign > 0 else (other, one)
            _scaled_row(_floats(source), scale, _floats(target), nope)
            _turn_row(
                _floats(source + 4 * nope), turn_row, scale, np.float32(sign), _floats(target + 4 * nope), rotary // 2
            )


def keys_and_values(a):
    """Expanded latents [B, S, H, N + V] and the shared rotary key to keys [B, H, S, C] and values [B, H, S, V]."""
    batch, length, heads, nope, rotary, values, kv, rope, k = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
    v = a[11]
    start, end = _share(a, batch * length)
    for row in range(start, end):
        b, s = row // length, row % length
        shared = _floats(rope + 4 * row * rotary)
        for h in range(heads):
            one, other = row * heads + h, (b * heads + h) * length + s
            source, key = kv + 4 * one * (nope + values), k + 4 * other * (nope + rotary)
            _copy_row(_floats(source), _floats(key), nope)
            _copy_row(shared, _floats(key + 4 * nope), rotary)
            _copy_row(_floats(source + 4 * nope), _floats(v + 4 * other * values), values)


def keys_and_values_backward(a):
    """The way back; the shared rotary key's gradient is the sum over heads, in their order."""
    batch, length, heads, nope, rotary, values, d_kv, d_rope = a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]
    dk, dv = a[10], a[11]
    start, end = _share(a, batch * length)
    for row in range(start, end):
        b, s = row // length, row % length
        shared = _floats(d_rope + 4 * row * rotary)
        _fill(shared, 0, rotary, np.float32(0))
        for h in range(heads):
            one, other = row * heads + h, (b * heads + h) * length + s
            target, key = d_kv + 4 * one * (nope + values), dk + 4 * other * (nope + rotary)
            _copy_row(_floats(key), _floats(target), nope)
            _add_row(shared, _floats(key + 4 * nope), shared, rotary)
            _copy_row(_floats(dv + 4 * other * values), _floats(target + 4 * nope), values)


# --- Loss -------------------------------------------------------------------------------------------------------------


def softmax_loss(a):
    """Each row of logits becomes the gradient of its cross-entropy; the probability of its target is kept."""
    rows, vocabulary, logits, targets, ones, hit = a[2], a[3], a[4], _integers(a[5]), _floats(a[6]), _floats(a[7])
    start, end = _share(a, rows)
    for r in range(start, end):
        row = _floats(logits + 4 * r * vocabulary)
        _softmax_row(row, ones, vocabulary, vocabulary)
        hit[r] = row[targets[r]]
        row[targets[r]] -= _ONE
