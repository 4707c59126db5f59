"""Products of weight rows with a few inputs, for generation (numba compiles them).

Generation multiplies each weight matrix with few inputs, so its time is that of reading the weights. They are stored in
FP32, in BF16, or in int8 with one scale per row, and widened to FP32 in registers. A tile is some weight rows times
some inputs, as many as registers hold. Each of its sums runs through the inner dimension in 16 interleaved lanes of
fused multiply-adds, which are then joined by halves, whatever the tile's shape. So *a product's bits do not depend on
the number of inputs*, on the tile, on the threads, or on the width of the processor's vectors.

Rows come in blocks of 16 and inner dimensions in multiples of 16, padded with zeros. Narrow types lie in pairs of rows
(:mod:`clearseek.inference.storage`); FP32 rows lie one behind the other, as the cache's latents do.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from clearseek.kernels import BLOCK, TOGETHER
from clearseek.kernels.lanes import LANES, MANY_REGISTERS, OPTIONS

BYTES = (4, 2, 1)
"""Bytes of a stored weight. Kernels know its type by its place in `DTYPES` of :mod:`clearseek.inference.storage`."""


_ROWS, _MOST = (4, 4) if MANY_REGISTERS else (2, 3)
"""Weight rows of a tile, and its most inputs: what registers hold."""
_LINES = tuple(max(1, LANES * _ROWS * size // 64) for size in BYTES)
"""Cache lines of weights that a tile reads for 16 numbers of the inner dimension, by the type's place."""
_AHEAD = 4096
"""Bytes between the weights that are multiplied and those that are asked for from memory: farther, the processor's own
prefetcher loses the stream; nearer, they come too late."""
_FEW = 4
"""Inputs that stay in a core's nearest cache; a block of weight rows stays there while more pass."""

_NUMBER, _WORD, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _INTS = ir.VectorType(_NUMBER, LANES), ir.VectorType(_INT, LANES)


def _places(*numbers: int) -> Any:
    return ir.Constant(ir.VectorType(_INT, len(numbers)), [*numbers])


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _plus(builder: Any, address: Any, count: Any, size: int) -> Any:
    return builder.add(address, builder.mul(count, ir.Constant(_WORD, size)))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), [a, b, c])


def _prefetch(builder: Any, address: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.inttoptr(address, byte), *(ir.Constant(_INT, n) for n in (0, 3, 1))])


def _widened(builder: Any, address: Any, kind: int) -> Any:
    """Sixteen weights as FP32."""
    if kind == 0:
        return builder.load(_at(builder, address, _VECTOR), align=4, typ=_VECTOR)
    if kind == 2:
        stored = ir.VectorType(ir.IntType(8), LANES)
        raw = builder.load(_at(builder, address, stored), align=1, typ=stored)
        return builder.sitofp(builder.sext(raw, _INTS), _VECTOR)
    half = LANES // 2
    words = ir.VectorType(_INT, half)
    raw = builder.load(_at(builder, address, words), align=4, typ=words)
    first = builder.shl(raw, _places(*[16] * half))
    second = builder.and_(raw, _places(*[-65536] * half))
    return builder.bitcast(builder.shuffle_vector(first, second, _places(*range(LANES))), _VECTOR)


def _sums(builder: Any, four: Any) -> Any:
    """Sums of the lanes of four vectors, by halves: a vector of four."""

    def join(a: Any, b: Any, *low: int) -> Any:
        """What stands at places `low` of both plus what stands the same number of places further."""
        step = next(n for n in range(1, LANES) if n not in low)
        parts = (builder.shuffle_vector(a, b, _places(*(n + more for n in low))) for more in (0, step))
        return builder.fadd(*parts)

    halves = [join(v, v, *range(8)) for v in four]
    one, two = (join(halves[i], halves[i + 2], *range(4), *range(8, 12)) for i in (0, 1))
    both = join(one, two, 0, 1, 8, 9, 4, 5, 12, 13)
    return join(both, both, 0, 2, 4, 6)


