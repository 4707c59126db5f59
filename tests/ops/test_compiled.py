"""Compiled formulas: the same mathematics as the hand-ordered passes, the same bits whatever shapes came before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import Kernels, choose_kernels, kernels_environment, use_kernels
from clearseek.ops.swiglu import weighted_swiglu
from tests.model.test_parity import BASE

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)
WIDTHS = """
import torch, clearseek.ops.swiglu as swiglu, clearseek.ops.compiled as fusion
fusion.use_kernels("compile")
kept, total = [], 0.0
for _ in range(20):  # a store beyond a tensor's end meets what the C library keeps there, which then ends the process
    for size in range(8, 200, 8):
        rows = torch.arange(2.0 * size).reshape(1, -1) / 1000
        kept.append(swiglu.weighted_swiglu(rows, torch.ones(1, 1)))
        total += kept[-1].double().sum().item()
del kept
print(total)
"""


def gradients(kernels: Kernels) -> dict[str, torch.Tensor]:
    """Loss and gradients of a small model whose passes are worked in this way."""
    config = ModelConfig(**(BASE | {"num_nextn_predict_layers": 1}))
    use_kernels(kernels)
    model = DeepSeekModel(config)
    model.initialise(3)
    tokens = torch.randint(0, config.vocab_size, (4, 66), generator=torch.Generator().manual_seed(1))
    losses = model.loss(tokens, 1e-3, 0.3)
    losses.total.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": losses.total.detach().reshape(1)}


@pytest.mark.slow
@needs_compiler
def test_a_compiled_model_has_the_same_loss_and_gradients() -> None:
    plain, compiled, again = gradients("torch"), gradients("compile"), gradients("compile")
    assert plain.keys() == compiled.keys()
    for name, exact in plain.items():
        error = (compiled[name] - exact).norm() / exact.norm()
        assert error <= 1e-5, f"{name}: {error:.2e}"  # FP32 sums in another order
        assert torch.equal(compiled[name], again[name]), name


@pytest.mark.slow
@needs_compiler
def test_bits_do_not_depend_on_the_shapes_seen_before() -> None:
    use_kernels("compile")
    x, weight = torch.randn(384, 64), torch.rand(384, 1)
    first = weighted_swiglu(x, weight)
    for rows in (128, 256, 5, 1):
        assert torch.equal(weighted_swiglu(x[:rows], weight[:rows]), first[:rows])
    assert torch.equal(weighted_swiglu(x, weight), first)


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this processor's vectors are narrow")
def test_a_cache_that_machines_with_other_vectors_share(tmp_path: Path) -> None:
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    sums = []
    for width in ("avx2", ""):
        environment = os.environ | caches | ({"ATEN_CPU_CAPABILITY": width} if width else {})
        command = [sys.executable, "-c", WIDTHS]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{width}: {ended.stderr}"
        sums.append(float(ended.stdout))
    assert sums[1] == pytest.approx(sums[0], rel=1e-6)  # FP32 rounding


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
