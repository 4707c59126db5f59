"""Weights as an export holds them, beside those of an export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.config_json import Scales
from clearseek.hub.read import import_hf
from clearseek.hub.stored import as_stored
from clearseek.hub.write import DTYPES, export_hf
from clearseek.inference.model import weights_hash
from tests.hub.examples import CONFIGS, random_state, small, tokenizer_file

WIDE = small(hidden_size=256, intermediate_size=320, moe_intermediate_size=136)
"""Matrices of several blocks of 128, and experts whose two halves begin within one."""


@pytest.mark.parametrize("scales", ["float", "power-of-two"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [*CONFIGS.values(), WIDE], ids=[*CONFIGS, "wide"])
def test_weights_are_those_of_an_export(config: ModelConfig, dtype: str, scales: Scales, tmp_path: Path) -> None:
    state = random_state(config, torch.float32)
    export_hf(state, config, tokenizer_file(tmp_path), tmp_path / "model", DTYPES[dtype], scales=scales)
    _, exported = import_hf(tmp_path / "model")
    made = as_stored(state, config, DTYPES[dtype], scales)
    assert weights_hash(made) == weights_hash(exported)
    assert (weights_hash(made) == weights_hash(state)) == (dtype == "fp32")


def test_what_no_code_holds_is_refused() -> None:
    state = random_state(small(), torch.float32)
    state["model.layers.1.mlp.experts.down_proj"][3, 2, 1] = torch.nan
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.experts\.3\.down_proj\.weight holds NaN"):
        as_stored(state, small(), DTYPES["fp8"])
