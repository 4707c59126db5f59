"""Products of weight rows with a few inputs, for generation (numba compiles them).

Generation multiplies each weight matrix with few inputs, so its time is that of reading the weights. They are stored in
FP32, in BF16, or in int8 with one scale per row, and widened to FP32 in registers. A tile is some weight rows times
some inputs. Each of its sums runs through the inner dimension in 16 interleaved lanes of fused multiply-adds, which are
then joined by halves, whatever the tile's shape. So *a product's bits do not depend on the number of inputs*, on the
tile, on the threads, or on the width of the processor's vectors.

Inner dimensions are multiples of 16: rows of weights and inputs are padded with zeros.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from clearseek.kernels import BLOCK
from clearseek.kernels.lanes import LANES, OPTIONS, integers

KINDS = ("F32", "BF16", "I8")
"""Types of stored weights; kernels are told a type by its place here."""
BYTES = (4, 2, 1)

_NUMBER, _WORD, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _INTS = ir.VectorType(_NUMBER, LANES), ir.VectorType(_INT, LANES)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _plus(builder: Any, address: Any, count: Any, size: int) -> Any:
    return builder.add(address, builder.mul(count, ir.Constant(_WORD, size)))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), [a, b, c])


def _prefetch(builder: Any, address: Any) -> None:
    """Ask for a cache line of the tile after next: rows are too short for a processor to see them coming."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.inttoptr(address, byte), *(ir.Constant(_INT, n) for n in (0, 3, 1))])


def _widened(builder: Any, address: Any, kind: int) -> Any:
    """Sixteen weights as FP32."""
    if kind == 0:
        return builder.load(_at(builder, address, _VECTOR), align=4, typ=_VECTOR)
    stored = ir.VectorType(ir.IntType(8 * BYTES[kind]), LANES)
    raw = builder.load(_at(builder, address, stored), align=BYTES[kind], typ=stored)
    if kind == 2:
        return builder.sitofp(builder.sext(raw, _INTS), _VECTOR)
    return builder.bitcast(builder.shl(builder.zext(raw, _INTS), ir.Constant(_INTS, [16] * LANES)), _VECTOR)


def _joined(builder: Any, lanes: Any) -> Any:
    """Sum of sixteen lanes, by halves."""
    width = LANES
    while width > 1:
        undefined, half = ir.Constant(lanes.type, ir.Undefined), width // 2
        low, high = (
            builder.shuffle_vector(lanes, undefined, ir.Constant(ir.VectorType(_INT, half), [*places]))
            for places in (range(half), range(half, width))
        )
        lanes, width = builder.fadd(low, high), half
    return builder.extract_element(lanes, ir.Constant(_INT, 0))


