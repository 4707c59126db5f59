"""Devices that models are trained on: peak rates, memory, power, as their makers publish them.

Rates are dense (no sparsity), in FLOP/s with a multiplication and an addition counted as two. A model's utilisation is
always against one of these numbers, so a claim can be compared with another only where both name the peak they use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clearseek.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator."""

    name: str
    bf16: float
    """Peak FLOP/s in BF16 (FP16 where it has no BF16)."""
    fp8: float | None
    """Peak FLOP/s in FP8; None where it has none."""
    memory: int
    """Bytes."""
    watts: float
    """Power limit."""
    source: str


_GB: Final = 10**9
DEVICES: Final = (
    Device("V100", 125e12, None, 32 * _GB, 300, "NVIDIA V100 data sheet (SXM2, FP16)"),
    Device("A100", 312e12, None, 80 * _GB, 400, "NVIDIA A100 data sheet (SXM4 80 GB)"),
    Device("A800", 312e12, None, 80 * _GB, 400, "as A100, with NVLink at 400 GB/s"),
    Device("H100", 989.4e12, 1978.9e12, 80 * _GB, 700, "NVIDIA H100 data sheet (SXM5)"),
    Device("H800", 989.4e12, 1978.9e12, 80 * _GB, 700, "as H100, with NVLink at 400 GB/s (DeepSeek-V3, section 3.1)"),
    Device("H200", 989.4e12, 1978.9e12, 141 * _GB, 700, "NVIDIA H200 data sheet (SXM)"),
    Device("H20", 148e12, 296e12, 96 * _GB, 400, "NVIDIA H20 data sheet"),
    Device("L40S", 362e12, 733e12, 48 * _GB, 350, "NVIDIA L40S data sheet"),
    Device("RTX 4090", 165.2e12, 330.3e12, 24 * _GB, 450, "NVIDIA Ada white paper (sums in FP32)"),
    Device("MI300X", 1307.4e12, 2614.9e12, 192 * _GB, 750, "AMD MI300X data sheet"),
)


def device(name: str) -> Device:
    """The device of this name, in any spelling. Raises UserError with the nearest one."""
    wanted = "".join(name.lower().split()).replace("-", "")
    for each in DEVICES:
        if "".join(each.name.lower().split()) == wanted:
            return each
    names = [each.name for each in DEVICES]
    raise UserError(f'no device "{name}"{nearest(name.upper(), names)}; known: {", ".join(names)}')
