"""The phases of a step of generation, over a few tokens each (numba compiles them).

Queries are multiplied into the latents' space once ("absorbed", DeepSeek-V2 report, section 2.1.2), so that attention
reads a page's latents and rotary keys as they are cached. Each token sees the cached positions of its own sequence up
to its own. No sum depends on the other tokens of a step: a prompt read in pieces, a prompt read whole, and tokens
generated one by one have the same bits.

Arguments are addresses and sizes; sizes that change from step to step stand at addresses (`count`). Rows of weights and
buffers are padded with zeros to multiples of 16 numbers (:mod:`clearseek.inference.packed`). Shapes: T tokens of a
step, D hidden, H heads (rounded up to a multiple of 4), N channels without position, R latent rank, P rotary channels,
V value channels, C = R + P numbers cached, E experts, K experts per token, I width.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from clearseek.kernels import BLOCK, PAGE
from clearseek.kernels.lanes import (
    ONE,
    OPTIONS,
    call,
    copy,
    dot,
    exp,
    exp_below_largest,
    float_of,
    floats,
    integers,
    multiply_four,
    scale,
    share,
    widen,
)
from clearseek.kernels.tiles import BYTES, product

_LARGEST = np.float32(88)
_ZERO = np.float32(0)
_LOWEST = np.float32(-np.inf)


def matrix(a):
    """y = w x for `count` inputs: a linear layer, the router, or the output head."""
    rows, count, kind, n, w, scales = a[2], integers(a[3])[0], a[4], a[5], a[6], a[7]
    x, x_row, x_index, y, y_row, y_index = a[8], a[9], a[10], a[11], a[12], a[13]
    first, last = share(a, rows // BLOCK)
    product(
        kind, first * BLOCK, last * BLOCK, n, w, scales, count,
        x, 4 * x_row, x_index, y, 4 * y_row, y_index,
    )  # fmt: skip


def heads(a):
    """y[t, h] = w[h] x[t, h]: a matrix of its own for each head."""
    units, count, kind, n, outputs, w, scales = a[2], integers(a[3])[0], a[4], a[5], a[6], a[7], a[8]
    x, x_row, x_head, y, y_row, y_head, index = a[9], a[10], a[11], a[12], a[13], a[14], a[15]
    blocks, size = outputs // BLOCK, BYTES[kind]
    first, last = share(a, units * blocks)
    for unit in range(first, last):
        head, block = unit // blocks, unit % blocks
        product(
            kind, block * BLOCK, block * BLOCK + BLOCK, n,
            w + head * outputs * n * size, scales + 4 * head * outputs, count,
            x + 4 * head * x_head, 4 * x_row, index, y + 4 * head * y_head, 4 * y_row, index,
        )  # fmt: skip


def embed(a):
    """x[t] = table[tokens[t]], FP32 or BF16."""
    count, narrow, n, table, tokens, x, x_row = integers(a[3])[0], a[4], a[5], a[6], integers(a[7]), a[8], a[9]
    first, last = share(a, count)
    for t in range(first, last):
        row, y = tokens[t] * n, floats(x + 4 * t * x_row)
        if narrow != 0:
            widen(table + 2 * row, y, n)
        else:
            copy(floats(table + 4 * row), y, n)


# --- Norms and the residual stream ------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _norm(x, weight, eps, y, n):
    factor = ONE / np.float32(np.sqrt(dot(x, x, n) / np.float32(n) + eps))
    for i in range(n):
        y[i] = x[i] * factor * weight[i]


@njit(**OPTIONS)
def _add(x, y, n):
    for i in range(n):
        y[i] += x[i]


def norm(a):
    """y = norm(x)."""
    count, n, x, x_row = integers(a[3])[0], a[4], a[5], a[6]
    weight, eps, y, y_row = floats(a[7]), float_of(a[8]), a[9], a[10]
    first, last = share(a, count)
    for t in range(first, last):
        _norm(floats(x + 4 * t * x_row), weight, eps, floats(y + 4 * t * y_row), n)


def add_and_norm(a):
    """x = x + parts[t, 0] + parts[t, 1] + ... + more[t], in this order; y = norm(x).

    `parts` are k results of each token; `more` is 0 or one result more.
    """
    count, n, x, row = integers(a[3])[0], a[4], a[5], a[6]
    weight, eps, y, parts, k, more = floats(a[7]), float_of(a[8]), a[9], a[10], a[11], a[12]
    first, last = share(a, count)
    for t in range(first, last):
        stream = floats(x + 4 * t * row)
        for i in range(k):
            _add(floats(parts + 4 * (t * k + i) * row), stream, n)
        if more != 0:
            _add(floats(more + 4 * t * row), stream, n)
        _norm(stream, weight, eps, floats(y + 4 * t * row), n)


# --- Attention --------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _turn(x, turn, factor, y, n):
    """Multiply n / 2 complex numbers by `factor * turn`."""
    for i in range(n // 2):
        c, s = turn[2 * i] * factor, turn[2 * i + 1] * factor
        y[2 * i] = x[2 * i] * c - x[2 * i + 1] * s
        y[2 * i + 1] = x[2 * i] * s + x[2 * i + 1] * c


def remember(a):
    """Write each token's normalised latent and turned key into its place in the cache; norm its compressed query.

    `a[5]` holds, for each token, [compressed query | latent | key] in rows of `a[6]` numbers.
    """
    count, positions, x, row = integers(a[3])[0], integers(a[4]), a[5], a[6]
    q_rank, q_width, q_norm, rank, width, kv_norm, eps = a[7], a[8], a[9], a[10], a[11], floats(a[12]), float_of(a[13])
    rotary, turns, cache, cached, places = a[14], a[15], a[16], a[17], integers(a[18])
    first, last = share(a, count)
    for t in range(first, last):
        own = x + 4 * t * row
        if q_norm != 0:
            _norm(floats(own), floats(q_norm), eps, floats(own), q_rank)
        target = cache + 4 * places[t] * cached
        latent = own + 4 * q_width
        _norm(floats(latent), kv_norm, eps, floats(target), rank)
        turn = floats(turns + 4 * positions[t] * rotary)
        _turn(floats(latent + 4 * width), turn, ONE, floats(target + 4 * width), rotary)


def turn_queries(a):
    """Turn each head's rotary channels by the token's position, scaled, into its absorbed query."""
    count, positions, x, row, x_head = integers(a[3])[0], integers(a[4]), a[5], a[6], a[7]
    heads_, rotary, turns, factor, y, y_head, y_row = a[8], a[9], a[10], float_of(a[11]), a[12], a[13], a[14]
    first, last = share(a, count * heads_)
    for unit in range(first, last):
        t, h = unit // heads_, unit % heads_
        source, target = floats(x + 4 * (t * row + h * x_head)), floats(y + 4 * (t * y_row + h * y_head))
        _turn(source, floats(turns + 4 * positions[t] * rotary), factor, target, rotary)


def attend(a):
    """Weighted sums of the latents that each token sees, for four heads at a time."""
    groups, count, positions, page_lists = a[2], integers(a[3])[0], integers(a[4]), integers(a[5])
    cache, cached, rank, queries, q_row, out, out_row = a[6], a[7], a[8], a[9], a[10], a[11], a[12]
    scores, line, identity, factor = a[13] + 16 * call(a[0]) * a[14], a[14], a[15], float_of(a[16])
    first, last = share(a, count * groups)
    for unit in range(first, last):
        t, g = unit // groups, unit % groups
        seen, pages = positions[t] + 1, integers(page_lists[t])
        q, y = queries + 4 * (t * q_row + 4 * g * cached), out + 4 * (t * out_row + 4 * g * rank)
        for j in range((seen + PAGE - 1) // PAGE):
            latents = cache + 4 * pages[j] * PAGE * cached
            product(
                0, 0, PAGE, cached, latents, 0, 4,
                q, 4 * cached, identity, scores + 4 * j * PAGE, 4 * line, identity,
            )  # fmt: skip
        for h in range(4):
            row = floats(scores + 4 * h * line)
            scale(row, factor, seen)
            _, total = exp_below_largest(row, seen)
            scale(row, ONE / total, seen)
        for j in range((seen + PAGE - 1) // PAGE):
            latents, n = cache + 4 * pages[j] * PAGE * cached, min(PAGE, seen - j * PAGE)
            for c in range(0, rank, 16):
                multiply_four(
                    floats(scores + 4 * j * PAGE), line, 1, floats(latents + 4 * c), cached, n,
                    floats(y + 4 * c), rank, j,
                )  # fmt: skip


# --- Feed-forward -----------------------------------------------------------------------------------------------------


@njit(inline="always", **OPTIONS)
def _sigmoid(x):
    x = -_LARGEST if -_LARGEST > x else x  # noqa: SIM300
    x = _LARGEST if _LARGEST < x else x  # noqa: SIM300
    return ONE / (ONE + exp(-x))


@njit(**OPTIONS)
def _swiglu(gate, up, weight, y, n):
    for i in range(n):
        y[i] = gate[i] * _sigmoid(gate[i]) * up[i] * weight


@njit(**OPTIONS)
def _sigmoids(x, n):
    for i in range(n):
        x[i] = _sigmoid(x[i])


@njit(**OPTIONS)
def _best(choice, n):
    """Place of the largest number, the first of equals; it is then struck out."""
    place = 0
    for i in range(1, n):
        if choice[i] > choice[place]:
            place = i
    return place


@njit(**OPTIONS)
def _limit_groups(choice, experts, groups, kept, best):
    """Strike out the experts of all groups but the best, by the sum of their best one or two."""
    size = experts // groups
    totals = np.empty(groups, np.float32)
    for g in range(groups):
        one, two = _LOWEST, _LOWEST
        for i in range(g * size, g * size + size):
            if choice[i] > one:
                one, two = choice[i], one
            elif choice[i] > two:
                two = choice[i]
        totals[g] = one + two if best == 2 else one
    for _ in range(kept):
        totals[_best(totals, groups)] = _LOWEST
    for g in range(groups):
        if totals[g] != _LOWEST:
            for i in range(g * size, g * size + size):
                choice[i] = _LOWEST


@njit(**OPTIONS)
def _choose(scores, bias, experts, k, groups, kept, best, chosen):
    """The k best experts in falling order of biased scores, as :class:`clearseek.model.router.Router` chooses."""
    choice = np.empty(experts, np.float32)
    for e in range(experts):
        choice[e] = scores[e] + floats(bias)[e] if bias != 0 else scores[e]
    if groups > 1:
        _limit_groups(choice, experts, groups, kept, best)
    for i in range(k):
        e = _best(choice, experts)
        chosen[i] = e
        choice[e] = _LOWEST


@njit(**OPTIONS)
def _same(one, other, k):
    """Whether two choices are the same experts, in any order."""
    for i in range(k):
        found = 0
        for j in range(k):
            if one[i] == other[j]:
                found += 1
        if found != 1:
            return False
    return True


@njit(**OPTIONS)
def _judge(scores, bias, experts, k, groups, kept, best, told, margin):
    """0 if these experts would be chosen, 1 if they might be by scores that moved by `margin` at most, 2 if not.

    The scores of the told experts are raised, and the others' lowered.
    """
    own = np.empty(k, np.int64)
    _choose(scores, bias, experts, k, groups, kept, best, own)
    if _same(own, told, k):
        return 0
    moved = np.empty(experts, np.float32)
    for e in range(experts):
        moved[e] = scores[e] - margin
    for i in range(k):
        moved[told[i]] = scores[told[i]] + margin
    _choose(moved, bias, experts, k, groups, kept, best, own)
    return 1 if _same(own, told, k) else 2


def route(a):
    """Choose experts and weights of each token, and list each expert's tokens in rising order.

    One thread does it: pairs of token and choice are counted, then sorted by expert. With a margin that is not 0 the
    experts are told in `chosen`, and are judged (:func:`_judge`).
    """
    if call(a[0]) != 0:
        return
    count, experts, k, logits, row, bias, softmax = integers(a[3])[0], a[4], a[5], a[6], a[7], a[8], a[9]
    groups, kept, best, normalise, factor = a[10], a[11], a[12], a[13], float_of(a[14])
    chosen, weights, tokens, pairs, ends = a[15], floats(a[16]), integers(a[17]), integers(a[18]), integers(a[19])
    margin, verdicts = floats(a[20])[0], integers(a[21])
    for e in range(experts):
        ends[e] = 0
    for t in range(count):
        scores = floats(logits + 4 * t * row)
        if softmax != 0:
            _, total = exp_below_largest(scores, experts)
            scale(scores, ONE / total, experts)
        else:
            _sigmoids(scores, experts)
        own = integers(chosen + 8 * t * k)
        if margin == _ZERO:
            _choose(scores, bias, experts, k, groups, kept, best, own)
        else:
            verdicts[t] = _judge(scores, bias, experts, k, groups, kept, best, own, margin)
        total = np.float32(1e-20)
        for i in range(k):
            total += scores[own[i]]
            ends[own[i]] += 1
        for i in range(k):
            weight = scores[own[i]]
            weights[t * k + i] = (weight / total if normalise != 0 else weight) * factor
    start = 0
    for e in range(experts):
        start, ends[e] = start + ends[e], start
    own = integers(chosen)
    for pair in range(count * k):
        place = ends[own[pair]]
        ends[own[pair]] = place + 1
        tokens[place], pairs[place] = pair // k, pair


def gate(a):
    """silu(gate x) * up x * weight, for the tokens of each expert: [pair, I]."""
    experts, kind, n, width, w, scales = a[2], a[3], a[4], a[5], a[6], a[7]
    x, x_row, tokens, pairs, ends = a[8], a[9], a[10], a[11], integers(a[12])
    weights, y, y_row, inner, identity = a[13], a[14], a[15], a[16] + 8 * BLOCK * call(a[0]) * a[17], a[18]
    blocks, size = width // BLOCK, BYTES[kind]
    first, last = share(a, experts * blocks)
    for unit in range(first, last):
        e, o = unit // blocks, unit % blocks * BLOCK
        start = ends[e - 1] if e > 0 else 0
        inputs, row = ends[e] - start, 2 * unit * BLOCK
        if inputs == 0:
            continue
        product(
            kind, 0, 2 * BLOCK, n, w + row * n * size, scales + 4 * row, inputs,
            x, 4 * x_row, tokens + 8 * start, inner, 8 * BLOCK, identity,
        )  # fmt: skip
        for i in range(inputs):
            pair, own = integers(pairs)[start + i], inner + 8 * BLOCK * i
            weight = floats(weights)[pair] if weights != 0 else ONE
            _swiglu(floats(own), floats(own + 4 * BLOCK), weight, floats(y + 4 * (pair * y_row + o)), BLOCK)


def down(a):
    """down act, for the pairs of each expert: [pair, D]."""
    experts, kind, n, width, w, scales = a[2], a[3], a[4], a[5], a[6], a[7]
    x, x_row, pairs, ends, y, y_row = a[8], a[9], a[10], integers(a[11]), a[12], a[13]
    blocks, size = width // BLOCK, BYTES[kind]
    first, last = share(a, experts * blocks)
    for unit in range(first, last):
        e, o = unit // blocks, unit % blocks * BLOCK
        start, row = ends[e - 1] if e > 0 else 0, unit * BLOCK
        inputs = ends[e] - start
        product(
            kind, 0, BLOCK, n, w + row * n * size, scales + 4 * row, inputs,
            x, 4 * x_row, pairs + 8 * start, y + 4 * o, 4 * y_row, pairs + 8 * start,
        )  # fmt: skip
