"""What this machine can do for training, found by trying: precisions, FP8 backends, compilers.

Nothing is read off a table of products. Each FP8 backend is run on small operands and compared with the reference, and
those that pass multiply matrices of a middling size, timed with and without the quantising of the left operand (a
weight is quantised once for an optimiser step, so it is left out).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clearseek import machine
from clearseek.cli.report import si
from clearseek.config import Fp8Config
from clearseek.errors import UserError
from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.choose import BACKENDS, choose, make, why_not
from clearseek.ops.compiled import _compiler

SECONDS = 0.3
"""Time for each rate."""


class Product(NamedTuple):
    """Sizes of the timed product: rows, inner, outputs."""

    rows: int
    inner: int
    outputs: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inner * self.outputs


SIZES = {"cuda": Product(8192, 7168, 4096)}
"""By type of device: large enough that launching does not count."""
SIZE_ELSEWHERE = Product(1024, 1024, 1024)


def examine(device_name: str | None = None) -> dict[str, Any]:
    """All findings, as JSON values; nothing that names the machine's owner.

    Args:
        device_name: ``cpu``, ``cuda``, ``cuda:1``; None for the GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    device = _device(device_name)
    config = Fp8Config()
    precision = machine.pick_precision("auto", str(device))
    dtype = torch.bfloat16 if device.type == "cuda" else precision.dtype
    size = SIZES.get(device.type, SIZE_ELSEWHERE)
    backends = []
    for name in BACKENDS:
        reason = why_not(name, config, device)
        rates = None if reason else _rates(make(name, dtype), device, size)
        backends.append({"backend": name, "why_not": reason, "flops_per_second": rates})
    return {
        "machine": machine.describe(),
        "device": str(device),
        "precision": {
            "auto": str(precision.dtype).removeprefix("torch."),
            "flops_per_second": precision.rates,
            "emulated": {"bf16": precision.emulated} if precision.emulated else {},
        },
        "compilers": {"cxx": _cxx(), "triton": _version("triton"), "numba": _version("numba")},
        "fp8": {"auto": choose(config, device, dtype).backend.name, "product": size._asdict(), "backends": backends},
    }


def print_findings(console: Console, found: dict[str, Any]) -> None:
    """A table of backends in a terminal, a line each elsewhere."""
    here, rates, slower = found["machine"], found["precision"]["flops_per_second"], found["precision"]["emulated"]
    gpus = [f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, capability {gpu['capability']}" for gpu in here["gpus"]]
    compilers = found["compilers"]
    rows = [
        ("processor", f"{here['processor']}, {here['usable_cores']} of {here['logical_cores']} logical cores usable"),
        ("instructions", str(here["cpu_capability"])),
        ("memory", f"{here['memory'] / 2**30:.1f} GiB"),
        ("GPU", "; ".join(gpus) or "none that PyTorch can use"),
        ("software", f"{here['system']}, Python {here['python']}, PyTorch {here['torch']}"),
        ("C++ compiler", compilers["cxx"] or "not found ($CXX, g++ or clang++)"),
        ("numba", compilers["numba"] or "not installed: pip install -e '.[cpu]'"),
        ("Triton", compilers["triton"] or "not installed: pip install -e '.[triton]'"),
        ("device", found["device"]),
        *((f"product in {name}", si(rate, "FLOP/s") + _emulated(slower.get(name))) for name, rate in rates.items()),
        ("precision", f'train.precision = "auto" takes {found["precision"]["auto"]}'),
        ("FP8", f'fp8.backend = "auto" takes {found["fp8"]["auto"]}'),
    ]
    width = 2 + max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text(name.ljust(width), style="dim") + Text(value), soft_wrap=True)
    _print_backends(console, found["fp8"])


def _print_backends(console: Console, fp8: dict[str, Any]) -> None:
    size = Product(**fp8["product"])
    table = Table(title=f"FP8: {size.rows:,} x {size.inner:,} times {size.inner:,} x {size.outputs:,}")
    for column in ("backend", "product", "with quantising", ""):
        table.add_column(column)
    for each in fp8["backends"]:
        name, reason = each["backend"], each["why_not"]
        rates = {what: si(rate, "FLOP/s") for what, rate in (each["flops_per_second"] or {}).items()}
        if console.is_terminal:
            table.add_row(name, rates.get("product"), rates.get("with_quantising"), Text(reason or "runs"))
        elif reason:
            console.print(f"fp8 {name}: cannot run here: {reason}", markup=False, soft_wrap=True)
        else:
            line = f"fp8 {name}: product {rates['product']}, with quantising {rates['with_quantising']}"
            console.print(line, markup=False, soft_wrap=True)
    if console.is_terminal:
        console.print(table)


def _emulated(slower: float | None) -> str:
    return "" if slower is None else f": no instructions for it, {slower:,.0f} times as slow as fp32"


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices here: use cpu")
    return device


def _rates(backend: Backend, device: torch.device, size: Product) -> dict[str, float]:
    """FLOP/s of a product, and of quantising its left operand and the product."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size.rows, size.inner, generator=generator).to(device, backend.dtype)
    w = backend.products.weight(torch.randn(size.outputs, size.inner, generator=generator).to(device), True).forward
    tiles = backend.quantiser.tiles(x, True)
    return {
        "product": size.flops / _median(lambda: backend.products.mm(tiles, w), device),
        "with_quantising": size.flops
        / _median(lambda: backend.products.mm(backend.quantiser.tiles(x, True), w), device),
    }


def _median(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds a call, over about :data:`SECONDS` after a first one."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    first = timed()
    return statistics.median([first, *(timed() for _ in range(min(50, int(SECONDS / first))))])


def _cxx() -> str | None:
    found = _compiler()
    return Path(found).name if found else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
