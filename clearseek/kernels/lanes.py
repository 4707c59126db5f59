"""Parts of compiled loops: addresses, lanes, exp, rows, and a small matrix product.

Every thread of PyTorch's pool calls a kernel with the same array `a` of 64-bit numbers
(:func:`clearseek.kernels.launch.launch`): the addresses of OpenMP's functions for a thread's number and the number of
threads (which `OMP_THREAD_LIMIT` may lower), the number of pieces of work, then addresses of tensors, sizes and strides
in elements, bit patterns of floats. Each thread takes its share of the pieces. The result of a row depends on the row
alone: sums are taken in 16 interleaved lanes that are joined in one order (:func:`_reduce`), or along the inner
dimension of a product one by one (:func:`multiply_four`). So neither the number of threads nor the width of the
processor's vectors changes bits; only whether a product and a sum are one instruction (FMA) does.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

SIGNATURE = types.void(types.CPointer(types.int64))
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
LANES = 16
FLOATS = types.CPointer(types.float32)
ONE = np.float32(1)


def _many_registers() -> bool:
    """Whether the code is for a processor with AVX-512: 32 registers of 16 numbers instead of 16 registers of 8."""
    chosen = config.CPU_NAME  # type: ignore[attr-defined]
    if chosen:
        return "avx512" in f"{chosen} {config.CPU_FEATURES}"  # type: ignore[attr-defined]
    return bool(llvm.get_host_cpu_features().get("avx512f", False))


MANY_REGISTERS = _many_registers()
ROWS = 8 if MANY_REGISTERS else 4
"""Rows of a small product whose sums, 16 to a row, stay in registers together."""


def _constant(value: float) -> Any:
    return np.float32(value)


# exp(x) = 2^n e^r with n whole and |r| <= ln(2) / 2; ln(2) in two parts, and the polynomial of Cephes' expf.
_LOG2_E, _LN2_HIGH, _LN2_LOW = _constant(1.44269504), _constant(0.693359375), _constant(-2.12194440e-4)
_P0, _P1, _P2 = _constant(1.9875691500e-4), _constant(1.3981999507e-3), _constant(8.3334519073e-3)
_P3, _P4, _P5 = _constant(4.1665795894e-2), _constant(1.6666665459e-1), _constant(5.0000001201e-1)
_ROUND = _constant(1.5 * 2**23)
_SMALLEST = _constant(-87.0)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


@intrinsic
def floats(context: Any, address: Any) -> Any:
    """The float32 array at an address."""
    return FLOATS(types.int64), _pointer


@intrinsic
def integers(context: Any, address: Any) -> Any:
    """The int64 array at an address."""
    return types.CPointer(types.int64)(types.int64), _pointer


@intrinsic
def halves_of(context: Any, address: Any) -> Any:
    """The array of 16-bit numbers at an address."""
    return types.CPointer(types.uint16)(types.int64), _pointer


@intrinsic
def call(context: Any, address: Any) -> Any:
    """The result of the C function ``int f(void)`` at an address."""

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
def float64_of_bits(context: Any, bits: Any) -> Any:
    return types.float64(types.int64), _bitcast


def _reduce(builder: Any, pointers: Any, n: Any, first: Any, join: Any) -> Any:
    """Reduce n numbers, a multiple of 16, in 16 interleaved lanes, which are then joined by halves."""
    number = ir.FloatType()
    vector = ir.VectorType(number, LANES)
    lanes = cgutils.alloca_once_value(builder, ir.Constant(vector, [first] * LANES))
    start, step = ir.Constant(n.type, 0), ir.Constant(n.type, LANES)
    with cgutils.for_range_slice(builder, start, n, step, intp=n.type) as (i, _):
        places = (builder.bitcast(builder.gep(p, [i]), vector.as_pointer()) for p in pointers)
        factors = [builder.load(place, align=4, typ=vector) for place in places]
        value = factors[0] if len(factors) == 1 else builder.fmul(*factors, flags=("contract",))
        builder.store(join(value, builder.load(lanes, typ=vector)), lanes)
    whole = builder.load(lanes, typ=vector)
    parts = [builder.extract_element(whole, ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
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

    return types.float32(FLOATS, FLOATS, types.int64), generate


@intrinsic
def _sum_of_lanes(context: Any, x: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, arguments[:1], arguments[1], 0.0, builder.fadd)

    return types.float32(FLOATS, types.int64), generate


@intrinsic
def _largest_of_lanes(context: Any, x: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, arguments[:1], arguments[1], float("-inf"), larger)

    return types.float32(FLOATS, types.int64), generate


def _multiply(rows: int) -> Any:
    """Some rows times 16 columns of a matrix product: ``out[r][j] = sum over k < n of a[r][k] * b[k][j]``.

    Strides are in elements: `a_row` and `a_inner` from a row of a, or one of its numbers, to the next; `b_inner` and
    `out_row` likewise, while columns are adjacent. With `more` not 0 the sum begins with what is in `out`. The sums
    stay in registers, as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): of four
    rows, 92 % of the rate of MKL's product on one core of an Intel Xeon held to AVX2 (docs/notebook.md).
    """

    @intrinsic
    def multiply(context: Any, a: Any, a_row: Any, a_inner: Any, b: Any, b_inner: Any, n: Any, out: Any, out_row: Any,
                 more: Any) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_row, a_inner, b, b_inner, n, out, out_row, more = arguments
            number, word = ir.FloatType(), ir.IntType(64)
            vector = ir.VectorType(number, LANES)
            undefined, everywhere = (
                ir.Constant(vector, ir.Undefined),
                ir.Constant(ir.VectorType(ir.IntType(32), LANES), None),
            )

            def at(pointer: Any, stride: Any, index: Any) -> Any:
                return builder.gep(pointer, [builder.mul(stride, index)])

            def wide(pointer: Any) -> Any:
                return builder.bitcast(pointer, vector.as_pointer())

            counts = [ir.Constant(word, r) for r in range(rows)]
            lines, targets = [at(a, a_row, r) for r in counts], [wide(at(out, out_row, r)) for r in counts]
            sums = [cgutils.alloca_once(builder, vector) for _ in counts]
            with builder.if_else(builder.icmp_signed("!=", more, ir.Constant(word, 0))) as (then, otherwise):
                with then:
                    for total, target in zip(sums, targets, strict=True):
                        builder.store(builder.load(target, align=4, typ=vector), total)
                with otherwise:
                    for total in sums:
                        builder.store(ir.Constant(vector, None), total)
            with cgutils.for_range(builder, n, intp=word) as loop:
                columns = builder.load(wide(at(b, b_inner, loop.index)), align=4, typ=vector)
                for line, total in zip(lines, sums, strict=True):
                    one = builder.load(at(line, a_inner, loop.index), typ=number)
                    factor = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
                    factor = builder.shuffle_vector(factor, undefined, everywhere)
                    product = builder.fmul(factor, columns, flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(total, typ=vector), flags=("contract",)), total)
            for total, target in zip(sums, targets, strict=True):
                builder.store(builder.load(total, typ=vector), target, align=4)
            return context.get_dummy_value()

        words = types.int64
        return types.void(FLOATS, words, words, FLOATS, words, words, FLOATS, words, words), generate

    return multiply


multiply_four, _multiply_many = _multiply(4), _multiply(ROWS)


@njit(inline="always", **OPTIONS)
def float_of(bits):
    return np.float32(float64_of_bits(bits))


@njit(inline="always", **OPTIONS)
def share(a, units):
    """First and last unit (exclusive) of this thread's share of equal units."""
    thread = call(a[0])
    threads = call(a[1])
    return units * thread // threads, units * (thread + 1) // threads


