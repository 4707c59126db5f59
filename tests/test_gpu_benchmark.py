"""The benchmark for GPUs: its code, walked on a CPU, and that its checks can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.fp8.backends.reference import ReferenceProducts, reference
from clearseek.fp8.formats import Quantised
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_tiles

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the smoke run is for machines without a GPU")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "gpu.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@without_gpu
def test_every_section_runs_and_every_check_passes(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    out = tmp_path / "gpu.json"
    ran = gpu("--smoke", "--out", str(out))
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["state"] == "complete"
    missing = {"warming up fp8, a scale a matrix"}  # oneDNN has this product only on processors beyond AVX2
    assert {error["what"] for error in report.get("errors", [])} <= missing
    sections = {"machine", "checks", "kernels", "layer", "tune", "generate", "training"}
    assert sections <= report.keys() and report["section_seconds"].keys() == sections
    assert report["machine"]["backends"]["triton"] == {"why_not": None}
    assert report["generate"]["checks"][0]["same best"] > 0.9
    assert report["checks_passed"] and len(report["checks"]["checks"]) > 70
    assert {run["precision"] for run in report["training"]["runs"]} == {"bf16", "fp8"}
    assert len(report["bars"]) == 8 and all(bar["figure"] is not None for bar in report["bars"])
    assert {entry["operation"] for entry in report["kernels"]["products"]} == {
        "forward", "input gradient", "weight gradient",
    }  # fmt: skip
    assert str(FOLDER.parent) not in out.read_text(encoding="utf-8")


@without_gpu
def test_what_the_time_does_not_hold_is_left_out_and_said(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    ran = gpu("--smoke", "--out", str(out), "--only", "kernels", "training", "--seconds", "12")
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {entry["section"] for entry in report["skipped"]} == {"kernels", "training"}
    assert "left out: training tiny in bf16: 0 s are left" in ran.stdout


@without_gpu
def test_the_process_ends_when_its_time_is_over(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    ran = gpu("--smoke", "--out", str(out), "--seconds", "0.1")
    assert ran.returncode == 3 and "stopped: 0 s are over" in ran.stderr


@without_gpu
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    ran = gpu()
    assert ran.returncode == 2 and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and "no CUDA device" in ran.stderr


def test_errors_beyond_the_bound_are_found() -> None:
    from gpu_exact import decoded, nearly_quantised_error, product_error, quantised_error

    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(200, 300, generator=generator), torch.randn(70, 300, generator=generator)
    a, b = quantise_tiles(x, True), quantise_blocks(w, True)
    assert torch.equal(decoded(b).float(), dequantise(b))
    y = reference().products.mm(a, b)
    assert product_error(y, decoded(a), decoded(b))["passed"]
    assert not product_error(y * 1.01, decoded(a), decoded(b))["passed"]
    wrong = y.clone()
    wrong[3, 4] = torch.nan
    assert not product_error(wrong, decoded(a), decoded(b))["passed"]

    assert quantised_error(a, a)["passed"] and nearly_quantised_error(a, a)["passed"]
    code = a.data.view(torch.uint8).clone()
    code[5, 5] ^= 1
    other = Quantised(code.view(a.data.dtype), a.scale)
    assert quantised_error(other, a) == {"passed": False, "wrong_data": 1, "wrong_scales": 0}
    code[5, 5] ^= 0x11
    assert not nearly_quantised_error(Quantised(code.view(a.data.dtype), a.scale), a)["passed"]
    assert not nearly_quantised_error(Quantised(a.data, a.scale * 2), a)["passed"]


class Broken(ReferenceProducts):
    """Products twice as large, other ones every time, or none at all."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def mm(self, a: Quantised, b: Any) -> torch.Tensor:
        """Twice too much."""
        return super().mm(a, b) * 2

    def mm_weight(self, a: Any, b: Any) -> torch.Tensor:
        """Other bits each time."""
        self.calls += 1
        return super().mm_weight(a, b) * (1 + self.calls * 2.0**-22)

    def grouped_mm(self, a: Quantised, b: Any, ends_E: torch.Tensor) -> torch.Tensor:
        """As a library that was built without it."""
        raise RuntimeError("/home/someone/library/kernel.cu: not built")


def test_a_wrong_backend_is_found_out(tmp_path: Path) -> None:
    import gpu_checks
    from gpu_common import Bench

    bench = Bench(torch.device("cpu"), 0, True, 100, tmp_path / "gpu.json", section="checks")
    bench.backends["broken"] = replace(reference(), products=Broken())
    gpu_checks.checks(bench)
    passed = {(check["operation"], check["case"]): check["passed"] for check in bench.report["checks"]["checks"]}
    assert not passed["product", "1 x 208 by 136"] and passed["product", "1 x 208 by 136, twice"]
    assert passed["weight gradient", "1 rows, 136 x 72"] and not passed["weight gradient", "1 rows, 136 x 72, twice"]
    raised = [check for check in bench.report["checks"]["checks"] if check.get("raised")]
    assert {check["operation"] for check in raised} == {"grouped products"}
    assert bench.report["errors"][0]["error"] == "RuntimeError: kernel.cu: not built"


def test_bars_say_what_was_not_measured() -> None:
    from gpu_report import bars

    assert {bar.met for bar in bars({})} == {None}
    product = {"backend": "triton", "flops_per_second": 9e14}
    entries = [product | {"operation": operation} for operation in ("forward", "input gradient")]
    slow = entries[0] | {"flops_per_second": 7e14}
    forward, backward, *_ = bars({"kernels": {"products": [*entries, slow]}})
    assert (forward.figure, forward.met, backward.met) == (700.0, False, True)


def test_rows_are_split_into_multiples() -> None:
    from gpu_common import multiples_of

    parts = multiples_of(1280, torch.tensor([0.001, 5.0, 2.0]), 128)
    assert sum(parts) == 1280 and all(part % 128 == 0 for part in parts) and parts[1] > parts[2] > parts[0]
