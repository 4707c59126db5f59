"""Compiled formulas: the same mathematics as the hand-ordered passes, the same bits whatever shapes came before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.fp8.swiglu import weighted_swiglu
from clearseek.fusion import choose_kernels, kernels_environment, use_kernels
from clearseek.model.transformer import DeepSeekModel
from tests.model.test_parity import BASE

ALONE = "CLEARSEEK_TESTS_COMPILE"
"""Set in the process that compiles: behind a hundred other tests the C library aborted in it (docs/notebook.md)."""
has_compiler = bool(shutil.which("g++") or shutil.which("clang++"))
needs_compiler = pytest.mark.skipif(
    not has_compiler or ALONE not in os.environ, reason="torch.compile needs a C++ compiler and a process of its own"
)


@pytest.mark.skipif(not has_compiler or ALONE in os.environ, reason="torch.compile needs a C++ compiler")
def test_compiled_formulas_in_a_process_of_their_own() -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-k", "compiled_model or shapes_seen"]
    ended = subprocess.run(command, env=os.environ | {ALONE: "1"}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "2 passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.fixture(autouse=True)
def _switched_off_afterwards() -> Iterator[None]:
    yield
    use_kernels("torch")


def gradients(compiled: bool) -> dict[str, torch.Tensor]:
    config = ModelConfig(**(BASE | {"num_nextn_predict_layers": 1}))
    use_kernels("compile" if compiled else "torch")
    model = DeepSeekModel(config)
    model.initialise(3)
    tokens = torch.randint(0, config.vocab_size, (4, 66), generator=torch.Generator().manual_seed(1))
    losses = model.loss(tokens, 1e-3, 0.3)
    losses.total.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": losses.total.detach().reshape(1)}


@needs_compiler
def test_a_compiled_model_has_the_same_loss_and_gradients() -> None:
    plain, compiled, again = gradients(False), gradients(True), gradients(True)
    assert plain.keys() == compiled.keys()
    for name, exact in plain.items():
        error = (compiled[name] - exact).norm() / exact.norm()
        assert error <= 1e-5, f"{name}: {error:.2e}"  # FP32 sums in another order
        assert torch.equal(compiled[name], again[name]), name


@needs_compiler
def test_bits_do_not_depend_on_the_shapes_seen_before() -> None:
    use_kernels("compile")
    x, weight = torch.randn(384, 64), torch.rand(384, 1)
    first = weighted_swiglu(x, weight)
    for rows in (128, 256, 5, 1):
        assert torch.equal(weighted_swiglu(x[:rows], weight[:rows]), first[:rows])
    assert torch.equal(weighted_swiglu(x, weight), first)


def test_the_compiler_is_part_of_the_environment_only_when_used() -> None:
    assert kernels_environment() == {}
    if shutil.which("g++"):
        use_kernels("compile")
        assert kernels_environment()["compiler"].split()[0] in ("gcc", "clang")


def test_no_compiler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r'train\.kernels = "compile": no C\+\+ compiler'):
        choose_kernels("compile", torch.float32, "cpu")
