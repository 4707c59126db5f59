"""The machine: what it is, what it reaches in the plainest large operations, and which FP8 backends run.

Every later figure is a share of what is measured here, not of a data sheet: BF16 and FP8 products of large square
matrices of normal numbers by PyTorch's own kernels (zeros and ones draw less power and run faster), and a plain copy.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from gpu_common import Bench, Run, rate, summary
from torch import Tensor

from clearseek.machine import describe

NAMES = ("triton", "cublas", "deepgemm")
MAKERS = {
    "triton": "clearseek.fp8.backends.triton.backend:triton",
    "cublas": "clearseek.fp8.backends.cublas:cublas",
    "deepgemm": "clearseek.fp8.backends.deepgemm:deepgemm",
}
"""For where pydantic is missing, without which :mod:`clearseek.fp8.backends.choose` cannot be imported."""
PACKAGES = ("pydantic", "triton", "deep_gemm", "rich", "safetensors", "tokenizers", "matplotlib")


def machine(bench: Bench) -> None:
    """Describe, find backends, measure peaks."""
    here = bench.report.setdefault("machine", {})
    here |= {
        "description": describe(),
        "cuda": torch.version.cuda,
        "packages": {name: _found(name) for name in PACKAGES},
    }
    gpus = ", ".join(gpu["name"] for gpu in here["description"]["gpus"]) or "no GPU"
    print(f"  {gpus}; PyTorch {torch.__version__}; CUDA {torch.version.cuda}; {here['description']['processor']}")
    missing = [name for name, found in here["packages"].items() if found is None]
    print(f"  packages not found: {', '.join(missing) or 'none'}")
    with bench.attempt("product peaks"):
        here["peaks"] = _product_peaks(bench)
    with bench.attempt("copy"):
        here["copy"] = _copy(bench)
    _find_backends(bench, here)


def _found(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _product_peaks(bench: Bench) -> dict[str, Any]:
    """Best rates over sizes, in FLOP/s: BF16; FP8 with a scale a row, and with one a matrix."""
    entries: list[dict[str, Any]] = []
    for size in bench.pick((4096, 8192, 16384), (128,)):
        a, b = bench.normal(size, size, name="a"), bench.normal(size, size, name="b")
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        runs = {"bf16": Run(lambda a=a, b=b: a @ b.t())}
        runs |= {f"fp8, a scale a {kind}": Run(_scaled(a8, b8, kind)) for kind in ("row", "matrix")}
        for name, seconds in bench.time(runs).items():
            flops = rate(seconds, 2 * size**3)
            entries.append({"product": name, "size": size, "flops_per_second": flops, **summary(seconds)})
            print(f"  {name:22} {size:6} cubed {flops / 1e12:9.2f} TFLOP/s")
    best = {}
    for kind in ("bf16", "fp8"):
        best[kind] = max((e["flops_per_second"] for e in entries if e["product"].startswith(kind)), default=None)
    return {"flops_per_second": best, "measured": entries}


def _scaled(a: Tensor, b: Tensor, kind: str) -> Any:
    size = len(a)
    shapes = ((size, 1), (1, size)) if kind == "row" else ((), ())
    scales = [torch.ones(shape, dtype=torch.float32, device=a.device) for shape in shapes]
    b_t = b.t()
    return lambda: torch._scaled_mm(a, b_t, *scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def _copy(bench: Bench) -> dict[str, Any]:
    """Bytes read and written a second by a copy within the device's memory."""
    size = bench.pick(1 << 30, 1 << 16)
    source = torch.ones(size, dtype=torch.uint8, device=bench.device).view(torch.bfloat16)
    target = torch.empty_like(source)
    seconds = bench.time({"copy": Run(lambda: target.copy_(source))})["copy"]
    moved = rate(seconds, 2 * size)
    print(f"  copy {moved / 1e9:10.1f} GB/s, read and written")
    return {"bytes_per_second": moved, "bytes": 2 * size, **summary(seconds)}


def _find_backends(bench: Bench, here: dict[str, Any]) -> None:
    reasons: dict[str, str | None] = {}
    for name in NAMES:
        before = bench.elapsed
        reason: str | None = "trying it failed: see errors"
        with bench.attempt(f"backend {name}"):
            reason = _why_not(bench, name)
        reasons[name] = reason
        print(f"  FP8 backend {name}: {reason or 'runs'} ({bench.elapsed - before:.1f} s to find out)")
    here["backends"] = {name: {"why_not": reason} for name, reason in reasons.items()}


def _why_not(bench: Bench, name: str) -> str | None:
    """Why a backend does not run; where it does, it is kept in ``bench.backends``."""
    try:
        from clearseek.config import Fp8Config
        from clearseek.fp8.backends.choose import make, why_not
    except ImportError as error:
        if str(error.name).startswith("clearseek"):
            raise
        return _without_choose(bench, name)
    reason = why_not(name, Fp8Config(), bench.device)
    if reason is None:
        bench.backends[name] = make(name)
    return reason


def _without_choose(bench: Bench, name: str) -> str | None:
    module, maker = MAKERS[name].split(":")
    try:
        backend = getattr(importlib.import_module(module), maker)()
    except ImportError as error:
        return f"a package could not be imported ({error})"
    reason: str | None = backend.why_not(bench.device)
    if reason is None:
        bench.backends[name] = backend
    return reason
