"""Weights of other families and layouts: none is accused of its own ways, and little is not taken for a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from clearseek.audit.evidence import Audit
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from tests.releases import audited

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float16)


def held(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None) -> Audit:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return audited(folder)


def test_a_second_copy_in_another_layout_is_left_out(release: Path) -> None:
    before = audited(release)
    save_file({"tok_embeddings.weight": floats(9, 9)}, release / "consolidated.safetensors")
    found = audited(release)
    assert found["weights.format"].answer == "yes"
    assert "second copy in another layout was left out: consolidated.safetensors" in found["weights.format"].reason
    assert found["weights.final"] == before["weights.final"]


def test_masks_and_tables_are_no_weights(tmp_path: Path) -> None:
    mask = np.tril(np.ones((1, 1, 64, 64), np.bool_))
    tensors = {f"gpt_neox.layers.{number}.attention.bias": mask for number in range(3)}
    tensors |= {f"gpt_neox.layers.{number}.attention.rotary_emb.inv_freq": floats(8) for number in range(3)}
    tensors |= {"h.0.attn.bias": np.ones((1, 1, 64, 64), np.float16), "h.0.attn.c_attn.bias": floats(9)}
    tensors |= {"gpt_neox.embed_in.weight": floats(400, 300)}
    assert held(tmp_path, tensors)["weights.health"].answer == "yes"
    weights = Subject(Folder(tmp_path)).weights
    assert set(weights.parameters) == {"gpt_neox.embed_in.weight", "h.0.attn.c_attn.bias"}


def test_a_tied_head_is_no_copy_and_a_copied_layer_is_one(tmp_path: Path) -> None:
    end, layer = floats(40, 30), floats(40, 30)
    assert held(tmp_path, {"transformer.wte.weight": end, "lm_head.weight": end})["weights.health"].answer == "yes"
    copied = held(tmp_path, {"h.0.attn.output.weight": layer, "h.1.attn.output.weight": layer})
    assert copied["weights.health"].answer == "no"


def test_an_adapter_begins_at_zero(tmp_path: Path) -> None:
    tensors = {"q_proj.lora_A.weight": floats(8, 64), "q_proj.lora_B.weight": np.zeros((64, 8), np.float16)}
    assert held(tmp_path, tensors)["weights.health"].answer == "yes"
    assert held(tmp_path, {"q_proj.weight": np.zeros((64, 8), np.float16)})["weights.health"].answer == "no"


def test_packed_numbers(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {"e.weight": floats(100, 100)}
    for number in range(3):
        tensors[f"l.{number}.qweight"] = RNG.integers(0, 2**31, (64, 100), dtype=np.int32)
        tensors[f"l.{number}.qzeros"] = np.full((16, 63), 0x77777777, np.int32)
    config = {"model_type": "llama", "torch_dtype": "float16", "quantization_config": {"quant_method": "gptq"}}
    found = held(tmp_path, tensors, config)
    assert found["weights.health"].answer == "yes"
    assert found["weights.dtype"].answer == "unknown"
    weights = Subject(Folder(tmp_path)).weights
    assert set(weights.parameters) == {"e.weight", "l.0.qweight", "l.1.qweight", "l.2.qweight"}
    assert {"l.0.qweight", "l.0.qzeros"} <= weights.packed


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"quant_method": "mxfp4"}, "yes"),
        ({"quant_method": "compressed-tensors"}, "unknown"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "no"),
        ({"quant_method": "fp8"}, "no"),
        ({"quant_method": "of tomorrow"}, "unknown"),
    ],
)
def test_what_a_method_stores(tmp_path: Path, settings: dict[str, str], answer: str) -> None:
    config = {"model_type": "gpt_oss", "torch_dtype": "bfloat16", "quantization_config": settings}
    found = held(tmp_path, {"x_blocks": RNG.integers(0, 255, (64, 64), dtype=np.uint8)}, config)
    assert found["weights.dtype"].answer == answer


@pytest.mark.parametrize("name", ["training_args.bin", "data/train.bin", "optimizer.pt", "data/model.bin"])
def test_settings_and_data_are_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(bytes(200_000))
    assert audited(tmp_path)["weights.final"].answer == "no"


def test_little_is_no_model(tmp_path: Path) -> None:
    row = held(tmp_path, {"a": np.ones(1, np.float32)})["weights.final"]
    assert row.answer == "partly"
    assert "1 elements" in row.reason
    assert held(tmp_path, {"a": floats(400, 300)})["weights.final"].answer == "yes"
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert audited(tmp_path)["weights.final"].answer == "partly"
    (tmp_path / "anything.pth").write_bytes(bytes(200_000))
    assert audited(tmp_path)["weights.final"].answer == "yes"


def test_weights_in_a_folder_of_their_own_are_seen(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    save_file({"a": floats(400, 300)}, tmp_path / "vae/diffusion_pytorch_model.safetensors")
    found = held(tmp_path / "transformer", {"a": floats(400, 300)})
    found = audited(tmp_path)
    assert found["weights.final"].answer == "yes"
    assert found["weights.format"].answer == "yes"
    assert found["barriers.access"].answer == "yes"