@njit(**OPTIONS)
def dot(x, y, n):
    """Sum of products, in an order that depends on n alone."""
    whole = n - n % LANES
    total = _dot_of_lanes(x, y, whole)
    for i in range(whole, n):
        total += x[i] * y[i]
    return total


@njit(**OPTIONS)
def sum_of(x, n):
    """Sum, in an order that depends on n alone."""
    whole = n - n % LANES
    total = _sum_of_lanes(x, whole)
    for i in range(whole, n):
        total += x[i]
    return total


@njit(inline="always", **OPTIONS)
def exp(x):
    """e^x to a relative 1e-7 for -87 <= x <= 88, and e^-87 below; no x may be above 88.

    LLVM's code for x86-64 returns NaN for NaN (tested), though its language leaves a NaN's whole number undefined.
    """
    x = _SMALLEST if _SMALLEST > x else x  # noqa: SIM300  (in this order NaN stays, in one instruction)
    n = x * _LOG2_E + _ROUND - _ROUND
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    p = p * r * r + r + ONE
    return p * _float32_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


# --- Rows -------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def fill(x, start, end, value):
    for i in range(start, end):
        x[i] = value


@njit(**OPTIONS)
def copy(x, y, n):
    for i in range(n):
        y[i] = x[i]


@njit(**OPTIONS)
def widen(x, y, n):
    """y = x, whose BF16 numbers lie at an address."""
    halves = halves_of(x)
    for i in range(n):
        y[i] = _float32_of_bits(np.int32(halves[i]) << np.int32(16))


