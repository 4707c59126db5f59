"""``clearseek doctor``: precisions, FP8 backends and compilers that this machine can train with, found by trying.

Each FP8 backend is run on small operands and compared with the reference; a backend that passes multiplies matrices of
a middling size, timed with and without the quantising of the left operand (a weight is quantised once an optimiser
step, so its quantising is left out).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from clearseek.fp8.backend import Backend

SECONDS = 0.3
"""Seconds to measure each rate for."""
SIZES = {"cuda": (8192, 7168, 4096), "cpu": (1024, 1024, 1024)}
"""Rows, inner size and outputs of the timed product; on a GPU, so large that launching does not count."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek doctor"
    parser.add_argument("--device", help="cpu or cuda (default: the GPU, if there is one)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    from clearseek.cli.report import output, print_json

    found = examine(arguments.device)
    if arguments.json:
        print_json(found)
    else:
        print_findings(output(), found)
    return 0


def examine(device_name: str | None = None) -> dict[str, Any]:
    """All findings on a device (by default the GPU, if any), as JSON values; none names the machine's owner.

    Raises UserError for a device that this machine does not have.
    """
    import torch

    from clearseek import machine
    from clearseek.config import Fp8Config
    from clearseek.fp8.backends.choose import BACKENDS, choose, make, why_not

    device = _device(device_name)
    config = Fp8Config()
    precision = machine.pick_precision("auto", str(device))
    dtype = torch.bfloat16 if device.type == "cuda" else precision.dtype
    size = SIZES[device.type]
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
        "compilers": _compilers(),
        "fp8": {
            "auto": choose(config, device, dtype).backend.name,
            "product": dict(zip(("rows", "inner", "outputs"), size, strict=True)),
            "backends": backends,
        },
    }


def _device(name: str | None) -> torch.device:
    import torch

    from clearseek.machine import find_device

    return find_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _rates(backend: Backend, device: torch.device, size: tuple[int, int, int]) -> dict[str, float]:
    """FLOP/s of a product, without and with the quantising of its left operand."""
    import torch

    rows, inner, outputs = size
    flops = 2 * rows * inner * outputs
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=generator).to(device, backend.dtype)
    w = backend.products.weight(torch.randn(outputs, inner, generator=generator).to(device), True).forward
    tile, mm = backend.quantiser.tiles, backend.products.mm
    tiles = tile(x, True)
    return {
        "product": flops / _median(lambda: mm(tiles, w), device),
        "with_quantising": flops / _median(lambda: mm(tile(x, True), w), device),
    }


def _median(run: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of a call, over about :data:`SECONDS` after a first call."""
    import torch

    def timed() -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    first = timed()
    return statistics.median([first, *(timed() for _ in range(min(50, int(SECONDS / first))))])


def _compilers() -> dict[str, str | None]:
    """Name of the C++ compiler and versions of Triton and numba; None for each that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    from clearseek.ops.compiled import _compiler

    cxx = _compiler()
    found = {"cxx": Path(cxx).name if cxx else None, "triton": None, "numba": None}
    for package in ("triton", "numba"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def print_findings(console: Console, found: dict[str, Any]) -> None:
    """Print the findings; the backends as a table in a terminal, as lines elsewhere."""
    from rich.table import Table
    from rich.text import Text

    from clearseek.cli.report import print_rows, si

    here, compilers, precision = found["machine"], found["compilers"], found["precision"]
    products = {name: si(rate, "FLOP/s") for name, rate in precision["flops_per_second"].items()}
    for name, slower in precision["emulated"].items():
        products[name] += f": no instructions for it, {slower:,.0f} times as slow as fp32"
    gpus = [f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, capability {gpu['capability']}" for gpu in here["gpus"]]
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
        *((f"product in {name}", rate) for name, rate in products.items()),
        ("precision", f'train.precision = "auto" takes {precision["auto"]}'),
        ("FP8", f'fp8.backend = "auto" takes {found["fp8"]["auto"]}'),
    ]
    print_rows(console, rows)
    height, inner, width = (f"{size:,}" for size in found["fp8"]["product"].values())
    table = Table(title=f"FP8: {height} x {inner} times {inner} x {width}")
    for column in ("backend", "product", "with quantising", ""):
        table.add_column(column)
    for each in found["fp8"]["backends"]:
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
