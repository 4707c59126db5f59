"""Devices, with the figures of their makers' data sheets.

A plan divides operations by a rate. The rate here is the *dense* peak: data sheets often print twice that, for matrices
half of whose entries are zero, which no training of language models uses. A peak is a ceiling; the share that real runs
reach is fitted in :mod:`clearseek.plan.calibration`. Devices without a published peak, memory and power are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clearseek.errors import UserError, nearest

Architecture = Literal["Ampere", "Hopper", "Ada", "Blackwell", "CDNA 3"]
GB = 10**9


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of accelerator."""

    name: str
    """Name on the command line."""
    title: str
    """Name by the maker."""
    architecture: Architecture
    """Generation, by which utilisation is calibrated."""
    bf16: float
    """Dense BF16 peak in FLOP/s, sums in FP32."""
    fp8: float | None
    """Dense FP8 peak in FLOP/s, sums in FP32; None where the device has no FP8 units."""
    memory: int
    """Bytes of device memory."""
    bandwidth: float
    """Peak bandwidth of the device memory in bytes a second."""
    watts: float
    """Design power of the board in watts."""
    source: str
    """Publication of these figures."""

    def peak(self, precision: Literal["bf16", "fp8"] = "bf16") -> float:
        """Dense peak in FLOP/s. Raises UserError where the device has no units of this precision."""
        rate = self.bf16 if precision == "bf16" else self.fp8
        if rate is None:
            raise UserError(f'--hardware {self.name} has no FP8 units: plan with --set train.precision="bf16"')
        return rate


_HOPPER = "NVIDIA H100 data sheet (dense: half of the figures with sparsity)"
_AMPERE = "NVIDIA A100 data sheet"

DEVICES: Mapping[str, Hardware] = {
    device.name: device
    for device in (
        Hardware("h100", "NVIDIA H100 SXM", "Hopper", 989.4e12, 1978.9e12, 80 * GB, 3.35e12, 700, _HOPPER),
        Hardware("h800", "NVIDIA H800 SXM", "Hopper", 989.4e12, 1978.9e12, 80 * GB, 3.35e12, 700,
                 "the H100 of the Chinese market: the same chip, FP64 and NVLink (400 GB/s) cut; power as the H100's"),
        Hardware("h200", "NVIDIA H200 SXM", "Hopper", 989.4e12, 1978.9e12, 141 * GB, 4.8e12, 700,
                 "NVIDIA H200 data sheet: the H100 with more and faster memory"),
        Hardware("a100-80gb", "NVIDIA A100 SXM 80 GB", "Ampere", 312e12, None, 80 * GB, 2.039e12, 400, _AMPERE),
        Hardware("a100-40gb", "NVIDIA A100 SXM 40 GB", "Ampere", 312e12, None, 40 * GB, 1.555e12, 400, _AMPERE),
        Hardware("b200", "NVIDIA B200 (HGX)", "Blackwell", 2250e12, 4500e12, 180 * GB, 8e12, 1000,
                 "NVIDIA Blackwell architecture brief, HGX B200 at 1,000 W (dense)"),
        Hardware("mi300x", "AMD Instinct MI300X", "CDNA 3", 1307.4e12, 2614.9e12, 192 * GB, 5.3e12, 750,
                 "AMD Instinct MI300X data sheet"),
        Hardware("rtx-4090", "NVIDIA GeForce RTX 4090", "Ada", 165.2e12, 330.3e12, 24 * GB, 1.008e12, 450,
                 "NVIDIA Ada architecture white paper (dense, sums in FP32)"),
    )
}  # fmt: skip
"""The devices a plan knows, by name."""


def find_hardware(name: str) -> Hardware:
    """The device of this name, however it is written (``H100``, ``RTX 4090``). Raises UserError for no such device."""
    key = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    key = {"4090": "rtx-4090", "a100": "a100-80gb"}.get(key, key)
    if key not in DEVICES:
        raise UserError(f'--hardware: no device "{name}"{nearest(key, DEVICES)}; known: {", ".join(DEVICES)}')
    return DEVICES[key]