@njit(**OPTIONS)
def multiply(x, factor, y, n):
    for i in range(n):
        y[i] = x[i] * factor


@njit(**OPTIONS)
def largest(x, n):
    whole = n - n % LANES
    most = _largest_of_lanes(x, whole)
    for i in range(whole, n):
        most = x[i] if x[i] > most else most
    return most


@njit(**OPTIONS)
def scale(x, factor, n):
    """Multiply in place; with two pointers to the same numbers, LLVM would not use vectors."""
    for i in range(n):
        x[i] *= factor


@njit(**OPTIONS)
def exp_below(x, most, n):
    """Replace each x by e^(x - most)."""
    for i in range(n):
        x[i] = exp(x[i] - most)


@njit(**OPTIONS)
def exp_below_largest(x, n):
    """Replace each of the first n numbers x by e^(x - largest), and those up to the next multiple of 16 by 0.

    Returns the largest number and the sum.
    """
    most, width = largest(x, n), n + -n % LANES
    exp_below(x, most, n)
    fill(x, n, width, np.float32(0))
    return most, sum_of(x, width)


@njit(**OPTIONS)
def transpose(x, row, y, line, rows, columns):
    """y[c][r] = x[r][c], 16 rows at a time, so that a cache line read again is still in cache."""
    for first in range(0, rows, 16):
        n = min(16, rows - first)
        for c in range(columns):
            source, target = floats(x + 4 * (first * row + c)), floats(y + 4 * (c * line + first))
            for r in range(n):
                target[r] = source[r * row]


@njit(**OPTIONS)
def multiply_strip(a, a_row, a_inner, b, b_inner, n, out, out_row, rows, more):
    """Any number of rows times 16 columns, as :func:`_multiply`; a, b and out are addresses."""
    r = 0
    while r + ROWS <= rows:
        here = floats(a + 4 * r * a_row), floats(b), floats(out + 4 * r * out_row)
        _multiply_many(here[0], a_row, a_inner, here[1], b_inner, n, here[2], out_row, more)
        r += ROWS
    while r + 4 <= rows:
        here = floats(a + 4 * r * a_row), floats(b), floats(out + 4 * r * out_row)
        multiply_four(here[0], a_row, a_inner, here[1], b_inner, n, here[2], out_row, more)
        r += 4
    while r < rows:  # the same row four times
        here = floats(a + 4 * r * a_row), floats(b), floats(out + 4 * r * out_row)
        multiply_four(here[0], 0, a_inner, here[1], b_inner, n, here[2], 0, more)
        r += 1
