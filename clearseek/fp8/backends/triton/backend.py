"""The backend `triton`: a kernel for every operation of :mod:`clearseek.fp8.backend`.

Quantised data and scales are the reference's to the bit. Products differ from it by rounding: a tensor core sums the
products of a slice in its own order and width, and promotion multiplies and adds in one rounding. SwiGLU is computed in
FP32 throughout, like the compiled formulas of :mod:`clearseek.ops.swiglu`.
"""

from __future__ import annotations

import torch
from triton import __version__

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.triton import products, quantise, weight_gradient
from clearseek.fp8.backends.triton import swiglu as fused
from clearseek.fp8.backends.triton.casts import INTERPRETED
from clearseek.fp8.formats import Quantised


class TritonQuantiser:
    """Kernels that read their input once; decoded values are BF16."""

    tiles = staticmethod(quantise.tiles)
    columns = staticmethod(quantise.columns)
    gradient = staticmethod(quantise.tiles_and_columns)
    decode = staticmethod(quantise.decode)
    retile = staticmethod(quantise.retile)
    swiglu = staticmethod(fused.swiglu)
    swiglu_backward = staticmethod(fused.swiglu_backward)


class TritonProducts:
    """Kernels that promote every slice of 128; BF16, weight gradients FP32."""

    weight = staticmethod(quantise.blocks)
    pick = staticmethod(Quantised.at)
    mm = staticmethod(products.scaled_mm)
    mm_weight = staticmethod(weight_gradient.weight_gradient)
    grouped_mm = staticmethod(products.grouped_scaled_mm)
    grouped_mm_weight = staticmethod(weight_gradient.grouped_weight_gradient)


def triton(dtype: torch.dtype = torch.bfloat16) -> Backend:
    """ClearSeek's Triton kernels; on a CPU Triton's interpreter runs them, for tests."""
    return Backend("triton", dtype, TritonQuantiser(), TritonProducts(), _why_not, lambda: {"triton": __version__})


def _why_not(device: torch.device) -> str | None:
    if INTERPRETED.value:
        return None if device.type == "cpu" else "TRITON_INTERPRET=1 is set, which is for CPUs"
    if device.type != "cuda" or torch.version.cuda is None:
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"it needs a GPU with FP8 (compute capability 8.9 or above), which {name} lacks"
    return mismatch(triton, device)
