"""Times of single kernels at the sizes of DeepSeek-V3's experts: 7168 wide, each expert 2048 inside.

32,768 rows go to 8 experts, evenly or as unevenly as a learned router sends them (shares are log-normal, the largest
block several times the smallest), in blocks that begin at multiples of 128. Products are told in TFLOP/s and as a share
of the FP8 peak measured here; quantising, which multiplies nothing, in bytes that must move and as a share of the
bandwidth of a copy.

Shapes: M rows, N outputs, K inner, E experts, I width.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_common import Bench, Run, multiples_of, rate, summary
from gpu_exact import same_bytes
from torch import Tensor

from clearseek.fp8.backend import Backend
from clearseek.fp8.formats import TILE

ROWS, EXPERTS = 32768, 8
SHAPES = ((4096, 7168), (7168, 2048))
"""Outputs and inner size: gate and up together, and down."""
SPREAD = 0.6
"""Standard deviation of the logarithm of the experts' shares under learned routing."""


def sizes(bench: Bench) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """Rows, experts, shapes."""
    return bench.pick((ROWS, EXPERTS, SHAPES), (256, 2, ((256, 128),)))


def splits(bench: Bench) -> dict[str, Tensor]:
    """Ends of the experts' blocks [E], int32, by the name of the split."""
    rows, experts, _ = sizes(bench)
    shares = (SPREAD * torch.randn(experts, generator=bench.generator("split"))).exp()
    by_name = {"learned": shares, "balanced": torch.ones(experts)}
    return {
        name: torch.tensor(multiples_of(rows, each, TILE)).cumsum(0).to(torch.int32).to(bench.device)
        for name, each in by_name.items()
    }


def kernels(bench: Bench) -> None:
    """Time products, then everything that quantises."""
    ends = splits(bench)
    record = bench.report.setdefault("kernels", {})
    record["ends"] = {name: each.tolist() for name, each in ends.items()}
    for outputs, inner in sizes(bench)[2]:
        for name, ends_E in ends.items():
            if bench.has(20, f"products of {outputs} x {inner}, {name}"):
                with bench.attempt(f"products of {outputs} x {inner}, {name}"):
                    _products(bench, name, ends_E, outputs, inner)
    for name, backend in bench.backends.items():
        if name == "triton" and bench.has(20, "quantising"):
            with bench.attempt("quantising"):
                _quantising(bench, backend)


def _products(bench: Bench, split: str, ends_E: Tensor, outputs: int, inner: int) -> None:
    """Forward, input gradient and weight gradient of each backend and of BF16, each operation in turns."""
    rows, experts, _ = sizes(bench)
    x, g = bench.normal(rows, inner, name="x"), bench.normal(rows, outputs, name="g")
    w = bench.normal(experts, outputs, inner, name="w")
    calls: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {"bf16": lambda: F.grouped_mm(x, w.mT, offs=ends_E)},
        "input gradient": {"bf16": lambda: F.grouped_mm(g, w, offs=ends_E)},
        "weight gradient": {"bf16": lambda: F.grouped_mm(g.t(), x, offs=ends_E)},
    }
    for name, backend in bench.backends.items():
        with bench.attempt(f"operands of {name}"):
            for operation, call in _fp8_calls(backend, x, g, w, ends_E).items():
                calls[operation][name] = call
    flops = 2 * rows * outputs * inner
    for operation, by_backend in calls.items():
        times = bench.time({name: Run(call) for name, call in by_backend.items()})
        for name, seconds in times.items():
            entry = {"backend": name, "operation": operation, "outputs": outputs, "inner": inner, "split": split}
            _record_product(bench, entry, seconds, flops)


def _fp8_calls(backend: Backend, x: Tensor, g: Tensor, w: Tensor, ends_E: Tensor) -> dict[str, Callable[[], Any]]:
    quantiser, products = backend.quantiser, backend.products
    tiles, gradient, weight = quantiser.tiles(x, True), quantiser.tiles(g, True), products.weight(w, True)
    g_columns, x_columns = quantiser.columns(g, True), quantiser.columns(x, True)
    return {
        "forward": lambda: products.grouped_mm(tiles, weight.forward, ends_E),
        "input gradient": lambda: products.grouped_mm(gradient, weight.backward, ends_E),
        "weight gradient": lambda: products.grouped_mm_weight(g_columns, x_columns, ends_E),
    }


