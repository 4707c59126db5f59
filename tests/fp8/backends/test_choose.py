from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from clearseek.config import Fp8Config
from clearseek.errors import UserError
from clearseek.fp8.backend import Backend
from clearseek.fp8.backends import choose as choose_module
from clearseek.fp8.backends import probe
from clearseek.fp8.backends.choose import BACKENDS, ORDER, choose, make
from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.reference import ReferenceProducts, TorchQuantiser, reference
from clearseek.fp8.formats import Quantised, next_power_of_two
from clearseek.fp8.quantise import quantise_columns, quantise_tiles

CPU = torch.device("cpu")


def test_every_backend_of_the_settings_is_known_and_tried() -> None:
    named = set(Fp8Config.model_fields["backend"].annotation.__args__) - {"auto"}  # type: ignore[union-attr]
    assert set(BACKENDS) == named == set(ORDER["cuda"])
    assert ORDER["cuda"][0] == "triton"
    for name in ("dequantised", "reference", "cublas"):
        assert make(name).name.split(",")[0] == name


def test_auto_takes_the_first_that_serves_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_module, "_rates", lambda names, device, dtype: dict.fromkeys(names, 1.0))
    assert choose(Fp8Config(), CPU).backend.name == "dequantised"
    assert choose(Fp8Config(scales="float"), CPU).backend.name == "reference"
    assert choose(Fp8Config(backend="reference"), CPU).backend.name == "reference"


def test_what_cannot_run_is_refused_by_name_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r'fp8.backend = "cublas" cannot run here: it needs an NVIDIA GPU'):
        choose(Fp8Config(backend="cublas"), CPU)
    with pytest.raises(UserError, match=r'"dequantised" cannot run here: .*fp8.scales = "power-of-two".*"deepseek-v3"'):
        choose(Fp8Config(backend="dequantised", scales="deepseek-v3"), CPU)


def test_a_missing_package_is_named() -> None:
    program = """
import sys
sys.modules["triton"] = sys.modules["deep_gemm"] = None  # as if not installed
import torch
from clearseek.config import Fp8Config
from clearseek.fp8.backends.choose import choose, why_not
for name in ("triton", "deepgemm", "cublas"):
    print(why_not(name, Fp8Config(), torch.device("cpu")))
print(choose(Fp8Config(), torch.device("cpu")).backend.name)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    triton, deepgemm, cublas, chosen = ran.stdout.splitlines()
    assert triton == deepgemm == "Triton is not installed: pip install -e '.[triton]'"
    assert cublas == "it needs an NVIDIA GPU"
    assert chosen in ("dequantised", "reference")  # the faster one in a measurement, which a busy machine disturbs


def changed(**parts: Any) -> Callable[[], Backend]:
    """The reference with other parts."""
    return lambda: replace(reference(), **parts)


def with_tiles(tiles: Callable[[torch.Tensor, bool], Quantised]) -> Callable[[], Backend]:
    return changed(quantiser=TorchQuantiser(tiles, quantise_columns, reference().quantiser.decode))


class LostExperts(ReferenceProducts):
    """Every expert's rows by the first one's matrix."""

    def grouped_mm(self, a: Quantised, b: Quantised, ends_E: torch.Tensor) -> torch.Tensor:
        return super().grouped_mm(a, Quantised(b.data[:1].expand_as(b.data), b.scale[:1].expand_as(b.scale)), ends_E)


class NotANumber(ReferenceProducts):
    """What was never written."""

    def mm_weight(self, a: Quantised, b: Quantised) -> torch.Tensor:
        y = super().mm_weight(a, b)
        y[3, 4] = torch.nan
        return y


class Broken(ReferenceProducts):
    """A library that is not what it was built for."""

    def mm(self, a: Quantised, b: Quantised) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nmore lines")


def test_a_probe_passes_what_is_right_and_tells_what_is_wrong() -> None:
    def one_scale_twice(x_MK: torch.Tensor, power_of_two: bool) -> Quantised:
        found = quantise_tiles(x_MK, power_of_two)
        found.scale[100, -1] *= 2
        return found

    assert mismatch(reference, CPU) is None
    assert "decoding, the product" in (mismatch(with_tiles(one_scale_twice), CPU) or "")
    wrong = mismatch(changed(products=LostExperts()), CPU) or ""
    assert wrong.startswith("it gave wrong results when tried: the grouped product, the grouped input gradient")
    assert "the weight gradient" in (mismatch(changed(products=NotANumber()), CPU) or "")
    found = mismatch(changed(products=Broken()), CPU)
    assert found == "trying it failed with RuntimeError: CUDA error: no kernel image is available"


def test_a_probe_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, runs = changed(), []
    real = probe._results
    monkeypatch.setattr(probe, "_results", lambda *args: runs.append(1) or real(*args))  # type: ignore[func-returns-value]
    assert mismatch(counted, CPU) is None and mismatch(counted, CPU) is None
    assert len(runs) == 4  # its own and the reference's, for both kinds of scales


def test_a_probe_tries_free_scales_and_odd_sizes() -> None:
    def only_powers_of_two(x_MK: torch.Tensor, power_of_two: bool) -> Quantised:
        found = quantise_tiles(x_MK, power_of_two)
        return found if power_of_two else Quantised(found.data, next_power_of_two(found.scale))

    def only_whole_tiles(q: Quantised) -> torch.Tensor:
        x = reference().quantiser.decode(q)
        x[:, x.shape[1] // 128 * 128 :] = 0
        return x

    assert "decoding" in (mismatch(with_tiles(only_powers_of_two), CPU) or "")
    quantiser = TorchQuantiser(quantise_tiles, quantise_columns, only_whole_tiles)
    assert "decoding" in (mismatch(changed(quantiser=quantiser), CPU) or "")
