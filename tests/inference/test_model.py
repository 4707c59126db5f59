"""What a record says that an answer's bits depend on."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from clearseek.inference import model
from clearseek.inference.model import environment
from clearseek.kernels import launch
from tests.inference.models import SMALL, model_of, packed


def test_the_environment_names_what_decides_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = packed(model_of(**SMALL))
    told = environment(weights)
    assert told["llguidance"] == importlib.metadata.version("llguidance")
    assert told["draws"] == ("loops-1" if launch.unavailable() is None else told["draws"])
    monkeypatch.setattr(launch, "unavailable", lambda: "left out")
    plain = environment(weights)
    assert plain["sums"] == "torch"
    assert plain["draws"].startswith(f"numpy {np.__version__}, ")


def test_the_environment_is_told_without_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def left_out(package: str) -> str:
        if package == "llguidance":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(model.importlib.metadata, "version", left_out)
    assert "llguidance" not in environment(packed(model_of(**SMALL)))
