"""Conversion of what other tools write: F16 and F32, packed scales, a config.json that is behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.hub.convert.run import convert_checkpoint
from clearseek.tensors import is_fp8_name, tensors
from tests.hub.checkpoints import ODD, QUANTISED, SCALE, assert_same, by_turns, encoded, random_fp8, read, tree, write


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["F16", "F32"])
@pytest.mark.parametrize("scales", ["float", "power-of-two"])
def test_wide_matrices_of_any_type_are_rounded_once(dtype: torch.dtype, scales: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    made = {
        spec.name: (torch.randn(spec.shape, generator=generator) / 7).to(dtype)
        for spec in tensors(ODD)
        if spec.duplicate_of is None
    }
    convert_checkpoint(write(tmp_path / "wide", made, quantised=False), tmp_path / "fp8", "fp8", scales)
    found = read(tmp_path / "fp8")
    for name, tensor in made.items():
        if not is_fp8_name(name):
            assert found[name].dtype == dtype and torch.equal(found[name], tensor)
            continue
        codes, scale = encoded(tensor, scales == "power-of-two")
        assert torch.equal(found[name + SCALE], scale), name
        assert torch.equal(found[name].view(torch.uint8), codes.view(torch.uint8)), name


@pytest.mark.parametrize("split", [None, by_turns(3)], ids=["one file", "scales elsewhere"])
def test_packed_scales_there_and_back(split: Any, tmp_path: Path) -> None:
    plain = random_fp8(powers=True)
    packed = {n: t.to(torch.float8_e8m0fnu) if n.endswith(SCALE) else t for n, t in plain.items()}
    source = write(tmp_path / "packed", packed, split, scale_fmt="ue8m0")
    convert_checkpoint(source, tmp_path / "bf16", "bf16")
    convert_checkpoint(write(tmp_path / "plain", plain, split, scale_fmt="ue8m0"), tmp_path / "same", "bf16")
    weights, same = read(tmp_path / "bf16"), read(tmp_path / "same")
    assert_same(weights, same)
    convert_checkpoint(tmp_path / "bf16", tmp_path / "again", "fp8")
    assert tree(tmp_path / "again") == tree(source)
    convert_checkpoint(tmp_path / "bf16", tmp_path / "float", "fp8", "float")
    assert {t.dtype for n, t in read(tmp_path / "float").items() if n.endswith(SCALE)} == {torch.float32}


def test_a_packed_scale_of_255_is_damage(tmp_path: Path) -> None:
    made = random_fp8(powers=True)
    name = next(n for n in made if n.endswith(SCALE))
    made = {n: t.to(torch.float8_e8m0fnu) if n.endswith(SCALE) else t for n, t in made.items()}
    made[name].view(torch.uint8)[0, 0] = 255
    with pytest.raises(UserError, match=r"is nan: it must be a positive number"):
        convert_checkpoint(write(tmp_path / "fp8", made), tmp_path / "bf16", "bf16")


def test_a_stale_quantization_config_is_replaced(tmp_path: Path) -> None:
    made = random_fp8()
    convert_checkpoint(write(tmp_path / "fp8", made), tmp_path / "bf16", "bf16")
    shutil.rmtree(tmp_path / "bf16" / "fp8_origin")
    stale = tmp_path / "stale"
    shutil.copytree(tmp_path / "bf16", stale)
    raw = json.loads((stale / "config.json").read_text())
    (stale / "config.json").write_text(json.dumps(raw | {"quantization_config": QUANTISED}))
    convert_checkpoint(stale, tmp_path / "one", "fp8")
    convert_checkpoint(tmp_path / "bf16", tmp_path / "two", "fp8")
    assert_same(read(tmp_path / "one"), read(tmp_path / "two"))
    assert json.loads((tmp_path / "one" / "config.json").read_text()) == raw | {"quantization_config": QUANTISED}


def test_mtp_without_its_embedding_and_head_is_converted(tmp_path: Path) -> None:
    ends = ("2.embed_tokens.weight", "shared_head.head.weight")
    made = {name: tensor for name, tensor in random_fp8().items() if not name.endswith(ends)}
    convert_checkpoint(write(tmp_path / "fp8", made), tmp_path / "bf16", "bf16")
    convert_checkpoint(tmp_path / "bf16", tmp_path / "again", "fp8")
    assert tree(tmp_path / "again") == tree(tmp_path / "fp8")