def _loop(builder: Any, kind: int, w: Any, n: Any, xs: list[Any], soon: Any, span: Any) -> list[list[Any]]:
    """Sums in lanes of a tile's weight rows, the first of which is at `w`, times inputs: [input][row].

    Meanwhile `span` bytes at address `soon` are asked for from memory.
    """
    zero, size = ir.Constant(_VECTOR, None), LANES * BYTES[kind]
    sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(_ROWS)] for _ in xs]
    for total in (total for line in sums for total in line):
        builder.store(zero, total)
    together = TOGETHER if kind else 1
    apart = builder.mul(n, ir.Constant(_WORD, together * BYTES[kind]))
    part, steps = builder.udiv(span, ir.Constant(_WORD, _LINES[kind])), builder.udiv(n, ir.Constant(_WORD, LANES))
    pace = builder.udiv(builder.add(part, builder.sub(steps, ir.Constant(_WORD, 1))), steps)
    wanted = cgutils.alloca_once(builder, _WORD)
    builder.store(soon, wanted)
    with cgutils.for_range_slice(builder, ir.Constant(_WORD, 0), n, ir.Constant(_WORD, LANES), intp=_WORD) as (k, _):
        weights = []
        reached = builder.load(wanted)
        builder.store(builder.add(reached, pace), wanted)
        for i in range(_LINES[kind]):
            _prefetch(builder, _plus(builder, reached, part, i))
        for r in range(0, _ROWS, together):
            line = _plus(builder, _plus(builder, w, apart, r // together), k, together * BYTES[kind])
            weights += [
                _widened(builder, builder.add(line, ir.Constant(_WORD, i * size)), kind) for i in range(together)
            ]
        for x, totals in zip(xs, sums, strict=True):
            value = builder.load(_at(builder, _plus(builder, x, k, 4), _VECTOR), align=4, typ=_VECTOR)
            for weight, total in zip(weights, totals, strict=True):
                builder.store(_fma(builder, weight, value, builder.load(total, typ=_VECTOR)), total)
    return [[builder.load(total, typ=_VECTOR) for total in line] for line in sums]


def _store(builder: Any, sums: list[list[Any]], scales: Any, ys: list[Any]) -> None:
    """Join lanes, multiply by the rows' scales (int8), and write the results of each input."""
    together = 4 // _ROWS  # inputs whose sums are joined at once: four sums
    for i in range(0, len(sums), together):
        of = [min(j, len(sums) - 1) for j in range(i, i + together)]
        joined = _sums(builder, [total for j in of for total in sums[j]])
        for part, j in enumerate(of[: len(sums) - i]):
            result = joined
            if _ROWS < 4:
                result = builder.shuffle_vector(joined, joined, _places(*range(part * _ROWS, part * _ROWS + _ROWS)))
            if scales is not None:
                factor = builder.load(_at(builder, scales, result.type), align=4, typ=result.type)
                result = builder.fmul(result, factor)
            builder.store(result, _at(builder, ys[j], result.type), align=4)


def _strip(inputs: int, kind: int) -> Any:
    """An operation: weight rows, a few tiles of them, times `inputs` inputs.

    Its arguments: address of the rows, inner dimension, address of their scales (int8); address of input 0, bytes from
    an input to the next, address of the inputs' numbers; the same of the results; number of rows; address of what to
    ask for from memory, and how many bytes of it while each tile is multiplied.
    """

    @intrinsic
    def multiply(context: Any, w: Any, n: Any, scale: Any, x: Any, x_row: Any, x_at: Any, y: Any, y_row: Any,
                 y_at: Any, count: Any, soon: Any, span: Any) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            w, n, scale, x, x_row, x_at, y, y_row, y_at, count, soon, span = arguments

            def addresses(base: Any, row: Any, numbers: Any) -> list[Any]:
                pointer = _at(builder, numbers, _WORD)
                found = (builder.load(builder.gep(pointer, [ir.Constant(_WORD, i)]), typ=_WORD) for i in range(inputs))
                return [builder.add(base, builder.mul(row, number)) for number in found]

            xs, ys = addresses(x, x_row, x_at), addresses(y, y_row, y_at)
            start, step = (ir.Constant(_WORD, number) for number in (0, _ROWS))
            with cgutils.for_range_slice(builder, start, count, step, intp=_WORD) as (row, _):
                first = _plus(builder, w, builder.mul(row, n), BYTES[kind])
                wanted = builder.add(soon, builder.mul(builder.udiv(row, step), span))
                sums = _loop(builder, kind, first, n, xs, wanted, span)
                scales = _plus(builder, scale, row, 4) if kind == 2 else None
                _store(builder, sums, scales, [_plus(builder, y, row, 4) for y in ys])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return multiply


def _product(kind: int) -> Any:
    """The compiled product of weights of one type."""
    row = BYTES[kind]
    most, three, two, one = (_strip(inputs, kind) for inputs in (_MOST, 3, 2, 1))

    @njit(**OPTIONS)
    def product(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index):
        strips = (inputs + _MOST - 1) // _MOST
        rows, ahead, span = _ROWS, _AHEAD, _ROWS * n * row
        if strips > 1:  # they share the work of asking for weights
            span = (span // strips + 63) // 64 * 64
        if inputs > _FEW:
            rows, ahead = BLOCK, BLOCK * n * row
        for o in range(first, last, rows):
            block, scales, target = w + o * n * row, scale + 4 * o, y + 4 * o
            soon, i = block + ahead, 0
            while inputs - i >= _MOST and (_MOST == 4 or inputs - i != 4):  # four go better as two and two
                most(block, n, scales, x, x_row, x_index + 8 * i, target, y_row, y_index + 8 * i, rows, soon, span)
                i, soon = i + _MOST, soon + span * (rows // _ROWS)
            if _MOST == 4 and inputs - i == 3:
                three(block, n, scales, x, x_row, x_index + 8 * i, target, y_row, y_index + 8 * i, rows, soon, span)
                i += 3
            while inputs - i >= 2:
                two(block, n, scales, x, x_row, x_index + 8 * i, target, y_row, y_index + 8 * i, rows, soon, span)
                i, soon = i + 2, soon + span * (rows // _ROWS)
            if i < inputs:
                one(block, n, scales, x, x_row, x_index + 8 * i, target, y_row, y_index + 8 * i, rows, soon, span)

    return product


_of_f32, _of_bf16, _of_i8 = (_product(kind) for kind in range(3))


@njit(**OPTIONS)
def product(kind, first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index):
    """``y[y_index[i]][o] = w[o] . x[x_index[i]]`` for inputs i and weight rows first <= o < last, multiples of 16.

    `w`, `scale`, `x`, `y` are addresses; `n` is the inner dimension; `x_row` and `y_row` are bytes from a row to the
    next; the indices are addresses of int64 numbers.
    """
    if kind == 1:
        _of_bf16(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
    elif kind == 2:
        _of_i8(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
    else:
        _of_f32(first, last, n, w, scale, inputs, x, x_row, x_index, y, y_row, y_index)
