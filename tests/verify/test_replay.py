"""What training a release again costs where its type is emulated, said before it begins; what differs, in few words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clearseek.counts import flops_per_token
from clearseek.kernels import launch
from clearseek.machine import Precision
from clearseek.verify import replay
from clearseek.verify.replay import Replay, Segment
from clearseek.verify.rows import MachineError
from tests.tiny import tiny


def priced(monkeypatch: pytest.MonkeyPatch, bf16: float, recorded: str = "bfloat16") -> str:
    environment = {"precision": recorded, "device": "cpu"}
    release: Any = SimpleNamespace(recipe=tiny(), environment=environment)
    found = Precision(torch.bfloat16, {"bf16": bf16, "fp32": 1e11})
    monkeypatch.setattr(replay, "pick_precision", lambda choice: found)
    return Replay(release).price((Segment(0, 3), Segment(6, 8)))


def test_the_price_of_an_emulated_type_is_the_operations_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny()
    length = recipe.data.sequence_length
    operations = 5 * recipe.train.batch_size * length * flops_per_token(recipe.model, length)
    text = priced(monkeypatch, operations / 7200)
    assert "these 5 steps take at least 2 hours, and up to 4 times that where bits differ" in text
    assert "take at least 20 minutes" in priced(monkeypatch, operations / 1200)
    assert "take at least 30 s" in priced(monkeypatch, operations / 30)


def test_nothing_is_said_where_nothing_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert priced(monkeypatch, 3e11) == ""
    assert priced(monkeypatch, 1e9, recorded="float32") == ""


def test_loops_that_are_not_installed_here_are_this_machines_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(train={"kernels": "numba"})
    transcript = SimpleNamespace(version=2)
    environment = {"precision": "float32", "device": "cpu"}
    release: Any = SimpleNamespace(recipe=recipe, environment=environment, transcript=transcript)
    monkeypatch.setattr(launch, "unavailable", lambda: "numba is not installed")
    with pytest.raises(MachineError, match="numba is not installed"):
        Replay(release).train(Segment(0, 3))


def test_settings_are_shown_in_few_words() -> None:
    assert replay._short(None) == "unknown"
    assert replay._short({}) == "none"
    assert replay._short({"MKL_CBWR": "AVX2"}) == "MKL_CBWR=AVX2"
    assert replay._short(["avx", "fma"]) == "avx fma"
