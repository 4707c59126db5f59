"""Loops of a draw: exp and log in FP64, the noise of tokens, and the largest sum of logit and noise.

What a draw depends on has the same bits on every processor: exp and log are those of fdlibm (Sun Microsystems, 1993;
below one unit in the last place), made of single additions, products and quotients, which no processor rounds in
another way. NumPy's and the C library's choose their code by the processor's instructions. Here products and sums are
never joined (no "contract", unlike in :mod:`clearseek.kernels.lanes`), and sums are taken in four lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from clearseek.kernels.lanes import _bitcast, _pointer, call, float64_of_bits, floats, integers, share

EXACT: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
"""Without `fastmath` a function would take over its caller's."""
DOUBLES = types.CPointer(types.float64)
_MOST_NOISE = 37.5
"""No noise is larger: ``-ln(-ln(1 - 2^-54))`` is 37.43."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11, _1 = (np.uint64(n) for n in (30, 27, 31, 11, 1))

_LN2, _LN2_HIGH, _LN2_LOW = 0.6931471805599453, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG2_E = 1.44269504088896338700
_ROUND = 1.5 * 2.0**52
_SMALLEST = -708.0
_E1, _E2, _E3 = 1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05
_E4, _E5 = -1.65339022054652515390e-06, 4.13813679705723846039e-08
_L1, _L2, _L3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
_L4, _L5, _L6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
_L7 = 1.479819860510658591e-01
_HALF_ROOT = 0x3FE6A09E00000000
"""Bits of the square root of 1/2, cut."""


@intrinsic
def doubles(context: Any, address: Any) -> Any:
    """The float64 array at an address."""
    return DOUBLES(types.int64), _pointer


@intrinsic
def _bits_of(context: Any, number: Any) -> Any:
    return types.int64(types.float64), _bitcast


@njit(**EXACT)
def exp(x):
    """e^x for x <= 0; 0 below -708."""
    t = max(x, _SMALLEST) * _LOG2_E + _ROUND  # the low bits of t are the whole number n in x = n ln(2) + r
    n = t - _ROUND
    high, low = max(x, _SMALLEST) - n * _LN2_HIGH, n * _LN2_LOW
    r = high - low
    z = r * r
    c = r - z * (_E1 + z * (_E2 + z * (_E3 + z * (_E4 + z * _E5))))
    y = 1.0 - ((low - r * c / (2.0 - c)) - high)
    y *= float64_of_bits((_bits_of(t) + 1023) << 52)
    return y if x >= _SMALLEST else 0.0


@njit(**EXACT)
def log(x):
    """ln(x) for a normal x > 0."""
    bits = _bits_of(x) - _HALF_ROOT
    k = np.float64(bits >> 52)
    f = float64_of_bits((bits & 0xFFFFFFFFFFFFF) + _HALF_ROOT) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * (_L1 + w * (_L3 + w * (_L5 + w * _L7))) + w * (_L2 + w * (_L4 + w * _L6))
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + r) + k * _LN2_LOW)) - f)


@njit(**EXACT)
def _mixed(x):
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of a number depends on all of them."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@njit(**EXACT)
def _place(seed, position):
    """What the noise of all tokens at a position has in common."""
    return _mixed(_mixed(np.uint64(seed) * _GOLDEN) + np.uint64(position + 1) * _GOLDEN)


@njit(**EXACT)
def _bits(place, token):
    """53 random bits of a token."""
    return np.int64(_mixed(place + np.uint64(token + 1) * _GOLDEN) >> _11)


@njit(**EXACT)
def _noise(bits):
    return -log(-log((np.float64(bits) + 0.5) * 2.0**-53))


@njit(**EXACT)
def _fill(place, tokens, out, n):
    for i in range(n):
        out[i] = _noise(_bits(place, tokens[i]))


@njit(**EXACT)
def _pick(place, tokens, logits, n):
    """Index of the largest sum, the first of equals. Most tokens need no logarithm.

    For a uniform u, ``-ln(-ln(u)) <= -ln(1 - u)``, and the exponent of 1 - u gives a bound of that.
    """
    best, chosen = -np.inf, 0
    for i in range(n):
        if logits[i] + _MOST_NOISE > best:
            bits = _bits(place, i if tokens == 0 else integers(tokens)[i])
            exponent = (_bits_of(np.float64((1 << 53) - bits)) >> 52) - 1023
            if logits[i] + np.float64(54 - exponent) * _LN2 + 1e-9 > best:
                total = logits[i] + _noise(bits)
                if total > best:
                    best, chosen = total, i
    return chosen


@njit(**EXACT)
def _exponentials(x, y, n):
    for i in range(n):
        y[i] = exp(x[i])


@njit(**EXACT)
def _sum(x, n):
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = n - n % 4
    for i in range(0, whole, 4):
        a, b, c, d = a + x[i], b + x[i + 1], c + x[i + 2], d + x[i + 3]
    total = (a + b) + (c + d)
    for i in range(whole, n):
        total += x[i]
    return total


@njit(**EXACT)
def _subtract(x, number, y, n):
    for i in range(n):
        y[i] = x[i] - number


@njit(**EXACT)
def _log_probabilities(x, most, y, scratch, n):
    for i in range(n):
        y[i] = np.float64(x[i]) - most
    _exponentials(y, scratch, n)
    _subtract(y, log(_sum(scratch, n)), y, n)


@njit(**EXACT)
def _scale(x, temperature, y, e, n):
    """y = (x - largest) / temperature; the logarithm of the sum of e^y, or NaN where x is not finite."""
    most = x[0]
    for i in range(n):
        most = max(most, x[i])
    for i in range(n):
        y[i] = (np.float64(x[i]) - np.float64(most)) / temperature
    _exponentials(y, e, n)
    total = _sum(e, n)
    for i in range(n):
        if y[i] != y[i]:  # exp takes NaN for a small number
            total = np.nan
    return log(total) if total == total else np.nan


def rows(a):
    """tokens[r], logp[r] = a draw from row of[r] of the logits, by its own seed and position.

    Draws from one row that stand side by side share its exponentials.
    """
    start, end = share(a, a[2])
    of, n, temperature = integers(a[5]), a[7], float64_of_bits(a[8])
    scratch = a[9] + 16 * n * call(a[0])
    y, e, row, total = doubles(scratch), doubles(scratch + 8 * n), np.int64(-1), 0.0
    for r in range(start, end):
        if of[r] != row:
            row = of[r]
            total = _scale(floats(a[6] + 4 * n * row), temperature, y, e, n)
        token = _pick(_place(integers(a[3])[r], integers(a[4])[r]), 0, y, n)
        integers(a[10])[r] = token
        doubles(a[11])[r] = y[token] - total


def weigh(a):
    """logp[c], first[c] = ln of token[c]'s probability in row of[c] of the logits, and the place of the row's largest.

    A row with a NaN or an infinite largest gives NaN. Tokens of one row that stand side by side share its exponentials.
    """
    start, end = share(a, a[2])
    of, token, n = integers(a[3]), integers(a[4]), a[6]
    scratch = a[7] + 16 * n * call(a[0])
    y, e, row, best = doubles(scratch), doubles(scratch + 8 * n), np.int64(-1), 0
    for c in range(start, end):
        if of[c] != row:
            row = of[c]
            x = floats(a[5] + 4 * n * row)
            best, finite = 0, True
            for i in range(n):
                finite = finite and x[i] == x[i]
                if x[i] > x[best]:
                    best = i
            most = np.float64(x[best]) if finite and abs(x[best]) < np.inf else np.nan
            _log_probabilities(x, most, y, e, n)
        doubles(a[8])[c] = y[token[c]]
        integers(a[9])[c] = best


# --- What is launched, with one piece of work -------------------------------------------------------------------------


def noise(a):
    """out[i] = Gumbel noise of tokens[i], by seed and position."""
    start, end = share(a, a[2])
    if start < end:
        _fill(_place(a[3], a[4]), integers(a[5]), doubles(a[6]), a[7])


def pick(a):
    """out[0] = index of the largest logits[i] + noise of tokens[i] (of i, where no tokens are given)."""
    start, end = share(a, a[2])
    if start < end:
        integers(a[8])[0] = _pick(_place(a[3], a[4]), a[5], doubles(a[6]), a[7])


def exponentials(a):
    """y = e^x, for x <= 0, and total[0] = their sum."""
    start, end = share(a, a[2])
    if start < end:
        x, y, total, n = doubles(a[3]), doubles(a[4]), doubles(a[5]), a[6]
        _exponentials(x, y, n)
        total[0] = _sum(y, n)


def logarithms(a):
    """y = ln(x), for x > 0."""
    start, end = share(a, a[2])
    if start < end:
        x, y = doubles(a[3]), doubles(a[4])
        for i in range(a[5]):
            y[i] = log(x[i])


def log_probabilities(a):
    """y = x - most - ln(sum of e^(x - most)), where x is FP32 and y FP64."""
    start, end = share(a, a[2])
    if start < end:
        _log_probabilities(floats(a[3]), float64_of_bits(a[4]), doubles(a[5]), doubles(a[6]), a[7])
