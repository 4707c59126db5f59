"""Finding out whether a backend works on a device, by running it.

Version numbers and names of GPUs are not enough: a library may lack a kernel, a driver may be too old, a compiler
broken. So every operation is run once on small operands and compared with the reference.

Shapes: R rows, E experts, N outputs, K inputs, I width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.quantise import dequantise

PRODUCTS = 0.01
"""Allowed norm of a product's difference over the norm of the reference. Rounding to BF16 makes 0.002. Hopper's tensor
cores, which keep 13 fraction bits of a sum within a slice of 128 ("Insights into DeepSeek-V3", section 3.1.1), should
lose less. A single tile with twice its scale makes 0.02."""
SWIGLU = 0.05
"""Allowed distance for SwiGLU, whose formula may round to BF16 once or several times before eight bits, which can flip
a number to its neighbour in E4M3, up to an eighth away. A tensor wrong by one binade makes 1 or 0.5."""


class Result(NamedTuple):
    """Values that an operation gave, and their allowed distance from the reference."""

    values: Tensor
    allowed: float


@functools.cache
def mismatch(make: Callable[[], Backend], device: torch.device) -> str | None:
    """The fault of a backend on `device`, in one sentence; None for results like the reference's."""
    try:
        wrong: list[str] = []
        backend = make()
        for power_of_two in (True, False) if backend.free_scales else (True,):
            found, expected = (_results(each, device, power_of_two) for each in (backend, reference()))
            names = [name for name in expected if _distance(found[name], expected[name]) > expected[name].allowed]
            wrong += [name for name in names if name not in wrong]
    except Exception as error:  # any error of a driver, a library or a compiler is a fault
        lines = str(error).strip().splitlines()
        return f"trying it failed with {type(error).__name__}: {lines[0] if lines else 'no message'}"
    return f"it gave wrong results when tried: {', '.join(wrong)}" if wrong else None


def _distance(found: Result, expected: Result) -> float:
    """Distance relative to the reference; infinite for NaN."""
    distance = (found.values.float() - expected.values.float()).norm() / expected.values.float().norm()
    return float(distance.nan_to_num(nan=torch.inf))


def _results(backend: Backend, device: torch.device, power_of_two: bool = True) -> dict[str, Result]:
    """Results of every operation, by name; columns and weights, whose types are a backend's own, by their products.

    Sizes are multiples of 128 for power-of-two scales, and others for free scales.
    """
    generator = torch.Generator().manual_seed(0)
    quantiser, multiply = backend.quantiser, backend.products

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    rows, experts, width = 512, 3, 128
    outputs, inputs = (256, 384) if power_of_two else (208, 400)
    ends_E = torch.tensor([128, 128, 384], dtype=torch.int32, device=device)  # one has no rows; the last 128 are spare
    w_ENK = normal(experts, outputs, inputs)
    x = quantiser.tiles(normal(rows, inputs), power_of_two)
    x_columns = quantiser.retile(x, power_of_two)
    g, g_columns = quantiser.gradient(normal(rows, outputs), power_of_two)
    one, stack = multiply.weight(w_ENK[0], power_of_two), multiply.weight(w_ENK, power_of_two)
    weight_R1 = normal(rows, 1)
    kept, act = quantiser.swiglu(normal(rows, 2 * width), weight_R1, power_of_two)
    tiles, columns, act_columns, d_weight_R = quantiser.swiglu_backward(
        normal(rows, width), kept, weight_R1, power_of_two
    )
    products = {
        "decoding": quantiser.decode(x),
        "the product": multiply.mm(x, one.forward),
        "the input gradient": multiply.mm(g, one.backward),
        "the weight gradient": multiply.mm_weight(g_columns, x_columns),
        "the grouped product": multiply.grouped_mm(x, stack.forward, ends_E),
        "the grouped input gradient": multiply.grouped_mm(g, stack.backward, ends_E),
        "the grouped weight gradient": multiply.grouped_mm_weight(g_columns, x_columns, ends_E),
        "tiles of gate and up": dequantise(kept),
    }
    swiglu = {
        "SwiGLU": dequantise(act),
        "SwiGLU's gradient": dequantise(tiles),
        "SwiGLU's columns": multiply.mm_weight(columns, act_columns),
        "the router weight's gradient": d_weight_R,
    }
    results = {name: Result(values, PRODUCTS) for name, values in products.items()}
    return results | {name: Result(values, SWIGLU) for name, values in swiglu.items()}