def _record_product(bench: Bench, entry: dict[str, Any], seconds: list[float], flops: float) -> None:
    peaks = bench.report.get("machine", {}).get("peaks", {}).get("flops_per_second", {})
    peak = peaks.get("bf16" if entry["backend"] == "bf16" else "fp8")
    found = rate(seconds, flops)
    share = 100 * found / peak if peak else None
    bench.record("products", entry | {"flops_per_second": found, "percent_of_peak": share, **summary(seconds)})
    of_peak = f"{share:5.1f} % of peak" if share else ""
    what = f"{entry['operation']}, {entry['outputs']} x {entry['inner']}, {entry['split']}"
    print(f"  {what:40} {entry['backend']:9} {statistics.median(seconds) * 1e6:10.1f} us "
          f"{found / 1e12:8.1f} TFLOP/s {of_peak}")  # fmt: skip


def _quantising(bench: Bench, backend: Backend) -> None:
    """Each kernel with the bytes that it must read and write."""
    rows, experts, shapes = sizes(bench)
    outputs, inner = shapes[0]
    width = shapes[-1][1]
    times, bytes_of = _activations(bench, backend, rows, inner)
    w = bench.normal(experts, outputs, inner, name="w")
    times |= bench.time({"weight, both ways": Run(lambda: backend.products.weight(w, True))})
    bytes_of["weight, both ways"] = w.numel() * 4 + w.numel() // TILE**2 * 4
    swiglu_times, swiglu_bytes = _swiglu(bench, backend, rows, width)
    bandwidth = bench.report.get("machine", {}).get("copy", {}).get("bytes_per_second")
    for name, seconds in (times | swiglu_times).items():
        moved = rate(seconds, (bytes_of | swiglu_bytes)[name])
        share = 100 * moved / bandwidth if bandwidth else None
        entry = {"kernel": name, "bytes_per_second": moved, "percent_of_copy": share, **summary(seconds)}
        bench.record("quantising", entry)
        of_copy = f"{share:5.1f} % of a copy" if share else ""
        print(f"  {name:40} {statistics.median(seconds) * 1e6:10.1f} us {moved / 1e9:8.1f} GB/s   {of_copy}")


def _activations(bench: Bench, backend: Backend, rows: int, inner: int) -> tuple[dict[str, Any], dict[str, float]]:
    x = bench.normal(rows, inner, name="x")
    tiles = backend.quantiser.tiles(x, True)
    size, scales = rows * inner, rows * inner // TILE * 4
    runs = {
        "tiles": Run(lambda: backend.quantiser.tiles(x, True)),
        "columns": Run(lambda: backend.quantiser.columns(x, True)),
        "tiles and columns": Run(lambda: backend.quantiser.gradient(x, True)),
        "tiles to columns": Run(lambda: backend.quantiser.retile(tiles, True)),
        "decoding": Run(lambda: backend.quantiser.decode(tiles)),
    }
    bytes_of = {
        "tiles": 3.0 * size + scales,
        "columns": 3.0 * size + scales,
        "tiles and columns": 4.0 * size + 2 * scales,
        "tiles to columns": 2.0 * size + 2 * scales,
        "decoding": 3.0 * size + scales,
    }
    return bench.time(runs), bytes_of


