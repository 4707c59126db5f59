from __future__ import annotations

import io
import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from rich.console import Console

from clearseek import cli
from clearseek.cli import doctor
from clearseek.errors import UserError
from clearseek.fp8.backends.choose import BACKENDS


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "SECONDS", 0.0)
        patch.setitem(doctor.SIZES, "cpu", (128, 256, 384))
        patch.setattr(
            "clearseek.machine.measure_matmul_rates", lambda dtypes, device: [1e9 * each.itemsize for each in dtypes]
        )
        with suppress(ImportError):
            import triton.experimental.gluon  # noqa: F401  (loads later otherwise, and not without what comes next)
        patch.delenv("TRITON_INTERPRET", raising=False)
        return doctor.examine("cpu")


def test_every_backend_either_runs_or_says_why_not(found: dict[str, Any]) -> None:
    backends = {each["backend"]: each for each in found["fp8"]["backends"]}
    assert list(backends) == list(BACKENDS)
    for each in backends.values():
        assert (each["why_not"] is None) == (each["flops_per_second"] is not None)
    assert backends["cublas"]["why_not"] == "it needs an NVIDIA GPU"
    assert found["fp8"]["auto"] == "dequantised"
    for name in ("dequantised", "reference"):
        rates = backends[name]["flops_per_second"]
        assert rates["product"] > 0 and rates["with_quantising"] > 0
    json.dumps(found)


def test_precision_is_what_training_takes(found: dict[str, Any]) -> None:
    rates = {"bf16": 2e9, "fp32": 4e9}
    assert found["precision"] == {"auto": "float32", "flops_per_second": rates, "emulated": {}}


def test_a_type_without_instructions_is_said(found: dict[str, Any]) -> None:
    shown = io.StringIO()
    precision = found["precision"] | {"emulated": {"bf16": 60.0}}
    doctor.print_findings(Console(file=shown, highlight=False), found | {"precision": precision})
    assert "product in bf16  2 GFLOP/s: no instructions for it, 60 times as slow as fp32" in shown.getvalue()


def test_a_pipe_gets_a_line_a_fact_and_a_terminal_a_table(found: dict[str, Any]) -> None:
    piped, seen = io.StringIO(), io.StringIO()
    doctor.print_findings(Console(file=piped, highlight=False), found)
    lines = piped.getvalue().splitlines()
    assert "\x1b" not in piped.getvalue() and "┃" not in piped.getvalue()
    assert "fp8 cublas: cannot run here: it needs an NVIDIA GPU" in lines
    assert [line for line in lines if line.startswith("fp8 reference: product ") and "with quantising " in line]
    assert [line for line in lines if line.split() == ["product", "in", "bf16", "2", "GFLOP/s"]]
    doctor.print_findings(Console(file=seen, highlight=False, force_terminal=True, width=100), found)
    assert "┃" in seen.getvalue() and "FP8: 128 x 256 times 256 x 384" in seen.getvalue()


def test_a_gpu_is_described(found: dict[str, Any]) -> None:
    gpu = {"name": "Some GPU", "memory": 80 * 2**30, "capability": "9.0"}
    shown = io.StringIO()
    doctor.print_findings(Console(file=shown), found | {"machine": found["machine"] | {"gpus": [gpu]}})
    assert "Some GPU, 80 GiB, capability 9.0" in shown.getvalue()


def test_command(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr("clearseek.cli.doctor.examine", lambda device: asked.append(device) or found)  # type: ignore[func-returns-value]
    assert cli.main(["doctor", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert cli.main(["doctor"]) == 0
    assert "fp8 reference: product" in capsys.readouterr().out
    assert asked == ["cpu", None]


@pytest.mark.parametrize("name", ["quantum", "meta", "cuda:7"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("there is one")
    with pytest.raises(UserError, match=f"--device {name}: .*use cpu"):
        doctor.examine(name)
