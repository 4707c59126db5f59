"""FP8 products by DeepSeek's DeepGEMM, where it is installed (`deep_gemm`, built from its repository).

DeepGEMM multiplies tiles by blocks, dense and grouped, in its own CUDA kernels. Its weight gradients need the experts'
row counts on the host, so ClearSeek's Triton kernels compute weight gradients, quantising and SwiGLU.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.triton.backend import TritonProducts, triton
from clearseek.fp8.formats import Quantised


class DeepGemmProducts:
    """Forward and input gradient by DeepGEMM, in BF16; the rest by Triton kernels."""

    def __init__(self, library: Any, rest: TritonProducts) -> None:
        self.library = library
        self.weight, self.pick = rest.weight, rest.pick
        self.mm_weight, self.grouped_mm_weight = rest.mm_weight, rest.grouped_mm_weight

    def mm(self, a: Quantised, b: Quantised) -> Tensor:
        y_MN = torch.empty(len(a.data), len(b.data), dtype=torch.bfloat16, device=a.data.device)
        # On newer GPUs DeepGEMM would otherwise round the scales up to powers of two, which do not fit the data.
        self.library.fp8_gemm_nt(a, (b.data, b.scale.contiguous()), y_MN, disable_ue8m0_cast=True)
        return y_MN

    def grouped_mm(self, a: Quantised, b: Quantised, ends_E: Tensor) -> Tensor:
        rows = torch.arange(len(a.data), dtype=ends_E.dtype, device=ends_E.device)
        expert_R = torch.searchsorted(ends_E, rows, right=True, out_int32=True)
        spare_R = expert_R == len(ends_E)
        y_RN = torch.empty(len(a.data), b.data.shape[1], dtype=torch.bfloat16, device=a.data.device)
        self.library.m_grouped_fp8_gemm_nt_contiguous(
            a, (b.data, b.scale.contiguous()), y_RN, expert_R.masked_fill(spare_R, -1), disable_ue8m0_cast=True
        )
        return y_RN.masked_fill_(spare_R[:, None], 0.0)


def deepgemm(dtype: torch.dtype = torch.bfloat16) -> Backend:
    """DeepGEMM's products between the operands of ClearSeek's Triton kernels."""
    import deep_gemm

    rest = triton(dtype)
    versions = rest.versions() | {"deep_gemm": str(getattr(deep_gemm, "__version__", "unknown"))}
    return Backend(
        "deepgemm", dtype, rest.quantiser, DeepGemmProducts(deep_gemm, TritonProducts()),
        lambda device: rest.why_not(device) or mismatch(deepgemm, device), lambda: versions,
    )  # fmt: skip
