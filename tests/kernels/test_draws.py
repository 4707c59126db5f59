"""Exponentials, logarithms and noise of draws, against 80-bit numbers and exact arithmetic; their bits."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clearseek.kernels import launch

pytestmark = pytest.mark.skipif(launch.unavailable() is not None, reason=str(launch.unavailable()))

Numbers = NDArray[np.float64]
_MASK = 2**64 - 1


def exponentials(x: Numbers) -> tuple[Numbers, float]:
    y, total = np.empty(len(x)), np.empty(1)
    launch.launch("draws.exponentials", 1, *(each.ctypes.data for each in (x, y, total)), len(x))
    return y, float(total[0])


def logarithms(x: Numbers) -> Numbers:
    y = np.empty(len(x))
    launch.launch("draws.logarithms", 1, x.ctypes.data, y.ctypes.data, len(x))
    return y


def noise(seed: int, position: int, tokens: NDArray[np.int64]) -> Numbers:
    y = np.empty(len(tokens))
    launch.launch("draws.noise", 1, seed, position, tokens.ctypes.data, y.ctypes.data, len(tokens))
    return y


def ulps(found: Numbers, exact: NDArray[np.longdouble]) -> float:
    return float((np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float64))).max())


def given() -> tuple[Numbers, Numbers]:
    """Arguments of exp and of log."""
    rng = np.random.default_rng(2)
    below = np.concatenate([-rng.exponential(50, 100_000), -(10.0 ** rng.uniform(-20, 2, 10_000)), [0.0, -708.0]])
    above = np.concatenate([rng.random(100_000), 1 - rng.random(10_000) * 1e-9, 10.0 ** rng.uniform(-300, 300, 10_000)])
    return below[below >= -708], above


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="80-bit numbers are x86's")
def test_exp_and_log_are_within_one_unit_in_the_last_place() -> None:
    below, above = given()
    assert ulps(exponentials(below)[0], np.exp(below.astype(np.longdouble))) < 1
    assert ulps(logarithms(above), np.log(above.astype(np.longdouble))) < 1


def test_ends_of_exp_and_log() -> None:
    assert exponentials(np.array([0.0, -709.0, -np.inf]))[0].tolist() == [1, 0, 0]
    assert logarithms(np.array([1.0, 2.0]))[0] == 0


def test_sums_are_taken_in_four_lanes() -> None:
    x = -np.random.default_rng(3).exponential(5, 1003)
    y, total = exponentials(x)
    lanes = [0.0] * 4
    for i, number in enumerate(y[:1000]):
        lanes[i % 4] += number
    assert total == ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + y[1000] + y[1001] + y[1002]


def mixed(x: int) -> int:
    """SplitMix64's finaliser in whole numbers of any size."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def test_noise_is_of_the_uniform_numbers_that_it_is_defined_by() -> None:
    golden, tokens = 0x9E3779B97F4A7C15, np.array([0, 1, 7, 24_575, 2**31 - 1])
    for seed, position in ((0, 0), (3, 1), (2**63 - 1, 10**6)):
        place = mixed((mixed(seed * golden & _MASK) + (position + 1) * golden) & _MASK)
        bits = [mixed((place + (int(token) + 1) * golden) & _MASK) >> 11 for token in tokens]
        uniform = (np.array(bits) + 0.5) * 2.0**-53
        assert np.array_equal(noise(seed, position, tokens), -logarithms(-logarithms(uniform)))


def digest() -> str:
    """Hash of many results."""
    y, total = exponentials(-(np.arange(1, 20_001) / 64.0))
    fractions = np.arange(1, 20_001) * 450_359_962_737 * 2.0**-53
    found = [y, np.array([total]), logarithms(fractions), noise(5, 6, np.arange(20_000))]
    return hashlib.sha256(b"".join(each.tobytes() for each in found)).hexdigest()


HASH = "04ea3e1c7a598d5be0f223e85a85ef34485b154f41ef6b40aa0a5cef1bbfcf16"


def test_bits_are_these_on_every_processor() -> None:
    assert digest() == HASH


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "haswell", "skylake-avx512"])
def test_bits_do_not_depend_on_the_instructions(processor: str, tmp_path: Path) -> None:
    """Old processors have neither wide vectors nor fused multiply-adds."""
    if processor == "skylake-avx512" and not np._core._multiarray_umath.__cpu_features__["AVX512_SKX"]:
        pytest.skip("the processor has no AVX-512")
    code = "from tests.kernels.test_draws import digest; print(digest())"
    chosen = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | chosen, cwd=Path(__file__).parents[2], capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == HASH