def _tile(rows: int, inputs: int, kind: int) -> Any:
    """An operation: `rows` weight rows times `inputs` inputs.

    Its arguments: address of the first weight row, bytes from a row to the next, inner dimension, address of the rows'
    scales (int8), addresses of the inputs, addresses of the first result of each input (results of rows are adjacent).
    """

    @intrinsic
    def multiply(context: Any, w: Any, w_row: Any, n: Any, scale: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            w, w_row, n, scale, x, y = arguments
            lines = [_plus(builder, w, w_row, r) for r in range(rows)]
            sources = [builder.extract_value(x, i) for i in range(inputs)]
            sums = [
                [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(inputs)]
                for _ in range(rows)
            ]
            start, step = ir.Constant(_WORD, 0), ir.Constant(_WORD, LANES)
            with cgutils.for_range_slice(builder, start, n, step, intp=_WORD) as (k, _):
                for line in lines:
                    ahead = builder.add(line, builder.mul(w_row, ir.Constant(_WORD, 2 * rows)))
                    _prefetch(builder, _plus(builder, ahead, k, BYTES[kind]))
                weights = [_widened(builder, _plus(builder, line, k, BYTES[kind]), kind) for line in lines]
                for i, source in enumerate(sources):
                    place = _at(builder, _plus(builder, source, k, 4), _VECTOR)
                    value = builder.load(place, align=4, typ=_VECTOR)
                    for r, weight in enumerate(weights):
                        total = builder.load(sums[r][i], typ=_VECTOR)
                        builder.store(_fma(builder, weight, value, total), sums[r][i])
            for i in range(inputs):
                target = builder.extract_value(y, i)
                for r in range(rows):
                    total, offset = _joined(builder, builder.load(sums[r][i], typ=_VECTOR)), ir.Constant(_WORD, 4 * r)
                    if kind == 2:
                        place = _at(builder, builder.add(scale, offset), _NUMBER)
                        total = builder.fmul(total, builder.load(place, align=4, typ=_NUMBER))
                    builder.store(total, _at(builder, builder.add(target, offset), _NUMBER), align=4)
            return context.get_dummy_value()

        words, addresses = types.int64, types.UniTuple(types.int64, inputs)
        return types.void(words, words, words, words, addresses, addresses), generate

    return multiply


def _product(kind: int) -> Any:
    """The compiled product of weights of one type."""
    size = BYTES[kind]
    four_one, one_one = _tile(4, 1, kind), _tile(1, 1, kind)
    two_two, one_two = _tile(2, 2, kind), _tile(1, 2, kind)
    two_four, one_four = _tile(2, 4, kind), _tile(1, 4, kind)

    @njit(**OPTIONS)
    def product(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index):
        row = n * size
        x_at, y_at = integers(x_index), integers(y_index)
        for start in range(first, last, BLOCK):
            end = min(last, start + BLOCK)
            i = 0
            while i + 4 <= inputs:
                xs = (x + x_at[i] * x_row, x + x_at[i + 1] * x_row, x + x_at[i + 2] * x_row, x + x_at[i + 3] * x_row)
                y0, y1 = y + y_at[i] * y_row, y + y_at[i + 1] * y_row
                y2, y3 = y + y_at[i + 2] * y_row, y + y_at[i + 3] * y_row
                o = start
                while o + 2 <= end:
                    ys = (y0 + 4 * o, y1 + 4 * o, y2 + 4 * o, y3 + 4 * o)
                    two_four(w + o * row, row, n, scale + 4 * o, xs, ys)
                    o += 2
                if o < end:
                    ys = (y0 + 4 * o, y1 + 4 * o, y2 + 4 * o, y3 + 4 * o)
                    one_four(w + o * row, row, n, scale + 4 * o, xs, ys)
                i += 4
            while i + 2 <= inputs:
                xs2 = (x + x_at[i] * x_row, x + x_at[i + 1] * x_row)
                y0, y1 = y + y_at[i] * y_row, y + y_at[i + 1] * y_row
                o = start
                while o + 2 <= end:
                    two_two(w + o * row, row, n, scale + 4 * o, xs2, (y0 + 4 * o, y1 + 4 * o))
                    o += 2
                if o < end:
                    one_two(w + o * row, row, n, scale + 4 * o, xs2, (y0 + 4 * o, y1 + 4 * o))
                i += 2
            if i < inputs:
                xs1 = (x + x_at[i] * x_row,)
                y0 = y + y_at[i] * y_row
                o = start
                while o + 4 <= end:
                    four_one(w + o * row, row, n, scale + 4 * o, xs1, (y0 + 4 * o,))
                    o += 4
                while o < end:
                    one_one(w + o * row, row, n, scale + 4 * o, xs1, (y0 + 4 * o,))
                    o += 1

    return product


_of_f32, _of_bf16, _of_i8 = (_product(kind) for kind in range(3))


@njit(**OPTIONS)
def product(kind, first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index):
    """``y[y_index[i]][o] = w[o] . x[x_index[i]]`` for inputs i and weight rows first <= o < last.

    `w`, `scale`, `x`, `y` are addresses; `n` is the inner dimension; `x_row` and `y_row` are bytes from a row to the
    next; the indices are addresses of int64 numbers.
    """
    if kind == 1:
        _of_bf16(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
    elif kind == 2:
        _of_i8(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
    else:
        _of_f32(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
