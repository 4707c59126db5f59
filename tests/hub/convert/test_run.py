"""Conversion both ways: the numbers, the files, and the way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearseek.config import ModelConfig
from clearseek.fp8.quantise import quantise_blocks
from clearseek.hub.convert import stream as convert_stream
from clearseek.hub.convert.origin import FILE as ORIGIN_FILE
from clearseek.hub.convert.run import ConversionProgress, Converted, convert_checkpoint
from clearseek.hub.read import import_hf
from clearseek.hub.safetensors import read_header
from clearseek.tensors import FP8_KINDS, tensors
from tests.hub.checkpoints import (
    INDEX,
    ODD,
    SCALE,
    Tensors,
    assert_same,
    by_turns,
    decoded,
    encoded,
    random_fp8,
    read,
    scales_apart,
    tree,
    write,
)
from tests.hub.examples import CONFIGS, routers_as

Split = Callable[[int, str], int]
SPLITS: dict[str, Split | None] = {
    "one file": None,
    "one file with an index": lambda number, name: 0,
    "three files, scales elsewhere": by_turns(3),
    "a file of scales alone": scales_apart,
    "scales before their matrices": lambda number, name: 0 if name.endswith(SCALE) else 1,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP8 checkpoint in three files; nothing in it is changed."""
    return write(tmp_path_factory.mktemp("source") / "fp8", random_fp8(), by_turns(3))