def _swiglu(bench: Bench, backend: Backend, rows: int, width: int) -> tuple[dict[str, Any], dict[str, float]]:
    gate_up, d_act = bench.normal(rows, 2 * width, name="gate_up"), bench.normal(rows, width, name="d_act")
    weight = torch.rand(rows, 1, generator=bench.generator("weight")).to(bench.device, torch.bfloat16)
    kept, _ = backend.quantiser.swiglu(gate_up, weight, True)
    size, scales = rows * width, rows * width // TILE * 4
    runs = {
        "SwiGLU": Run(lambda: backend.quantiser.swiglu(gate_up, weight, True)),
        "SwiGLU, backward": Run(lambda: backend.quantiser.swiglu_backward(d_act, kept, weight, True)),
    }
    bytes_of = {
        "SwiGLU": 4.0 * size + 3 * size + 3 * scales + 2 * rows,
        # Reads d (BF16) and the kept tiles; writes tiles, columns and the activation, and partial sums of d weight.
        "SwiGLU, backward": 2.0 * size + 2 * size + 2 * scales + 5 * size + 5 * scales + scales + 2 * rows,
    }
    return bench.time(runs), bytes_of


def tune(bench: Bench) -> None:
    """Try launch options of Triton's grouped products, and print the best; the same bits are demanded of all."""
    bench.report["tune"] = {"tried": []}
    if "triton" not in bench.backends:
        bench.leave_out("tuning", "triton does not run here")
        return
    from clearseek.fp8.backends.triton import products, quantise, weight_gradient

    rows, experts, shapes = sizes(bench)
    ends_E = splits(bench)["learned"]
    for outputs, inner in shapes:
        x, g = bench.normal(rows, inner, name="x"), bench.normal(rows, outputs, name="g")
        a, b = quantise.tiles(x, True), quantise.blocks(bench.normal(experts, outputs, inner, name="w"), True).forward
        g_columns, x_columns = quantise.columns(g, True), quantise.columns(x, True)
        del x, g
        _try_launches(bench, "forward", outputs, inner,
                      lambda launch, a=a, b=b: products.grouped_scaled_mm(a, b, ends_E, launch))  # fmt: skip
        _try_launches(bench, "weight gradient", outputs, inner,
                      lambda launch, a=g_columns, b=x_columns: weight_gradient.grouped_weight_gradient(
                          a, b, ends_E, launch))  # fmt: skip


def _candidates(bench: Bench) -> list[Any]:
    """Launches that fit Hopper's 227 KB of shared memory; the present choice first."""
    from clearseek.fp8.backends.triton.loading import Launch

    found = [Launch(2, 8, 4, True), Launch(2, 8, 3, True), Launch(2, 8, 4, True, 16), Launch(2, 8, 4, True, 4)]
    found += [Launch(2, 16, 4, True), Launch(1, 8, 4, True), Launch(1, 4, 4, True), Launch(1, 8, 5, True)]
    found += [Launch(1, 8, 6, True), Launch(1, 8, 3, True), Launch(2, 8, 4, True, 32), Launch(1, 8, 4, False)]
    found += [Launch(1, 8, 3, False), Launch(2, 8, 3, False)]
    return found[:2] if bench.smoke else found


def _try_launches(bench: Bench, operation: str, outputs: int, inner: int, call: Callable[[Any], Tensor]) -> None:
    flops = 2 * sizes(bench)[0] * outputs * inner
    runs: dict[str, Run] = {}
    first: Tensor | None = None
    for launch in _candidates(bench):
        name = f"halves {launch.halves}, warps {launch.warps}, stages {launch.stages}, " + (
            f"{'TMA' if launch.tma else 'pointers'}, together {launch.together}"
        )
        if bench.has(8, f"tuning {operation}, {outputs} x {inner}, {name}"):
            with bench.attempt(f"tuning {operation}, {name}"):
                found = call(launch)
                first = found if first is None else first
                if not same_bytes(found, first):
                    raise ValueError(f"{name} gives other bits than the first launch")
                runs[name] = Run(lambda launch=launch: call(launch))
    times = bench.time(runs)
    for name, seconds in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        entry = {"operation": operation, "outputs": outputs, "inner": inner, "launch": name}
        bench.record("tried", entry | {"flops_per_second": rate(seconds, flops), **summary(seconds)})
        print(f"  {operation}, {outputs} x {inner}: {name:52} {rate(seconds, flops) / 1e12:8.1f} TFLOP/s")
