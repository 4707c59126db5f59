"""What a GPU would run, looked at without one: that every kernel compiles for Hopper, and into what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow
SHARED_MEMORY = 227 * 1024
"""Bytes that a program may take of a Hopper multiprocessor."""
REGISTERS = 64 * 1024


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = Path(__file__).parents[4]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(root), "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    ran = subprocess.run(
        [sys.executable, str(root / "tests/fp8/hopper.py")],
        cwd=tmp_path_factory.mktemp("hopper"), env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_every_kernel_fits_a_multiprocessor(kernels: list[dict[str, Any]]) -> None:
    assert {kernel["kernel"] for kernel in kernels} == {
        "tiles_kernel", "columns_kernel", "blocks_kernel", "decode_kernel", "forward_kernel", "backward_kernel",
        "product_kernel", "weight_gradient_kernel",
    }  # fmt: skip
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_MEMORY
        threads = 32 * kernel["options"].get("num_warps", 4)
        assert kernel["registers"] * threads <= REGISTERS
        assert kernel["atomics"] == 0  # sums have one order


def test_rounding_is_left_to_instructions_that_round_to_nearest_even(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        assert all(cast.startswith("cvt.rn.satfinite.") for cast in kernel["casts"])
        if kernel["kernel"] in ("tiles_kernel", "columns_kernel", "blocks_kernel"):
            assert kernel["casts"] and kernel["divisions"] == ["div.rn.f32"]


def test_products_run_on_hoppers_tensor_cores(kernels: list[dict[str, Any]]) -> None:
    """Four instructions of 32 for each slice of 128 and half; copies by descriptor where asked for; few spills."""
    for kernel in kernels:
        if kernel["kernel"] in ("product_kernel", "weight_gradient_kernel"):
            assert kernel["tensor_cores"] == 4 * kernel["HALVES"]
            assert (kernel["copies"] > 0) == kernel["TMA"]
            assert kernel["stack"] <= (256 if kernel["HALVES"] == 2 else 0)
        else:
            assert kernel["stack"] <= 256