@pytest.fixture(scope="module")
def wide(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in BF16; nothing in it is changed."""
    out = tmp_path_factory.mktemp("wide") / "bf16"
    convert_checkpoint(source, out, "bf16")
    return out


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def edit(folder: Path, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of every weight file in place; safetensors orders and writes them."""
    for file in folder.glob("model*.safetensors"):
        content = {name: tensor.clone() for name, tensor in load_file(file).items()}
        change(content)
        save_file(content, file, metadata={"format": "pt"})


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


# The numbers


@pytest.mark.parametrize("name", SPLITS)
def test_bf16_is_the_product_of_codes_and_scales(name: str, tmp_path: Path) -> None:
    made = random_fp8()
    fp8 = write(tmp_path / "fp8", made, SPLITS[name])
    ended = convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    expected = {
        tensor: decoded(value, made[tensor + SCALE]) if value.dtype == torch.float8_e4m3fn else value
        for tensor, value in made.items()
        if not tensor.endswith(SCALE)
    }
    assert_same(read(tmp_path / "bf16"), expected)
    assert ended.finished and ended.tensors == len(expected) and ended.dtype == "bf16"
    assert "quantization_config" not in config_of(tmp_path / "bf16")
    assert config_of(fp8) == config_of(tmp_path / "bf16") | {
        "quantization_config": config_of(fp8)["quantization_config"]
    }
    assert_same(import_hf(tmp_path / "bf16")[1], import_hf(fp8)[1])


@pytest.mark.parametrize("scales", ["float", "power-of-two"])
def test_fp8_is_deepseeks_block_by_block(scales: Any, wide: Path, tmp_path: Path) -> None:
    bf16 = copy(wide, tmp_path / "bf16")
    shutil.rmtree(bf16 / "fp8_origin")
    ended = convert_checkpoint(bf16, tmp_path / "fp8", "fp8", scales)
    kinds = {spec.name: spec.kind for spec in tensors(ODD)}
    expected: Tensors = {}
    for name, value in read(bf16).items():
        if kinds[name] in FP8_KINDS:
            expected[name], expected[name + SCALE] = encoded(value, scales == "power-of-two")
        else:
            expected[name] = value
    assert_same(read(tmp_path / "fp8"), expected)
    quantised = config_of(tmp_path / "fp8").pop("quantization_config")
    assert quantised == {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    } | ({"scale_fmt": "ue8m0"} if scales == "power-of-two" else {})  # fmt: skip
    assert (ended.scales, ended.kept, ended.restores) == (scales, 0, False)
    assert ended.blocks == sum(value.numel() for name, value in expected.items() if name.endswith(SCALE))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_model_both_ways(config: ModelConfig, tmp_path: Path) -> None:
    fp8 = write(tmp_path / "fp8", random_fp8(config), by_turns(2), config)
    convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    convert_checkpoint(tmp_path / "bf16", tmp_path / "back", "fp8")
    assert tree(tmp_path / "back") == tree(fp8)


@pytest.mark.slow
def test_pieces_of_any_size_give_the_same_bytes(
    source: Path, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_stream, "PIECE_ELEMENTS", 1)
    monkeypatch.setattr(convert_stream, "WIDEST_PIECE", 128)
    monkeypatch.setattr(convert_stream, "COPY_BYTES", 64)
    monkeypatch.setattr(convert_stream, "AHEAD", 1)
    monkeypatch.setattr(convert_stream, "FLUSH_BYTES", 1000)
    convert_checkpoint(source, tmp_path / "bf16", "bf16")
    assert tree(tmp_path / "bf16") == tree(wide)
    convert_checkpoint(wide, tmp_path / "back", "fp8")
    assert tree(tmp_path / "back") == tree(source)


# The files


def test_transformers_reads_what_was_converted(wide: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(wide, dtype="auto").state_dict()
    ours = {name: tensor for name, tensor in import_hf(wide)[1].items() if "layers.2." not in name}
    assert_same(routers_as({name: loaded[name] for name in ours}, ours), ours)


def test_shards_keep_their_names_and_the_index_its_sum(source: Path, wide: Path, tmp_path: Path) -> None:
    bf16 = copy(wide, tmp_path / "bf16")
    shutil.rmtree(bf16 / "fp8_origin")
    convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    for folder in (wide, tmp_path / "fp8"):
        index, sizes = json.loads((folder / INDEX).read_text()), 0
        for file in sorted(folder.glob("*.safetensors")):
            for entry in read_header(file).entries:
                assert index["weight_map"].pop(entry.name) == file.name
                sizes += entry.size
        assert index["weight_map"] == {}
        assert index["metadata"] == {"total_size": sizes}
        files = sorted(tree(folder).keys() - {ORIGIN_FILE})
        assert files == sorted(tree(source))
        assert (folder / "inference" / "model.py").read_text() == "pass\n"


def test_scales_come_right_after_their_matrix(wide: Path, tmp_path: Path) -> None:
    bf16 = copy(wide, tmp_path / "bf16")
    shutil.rmtree(bf16 / "fp8_origin")
    edit(bf16, lambda content: [content.pop(name) for name in list(content) if content[name].numel() % 4])
    other = json.loads((bf16 / "config.json").read_text()) | {"model_type": "other"}  # of which all may be there
    (bf16 / "config.json").write_text(json.dumps(other))
    (bf16 / INDEX).write_text(
        json.dumps({"weight_map": {n: f.name for f in bf16.glob("model-*") for n in load_file(f)}})
    )
    convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    seen = 0
    for file in (tmp_path / "fp8").glob("*.safetensors"):
        before = [entry.name for entry in read_header(bf16 / file.name).entries]
        names = [entry.name for entry in read_header(file).entries]
        assert [name for name in names if not name.endswith(SCALE)] == before
        for number, name in enumerate(names):
            if name.endswith(SCALE):
                assert names[number - 1] + SCALE == name
                seen += 1
    assert seen > 10
    listed = list(json.loads((tmp_path / "fp8" / INDEX).read_text())["weight_map"])
    assert all(listed[number - 1] + SCALE == name for number, name in enumerate(listed) if name.endswith(SCALE))


def test_a_scale_shard_leaves_no_empty_file(tmp_path: Path) -> None:
    fp8 = write(tmp_path / "fp8", random_fp8(), scales_apart)
    convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    assert [file.name for file in (tmp_path / "bf16").glob("*.safetensors")] == ["model-00001-of-00002.safetensors"]


def test_files_too_large_to_be_weights_companions_are_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp8 = copy(source, tmp_path / "fp8")
    (fp8 / "video.mp4").write_bytes(bytes(3000))
    (fp8 / ".cache").mkdir()
    (fp8 / ".cache" / "lock").write_text("")
    (fp8 / "dead").symlink_to("nowhere")
    (fp8 / "LICENSE").symlink_to(fp8 / "config.json")
    monkeypatch.setattr("clearseek.hub.folder.SMALL_FILE_BYTES", 2999)
    ended = convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    assert ended.left_out == ("video.mp4",)
    assert (tmp_path / "bf16" / "LICENSE").read_bytes() == (fp8 / "config.json").read_bytes()
    assert not {"video.mp4", "dead", ".cache/lock"} & set(tree(tmp_path / "bf16"))


def test_files_may_be_links_as_in_a_download_cache(source: Path, wide: Path, tmp_path: Path) -> None:
    blobs = copy(source, tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in blobs.iterdir():
        if file.is_file():
            (tmp_path / "snapshot" / file.name).symlink_to(file)
    convert_checkpoint(tmp_path / "snapshot", tmp_path / "bf16", "bf16")
    assert {k: v for k, v in tree(wide).items() if "inference" not in k} == tree(tmp_path / "bf16")


# The way back


@pytest.mark.parametrize("fmt", [None, "ue8m0"])
@pytest.mark.parametrize("name", SPLITS)
def test_there_and_back_gives_the_same_folder(name: str, fmt: str | None, tmp_path: Path) -> None:
    fp8 = write(tmp_path / "fp8", random_fp8(powers=fmt is not None), SPLITS[name], scale_fmt=fmt)
    convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    ended = convert_checkpoint(tmp_path / "bf16", tmp_path / "back", "fp8")
    assert tree(tmp_path / "back") == tree(fp8)
    assert ended.scales == ("power-of-two" if fmt else "float")
    assert ended.kept == ended.blocks > 0 and ended.restores


def test_what_convert_made_comes_back_whole(wide: Path, tmp_path: Path) -> None:
    bf16 = copy(wide, tmp_path / "bf16")
    shutil.rmtree(bf16 / "fp8_origin")
    convert_checkpoint(bf16, tmp_path / "one", "fp8")
    convert_checkpoint(tmp_path / "one", tmp_path / "two", "bf16")
    convert_checkpoint(tmp_path / "two", tmp_path / "three", "fp8")
    assert tree(tmp_path / "three") == tree(tmp_path / "one")


def test_only_blocks_that_changed_get_new_scales(source: Path, wide: Path, tmp_path: Path) -> None:
    bf16, name = copy(wide, tmp_path / "bf16"), "model.layers.0.mlp.down_proj.weight"

    def tune(content: Tensors) -> None:
        if name in content:
            content[name][130, 290] += 1

    edit(bf16, tune)
    ended = convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    before, after = read(source), read(tmp_path / "fp8")
    block = torch.zeros(160, 300, dtype=torch.bool)
    block[128:, 256:] = True
    fresh = quantise_blocks(read(bf16)[name], False)
    changed = {
        name: torch.where(block, fresh.data.view(torch.uint8), before[name].view(torch.uint8)).view(
            torch.float8_e4m3fn
        ),
        name + SCALE: before[name + SCALE].clone(),
    }
    changed[name + SCALE][1, 2] = fresh.scale[1, 2]
    assert_same(after, before | changed)
    assert ended.kept == ended.blocks - 1 and ended.restores


def strangers(folder: Path, other: Path) -> None:
    """Another model's record, of the same shapes."""
    shutil.rmtree(folder / "fp8_origin")
    shutil.copytree(other / "fp8_origin", folder / "fp8_origin")


def test_a_strangers_record_changes_no_number(wide: Path, tmp_path: Path) -> None:
    convert_checkpoint(write(tmp_path / "other", random_fp8(seed=9), by_turns(3)), tmp_path / "otherwide", "bf16")
    bf16 = copy(wide, tmp_path / "bf16")
    strangers(bf16, tmp_path / "otherwide")
    ended = convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    assert ended.kept == 0
    expected = {
        name: quantise_blocks(read(bf16)[name], False).scale
        for name in read(bf16)
        if name + SCALE in read(tmp_path / "fp8")
    }
    made = read(tmp_path / "fp8")
    assert_same({name + SCALE: scale for name, scale in expected.items()}, {n: made[n] for n in made if SCALE in n})


def test_a_record_of_another_shape_is_left_aside(wide: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", random_fp8(CONFIGS["v3"]), by_turns(2), CONFIGS["v3"])
    convert_checkpoint(other, tmp_path / "otherwide", "bf16")
    bf16, plain = copy(wide, tmp_path / "bf16"), copy(wide, tmp_path / "plain")
    strangers(bf16, tmp_path / "otherwide")
    shutil.rmtree(plain / "fp8_origin")
    ended = convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    convert_checkpoint(plain, tmp_path / "expected", "fp8")
    assert not ended.restores and ended.kept == 0
    assert tree(tmp_path / "fp8") == tree(tmp_path / "expected")


def test_a_file_of_that_name_that_is_not_ours_is_left_aside(wide: Path, tmp_path: Path) -> None:
    bf16 = copy(wide, tmp_path / "bf16")
    save_file({"x": torch.zeros(3)}, bf16 / ORIGIN_FILE, metadata={"format": "pt"})
    ended = convert_checkpoint(bf16, tmp_path / "fp8", "fp8")
    assert ended.kept == 0 and not ended.restores and not (tmp_path / "fp8" / "fp8_origin").exists()


def test_other_scales_on_request(source: Path, wide: Path, tmp_path: Path) -> None:
    ended = convert_checkpoint(wide, tmp_path / "fp8", "fp8", "power-of-two")
    assert ended.scales == "power-of-two" and ended.kept == 0
    assert config_of(tmp_path / "fp8")["quantization_config"]["scale_fmt"] == "ue8m0"
    for name, value in read(tmp_path / "fp8").items():
        if name.endswith(SCALE):
            assert torch.equal(torch.exp2(value.log2().round()), value), name
    convert_checkpoint(wide, tmp_path / "same", "fp8", "float")
    assert tree(tmp_path / "same") == tree(source)


def test_resharded_and_edited_checkpoints_get_their_files_back(source: Path, wide: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    save_file(read(wide), merged / "model.safetensors", metadata={"format": "pt"})
    (merged / "config.json").write_text(json.dumps(config_of(wide) | {"use_cache": False}))
    shutil.copytree(wide / "fp8_origin", merged / "fp8_origin")
    ended = convert_checkpoint(merged, tmp_path / "fp8", "fp8")
    back, whole = tree(tmp_path / "fp8"), tree(source)
    assert ended.restores and {name for name in whole if "safetensors" in name} <= set(back)
    assert all(back[name] == whole[name] for name in whole if "safetensors" in name)
    assert config_of(tmp_path / "fp8") == config_of(source) | {"use_cache": False}


def test_matrices_of_names_unknown_here_come_back_too(tmp_path: Path) -> None:
    made = random_fp8()
    made["model.layers.1.self_attn.indexer.wk.weight"] = made["model.layers.1.self_attn.o_proj.weight"].clone()
    made["model.layers.1.self_attn.indexer.wk.weight" + SCALE] = torch.rand(2, 1) + 0.5
    fp8 = write(tmp_path / "fp8", made, by_turns(2))
    convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    convert_checkpoint(tmp_path / "bf16", tmp_path / "back", "fp8")
    assert tree(tmp_path / "back") == tree(fp8)


def test_progress_adds_up(source: Path, tmp_path: Path) -> None:
    seen: list[ConversionProgress] = []
    ended: Converted = convert_checkpoint(source, tmp_path / "bf16", "bf16", progress=seen.append)
    assert seen[0].bytes_done == seen[0].files_done == 0
    assert seen[-1].bytes_done == seen[-1].bytes == ended.bytes_read
    assert seen[-1].files_done == seen[-1].files == ended.files == 4
    assert [each.bytes_done for each in seen] == sorted(each.bytes_done for each in seen)
    assert ended.bytes_written == sum(map(len, tree(tmp_path / "bf16").values()))
