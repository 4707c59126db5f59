"""What the CPU tests hold, on a CUDA device, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearseek.model.transformer import DeepSeekModel
from tests.tiny import tiny
from tests.train.test_trainer import interrupted, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_two_runs_and_a_resumed_one_end_in_the_same_bits(tmp_path: Path, data: Path) -> None:
    outcomes = [run(tiny(), tmp_path / name, data, device="cuda")[0] for name in "ab"]
    assert outcomes[0].weights_sha256 == outcomes[1].weights_sha256
    interrupted(tiny(), tmp_path / "parts", data, after=3, device="cuda")
    resumed, _ = run(tiny(), tmp_path / "parts", data, device="cuda", resume=True)
    assert resumed.weights_sha256 == outcomes[0].weights_sha256


def test_gradients_equal_the_cpus_up_to_rounding() -> None:
    tokens = torch.randint(0, 300, (2, 34), generator=torch.Generator().manual_seed(0))
    gradients = []
    for device in ("cpu", "cuda"):
        model = DeepSeekModel(tiny().model)
        model.initialise(0)
        model.to(device).set_dtype(torch.bfloat16).loss(tokens.to(device), 1e-3, 0.3).total.backward()
        gradients.append({name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        error = (gradients[1][name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error <= 0.1, f"{name}: relative error {error:.3f}"
