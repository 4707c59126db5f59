"""Export and import of block FP8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clearseek.cli import main
from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.convert.run import convert_checkpoint
from clearseek.hub.read import import_hf
from clearseek.hub.safetensors import read_header
from clearseek.hub.write import INDEX, export_hf
from clearseek.recipe import parse_recipe
from clearseek.tensors import fp8_tensors
from clearseek.train.checkpoints import checkpoint
from clearseek.train.run import Run
from tests.hub import checkpoints
from tests.hub.checkpoints import assert_same, read
from tests.hub.examples import CONFIGS, random_state, small, tokenizer_file

MTP = CONFIGS["v3-mtp"]
ODD_MTP = small(hidden_size=136, moe_intermediate_size=130, kv_lora_rank=132, num_nextn_predict_layers=1)


@pytest.mark.parametrize("scales", ["float", "power-of-two"])
@pytest.mark.parametrize("config", [ODD_MTP, CONFIGS["v2-lite"], CONFIGS["v3-tied-mtp"]], ids=["odd", "v2", "tied"])
def test_fp8_export_is_bf16_export_converted(config: ModelConfig, scales: Any, tmp_path: Path) -> None:
    masters, file = random_state(config, torch.float32), tokenizer_file(tmp_path)
    export_hf(masters, config, file, tmp_path / "bf16")
    export_hf(masters, config, file, tmp_path / "fp8", dtype=torch.float8_e4m3fn, scales=scales)
    convert_checkpoint(tmp_path / "bf16", tmp_path / "converted", "fp8", scales)
    exported = read(tmp_path / "fp8")
    assert_same(exported, read(tmp_path / "converted"))
    stored = {name: (dtype, shape) for name, dtype, shape in fp8_tensors(config)}
    header = read_header(tmp_path / "fp8" / "model.safetensors")
    assert {e.name: (e.dtype, e.shape) for e in header.entries} == stored
    config_files = [(tmp_path / folder / "config.json").read_bytes() for folder in ("fp8", "converted")]
    assert config_files[0] == config_files[1]
    assert "E4M3" in (tmp_path / "fp8" / "README.md").read_text()


def test_fp8_shards_hold_matrices_with_their_scales_within_the_limit(tmp_path: Path) -> None:
    state, file = random_state(ODD_MTP), tokenizer_file(tmp_path)
    for name, limit in (("one", 10**9), ("many", 60_000)):
        export_hf(state, ODD_MTP, file, tmp_path / name, dtype=torch.float8_e4m3fn, shard_bytes=limit)
    assert_same(read(tmp_path / "one"), read(tmp_path / "many"))
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    index, total = json.loads((tmp_path / "many" / INDEX).read_text()), 0
    assert len(files) > 5
    for each in files:
        sizes = {name: tensor.nbytes for name, tensor in load_file(each).items()}
        assert sum(sizes.values()) <= 60_000 or len(sizes) <= 2
        assert all(name + "_scale_inv" in sizes for name, t in load_file(each).items() if t.element_size() == 1)
        assert all(index["weight_map"][name] == each.name for name in sizes)
        total += sum(sizes.values())
    assert index["metadata"] == {"total_size": total}
    convert_checkpoint(tmp_path / "many", tmp_path / "bf16", "bf16")
    assert_same(import_hf(tmp_path / "many")[1], import_hf(tmp_path / "bf16")[1])


@pytest.mark.parametrize("split", [None, checkpoints.by_turns(3)], ids=["one file", "scales elsewhere"])
def test_fp8_is_imported_as_the_numbers_it_stands_for(split: Any, tmp_path: Path) -> None:
    made = checkpoints.random_fp8()
    config, state = import_hf(checkpoints.write(tmp_path / "fp8", made, split))
    assert config == checkpoints.ODD
    kv = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
    assert torch.equal(state[kv], checkpoints.decoded(made[kv], made[kv + "_scale_inv"]))
    down = "model.layers.1.mlp.experts.1.down_proj.weight"
    stacked = state["model.layers.1.mlp.experts.down_proj"]
    assert torch.equal(stacked[1], checkpoints.decoded(made[down], made[down + "_scale_inv"]))
    assert {tensor.dtype for name, tensor in state.items() if "e_score" not in name} == {torch.bfloat16}
    assert torch.equal(state["lm_head.weight"], made["lm_head.weight"])
    export_hf(state, config, tokenizer_file(tmp_path), tmp_path / "again")
    assert_same(import_hf(tmp_path / "again")[1], state)


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        (
            UP + "_scale_inv",
            None,
            UP + "_scale_inv is missing",
        ),
        ("lm_head.weight_scale_inv", torch.ones(1, 2), "lm_head.weight_scale_inv is a scale without an FP8 tensor"),
        (
            UP + "_scale_inv",
            torch.ones(3, 3),
            "is F32 [3, 3], but blocks of 128 x 128 in [300, 160] need F32 [3, 2]",
        ),
        (UP + "_scale_inv", torch.ones(3, 2).bfloat16(), "weight_scale_inv is BF16 [3, 2], but blocks"),
        (UP + "_scale_inv", -torch.ones(3, 2), "the scale of block [0, 0] is -1.0"),
        (UP + "_scale_inv", torch.full((3, 2), float("nan")), "the scale of block [0, 0] is nan"),
        (UP, torch.ones(300, 160).bfloat16(), "up_proj.weight_scale_inv is a scale without an FP8 tensor"),
        (UP, torch.full((300, 160), float("nan")).to(torch.float8_e4m3fn), "up_proj.weight holds NaN"),
        (
            "lm_head.weight",
            torch.ones(320, 160).to(torch.float8_e4m3fn),
            "lm_head.weight_scale_inv is missing",
        ),
        ("model.norm.weight", torch.full((160,), float("nan")).bfloat16(), "model.norm.weight holds NaN or infinity"),
    ],
)
def test_bad_fp8_is_not_imported(name: str, tensor: Any, says: str, tmp_path: Path) -> None:
    made = checkpoints.random_fp8() | {name: tensor}
    out = checkpoints.write(tmp_path / "fp8", {n: t for n, t in made.items() if t is not None})
    with pytest.raises(UserError) as caught:
        import_hf(out)
    assert f"{out}/model.safetensors: " in str(caught.value) and says in str(caught.value)


def test_an_index_that_lies_is_not_imported(tmp_path: Path) -> None:
    out = checkpoints.write(tmp_path / "fp8", checkpoints.random_fp8(), checkpoints.by_turns(2))
    index, one, two = out / INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    good = json.loads(index.read_text())["weight_map"]
    import_hf(out)
    swapped = {name: two if file == one else one for name, file in good.items()}
    for lie, says in ((swapped, "is said to be in"), (good | {"ghost": one}, "ghost is said to be in")):
        index.write_text(json.dumps({"weight_map": lie}))
        with pytest.raises(UserError, match=f"{INDEX}: .*{says}"):
            import_hf(out)
    index.write_text(json.dumps({"weight_map": good}))
    (out / "model-00003-of-00003.safetensors").write_bytes((out / one).read_bytes())
    with pytest.raises(UserError, match=r"model-00003-of-00003\.safetensors: .* does not name this file"):
        import_hf(out)


def test_scales_are_what_scale_fmt_says(tmp_path: Path) -> None:
    free = checkpoints.write(tmp_path / "free", checkpoints.random_fp8(), scale_fmt="ue8m0")
    for reader in (import_hf, lambda folder: convert_checkpoint(folder, tmp_path / "bf16", "bf16")):
        with pytest.raises(UserError, match=r'_scale_inv: the scale of block .* not a power of two, .*"ue8m0"'):
            reader(free)
    assert not (tmp_path / "bf16").exists()


def test_fp8_must_say_so(tmp_path: Path) -> None:
    made = checkpoints.random_fp8()
    with pytest.raises(UserError, match=r"is in FP8, but config\.json has no quantization_config"):
        import_hf(checkpoints.write(tmp_path / "fp8", made, quantised=False))


def test_numbers_that_are_none_are_not_exported_in_fp8(tmp_path: Path) -> None:
    state = random_state(MTP)
    state["model.layers.1.mlp.experts.down_proj"][5, 3, 2] = float("inf")
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.experts\.5\.down_proj\.weight holds NaN or infinity"):
        export_hf(state, MTP, tokenizer_file(tmp_path), tmp_path / "out", dtype=torch.float8_e4m3fn)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("precision", "scales", "expected"),
    [("fp8", "power-of-two", "ue8m0"), ("fp8", "deepseek-v3", None), ("fp8", "float", None),
     ("bf16", "power-of-two", None)],
)  # fmt: skip
def test_a_run_is_exported_under_the_scales_it_was_trained_with(
    precision: str, scales: str, expected: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(hidden_size=128, intermediate_size=128, moe_intermediate_size=128, num_hidden_layers=2)
    tables: dict[str, Any] = {
        "name": "mine",
        "model": config.model_dump(mode="json"),
        "data": {"sequence_length": 32},
        "train": {"steps": 1, "batch_size": 1, "precision": precision},
        "fp8": {"scales": scales},
    }
    run = Run(tmp_path / "run")
    run.root.mkdir()
    run.write_recipe(parse_recipe(tables, "mine"))
    shutil.copy(tokenizer_file(tmp_path), run.tokenizer)
    state = random_state(config, torch.float32)
    buffers = {name: tensor for name, tensor in state.items() if "e_score" in name}
    groups = {"weights": {n: t for n, t in state.items() if n not in buffers}, "buffers": buffers}
    checkpoint.save(run.checkpoints, 0, groups, {}, keep=1)
    assert main(["export", str(run.root), str(tmp_path / "fp8"), "--dtype", "fp8"]) == 0
    assert "as fp8" in capsys.readouterr().out
    raw = json.loads((tmp_path / "fp8" / "config.json").read_text())
    assert raw["quantization_config"].get("scale_fmt") == expected
    export_hf(state, config, run.tokenizer, tmp_path / "bf16")
    convert_checkpoint(tmp_path / "bf16", tmp_path / "converted", "fp8", "power-of-two" if expected else "float")
    assert_same(read(tmp_path / "fp8"), read(tmp_path / "converted"))
    assert main(["import", str(tmp_path / "fp8"), str(tmp_path / "back")]) == 0
    convert_checkpoint(tmp_path / "fp8", tmp_path / "decoded", "bf16")
    said = []
    for folder in ("fp8", "back", "decoded"):
        capsys.readouterr()
        assert main(["generate", str(tmp_path / folder), "--max-tokens", "8", "--temperature", "2"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
