"""What a conversion refuses: one message that names tensor and file, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clearseek.cli import main
from clearseek.errors import UserError
from clearseek.hub.convert.journal import JOURNAL
from clearseek.hub.convert.origin import FILE as ORIGIN_FILE
from clearseek.hub.convert.run import convert_checkpoint
from tests.hub.checkpoints import INDEX, QUANTISED, SCALE, Tensors, by_turns, random_fp8, tree, write
from tests.hub.examples import small

CONFIG = small(num_hidden_layers=1, first_k_dense_replace=1, hidden_size=140, vocab_size=8)
UP, O_PROJ, NORM = (
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.norm.weight",
)
Edit = Callable[[Tensors], Any]


@pytest.fixture
def fp8(tmp_path: Path) -> Path:
    """A checkpoint in two files."""
    return write(tmp_path / "fp8", random_fp8(CONFIG), by_turns(2), CONFIG)


@pytest.fixture
def bf16(tmp_path: Path) -> Path:
    """One in BF16, and one file, without a record."""
    convert_checkpoint(write(tmp_path / "was", random_fp8(CONFIG), None, CONFIG), tmp_path / "bf16", "bf16")
    shutil.rmtree(tmp_path / "bf16" / "fp8_origin")
    shutil.rmtree(tmp_path / "was")
    return tmp_path / "bf16"


def edited(folder: Path, change: Edit) -> None:
    """Change the tensors; the files keep theirs, new ones go to the first, and the index follows."""
    files = sorted(folder.glob("model*.safetensors"))
    contents = {file: load_file(file) for file in files}
    merged = {name: tensor.clone() for content in contents.values() for name, tensor in content.items()}
    change(merged)
    for file, content in contents.items():
        added = {n: t for n, t in merged.items() if file == files[0] and all(n not in c for c in contents.values())}
        new = {n: t for n, t in merged.items() if n in content} | added
        save_file(new, file, metadata={"format": "pt"})
        contents[file] = new
    if (folder / INDEX).exists():
        weight_map = {name: file.name for file, content in contents.items() for name in content}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def merge(folder: Path) -> None:
    """All tensors in one file."""
    merged = {name: tensor.clone() for file in shards(folder) for name, tensor in load_file(file).items()}
    for file in [*shards(folder), folder / INDEX]:
        file.unlink()
    save_file(merged, folder / "model.safetensors")


def put(name: str, index: Any, value: Any) -> Edit:
    """Set elements of a tensor; codes as bytes."""

    def change(content: Tensors) -> None:
        tensor = content[name]
        (tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor)[index] = value

    return change


def swap(name: str, tensor: torch.Tensor | None) -> Edit:
    """Replace a tensor, add it, or leave it out."""

    def change(content: Tensors) -> None:
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor

    return change


def refused(source: Path, dtype: Any, out: Path | None = None) -> str:
    """The message; nothing may be left behind, and nothing changed."""
    out = out or source.parent / "out"
    before = tree(source.parent)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(source, out, dtype)
    assert tree(source.parent) == before and ("\n" not in str(caught.value))
    assert not out.exists() or tree(out) == {}
    return str(caught.value)


NAN = float("nan")
BAD_FP8: dict[str, tuple[Edit, str, str]] = {
    "scale missing": (swap(UP + SCALE, None), UP, "up_proj.weight_scale_inv is missing"),
    "scale without a matrix": (swap(UP, None), UP + SCALE, "a scale without an FP8 tensor"),
    "scale of a BF16 tensor": (swap(NORM + SCALE, torch.ones(2, 2)), NORM + SCALE, "a scale without an FP8 tensor"),
    "scale one block short": (swap(UP + SCALE, torch.ones(1, 1)), UP + SCALE, "need F32 [1, 2]"),
    "scale transposed": (swap(UP + SCALE, torch.ones(2, 1)), UP + SCALE, "need F32 [1, 2]"),
    "scale flat": (swap(UP + SCALE, torch.ones(2)), UP + SCALE, "is F32 [2]"),
    "scale in BF16": (swap(UP + SCALE, torch.ones(1, 2).bfloat16()), UP + SCALE, "is BF16 [1, 2]"),
    "scale NaN": (put(UP + SCALE, (0, 1), NAN), UP + SCALE, "block [0, 1] is nan"),
    "scale infinite": (put(UP + SCALE, (0, 1), float("inf")), UP + SCALE, "block [0, 1] is inf"),
    "scale negative": (put(UP + SCALE, (0, 0), -1e-4), UP + SCALE, "must be a positive number"),
    "scale zero": (put(UP + SCALE, (0, 0), 0.0), UP + SCALE, "must be a positive number"),
    "scale too large": (put(UP + SCALE, (0, 0), 3e38), UP, "too large for BF16"),
    "scale too small": (put(UP + SCALE, (0, 0), 1e-42), UP, "too small for BF16"),
    "code NaN": (put(UP, (39, 139), 0x7F), UP, "holds NaN"),
    "code negative NaN": (put(O_PROJ, (0, 0), 0xFF), O_PROJ, "holds NaN"),
    "norm NaN": (put(NORM, 3, NAN), NORM, "holds NaN or infinity"),
    "norm infinite": (put(NORM, 139, -float("inf")), NORM, "holds NaN or infinity"),
    "FP8 vector": (swap(NORM, torch.ones(140).to(torch.float8_e4m3fn)), NORM, "no matrix: its shape is [140]"),
    "other FP8": (swap(UP, torch.ones(40, 140).to(torch.float8_e5m2)), UP, "unsupported dtype F8_E5M2"),
    "integers": (swap(UP, torch.ones(40, 140, dtype=torch.int8)), UP, "unsupported dtype I8"),
    "doubles": (swap(NORM, torch.ones(140).double()), NORM, "unsupported dtype F64"),
}


@pytest.mark.parametrize("name", BAD_FP8)
def test_bad_fp8_is_refused(name: str, fp8: Path) -> None:
    change, tensor, says = BAD_FP8[name]
    edited(fp8, change)
    if says in ("holds NaN", "holds NaN or infinity", "too large for BF16", "too small for BF16"):
        merge(fp8)  # known only once the numbers are read, file by file
    message = refused(fp8, "bf16")
    assert tensor in message and says in message and ".safetensors: " in message


@pytest.mark.parametrize("dtype", ["fp8", "bf16"])
def test_a_checkpoint_that_lacks_something_is_refused(dtype: Literal["fp8", "bf16"], fp8: Path, bf16: Path) -> None:
    folder = fp8 if dtype == "bf16" else bf16
    edited(folder, lambda content: [content.pop(name) for name in (UP, UP + SCALE) if name in content])
    assert f"{UP} is missing, which config.json asks for" in refused(folder, dtype)


def test_a_config_of_another_model_is_refused(bf16: Path) -> None:
    content = json.loads((bf16 / "config.json").read_text())
    (bf16 / "config.json").write_text(json.dumps(content | {"vocab_size": 9999}))
    assert "model.embed_tokens.weight has shape" in refused(bf16, "fp8")


BAD_BF16: dict[str, tuple[Edit, str, str]] = {
    "NaN": (put(UP, (3, 4), NAN), UP, "holds NaN or infinity"),
    "infinity": (put(UP, (39, 139), float("inf")), UP, "holds NaN or infinity"),
    "NaN in what is kept": (put(NORM, 0, NAN), NORM, "holds NaN or infinity"),
    "stacked": (swap(UP, torch.ones(1, 40, 140).bfloat16()), UP, "only matrices of BF16, F16, F32"),
    "lone scale": (swap(UP + SCALE, torch.ones(1, 2)), UP + SCALE, "a scale without an FP8 tensor"),
    "FP8 matrix": (swap(UP, torch.ones(40, 140).to(torch.float8_e4m3fn)), UP, "no quantization_config"),
}


@pytest.mark.parametrize("name", BAD_BF16)
def test_bad_bf16_is_refused(name: str, bf16: Path) -> None:
    change, tensor, says = BAD_BF16[name]
    edited(bf16, change)
    message = refused(bf16, "fp8")
    assert tensor in message and says in message and "model.safetensors: " in message


def test_a_checkpoint_without_deepseeks_names_is_refused(bf16: Path) -> None:
    edited(bf16, lambda content: [content.pop(n) for n in list(content) if "self_attn" in n or "mlp" in n])
    assert "no tensor has the name of a DeepSeek matrix" in refused(bf16, "fp8")


def test_nothing_to_convert(fp8: Path, bf16: Path) -> None:
    assert "fp8: is in FP8 already" in refused(fp8, "fp8")
    assert "bf16: is in BF16 already" in refused(bf16, "bf16")
    with pytest.raises(UserError, match="--scales goes with --dtype fp8"):
        convert_checkpoint(fp8, fp8.parent / "out", "bf16", "float")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight_block_size": [64, 64]}, "weight_block_size = [64, 64]"),
        ({"weight_block_size": [128]}, "weight_block_size = [128]"),
        ({"quant_method": "gptq"}, "quant_method = 'gptq'"),
        ({"fmt": "e5m2"}, "fmt = 'e5m2'"),
        ({"scale_fmt": "int"}, "scale_fmt = 'int'"),
    ],
)
def test_other_quantisation_is_refused(changes: dict[str, Any], says: str, fp8: Path) -> None:
    content = json.loads((fp8 / "config.json").read_text())
    (fp8 / "config.json").write_text(json.dumps(content | {"quantization_config": QUANTISED | changes}))
    for dtype in ("bf16", "fp8"):
        message = refused(fp8, dtype)
        assert says in message and "config.json" in message


def test_a_configuration_that_contradicts_the_weights_is_refused(fp8: Path, bf16: Path) -> None:
    content = json.loads((bf16 / "config.json").read_text())
    (bf16 / "config.json").write_text(json.dumps(content | {"quantization_config": QUANTISED}))
    assert "says FP8, but no tensor is" in refused(bf16, "bf16")
    (fp8 / "config.json").write_text(json.dumps(content))
    assert "is in FP8, but config.json has no quantization_config" in refused(fp8, "bf16")


# Files


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def weight_map(folder: Path, **changes: str | None) -> None:
    """Change the index: NAME=FILE, or None to leave it out."""
    content = json.loads((folder / INDEX).read_text())
    merged = content["weight_map"] | changes
    content["weight_map"] = {name: file for name, file in merged.items() if file is not None}
    (folder / INDEX).write_text(json.dumps(content))


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config missing": (lambda f: (f / "config.json").unlink(), "config.json: cannot read"),
    "config broken": (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: must be a JSON object"),
    "config key twice": (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), "'a' appears twice"),
    "quantisation a list": (
        lambda f: (f / "config.json").write_text('{"quantization_config": [1]}'),
        "quantization_config must be an object",
    ),
    "index broken": (lambda f: (f / INDEX).write_bytes(b"\xff"), "index.json: not valid JSON"),
    "index empty": (lambda f: (f / INDEX).write_text("{}"), "weight_map is missing or empty"),
    "index metadata a list": (
        lambda f: (f / INDEX).write_text(json.dumps(json.loads((f / INDEX).read_text()) | {"metadata": [1]})),
        "metadata must be a JSON object",
    ),
    "index leads outside": (lambda f: weight_map(f, x="../x.safetensors"), "is not the name of a weight file"),
    "index leads to nothing": (lambda f: weight_map(f, x=""), "is not the name of a weight file"),
    "index names another file type": (lambda f: weight_map(f, x="config.json"), "is not the name of a weight file"),
    "index names a missing file": (lambda f: weight_map(f, x="y.safetensors"), "y.safetensors: no such file"),
    "index names a missing tensor": (lambda f: weight_map(f, x=shards(f)[0].name), "x is said to be in model-00001"),
    "index names the wrong file": (
        lambda f: weight_map(f, **{NORM: shards(f)[NORM in load_file(shards(f)[0])].name}),
        f"{NORM} is said to be in",
    ),
    "index omits a tensor": (lambda f: weight_map(f, **{NORM: None}), f"lacks {NORM}, which is in model-0000"),
    "index omits a file": (
        lambda f: save_file({"x": torch.zeros(1)}, f / "model-00003-of-00003.safetensors"),
        "does not name this file",
    ),
    "index missing": (lambda f: (f / INDEX).unlink(), "a shard without model.safetensors.index.json"),
    "no weights": (lambda f: [each.unlink() for each in [*shards(f), f / INDEX]], "model.safetensors: no such file"),
    "shard missing": (lambda f: shards(f)[1].unlink(), "no such file, model.safetensors.index.json names it"),
    "shard a folder": (lambda f: (shards(f)[1].unlink(), shards(f)[0].with_name(
        "model-00002-of-00002.safetensors").mkdir()), "no such file"),
    "shard cut off": (lambda f: os.truncate(shards(f)[1], shards(f)[1].stat().st_size - 1), "the file is cut off"),
    "shard cut off in its header": (lambda f: os.truncate(shards(f)[1], 100), "not a safetensors file"),
    "shard empty": (lambda f: shards(f)[0].write_bytes(b""), "not a safetensors file"),
    "shard with more": (lambda f: shards(f)[0].open("ab").write(b"x"), "bytes after its last tensor"),
    "tensor in two shards": (
        lambda f: (shutil.copy(shards(f)[0], f / "model-2.safetensors"), weight_map(f, x="model-2.safetensors")),
        "is also in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(name: str, fp8: Path) -> None:
    change, says = BAD_FILES[name]
    change(fp8)
    message = refused(fp8, "bf16")
    assert says in message and str(fp8) in message


@given(st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damage_anywhere_is_refused_or_harmless(fp8: Path, data: st.DataObject) -> None:
    """Whatever byte is wrong, there is a whole output or none."""
    source, out = fp8.parent / "source", fp8.parent / "out"
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(fp8, source)
    file = data.draw(st.sampled_from([*shards(source), source / INDEX, source / "config.json"]))
    raw = bytearray(file.read_bytes())
    limit = min(len(raw), 6000) if file.suffix == ".json" else len(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, limit - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(raw)
    try:
        ended = convert_checkpoint(source, out, "bf16")
    except UserError as error:
        assert str(source) in str(error)
        left = tree(out) if out.exists() else {}
        assert "config.json" not in left and not any(".new" in name for name in left)
    else:
        assert ended.finished and JOURNAL not in tree(out) and "config.json" in tree(out)


def test_damaged_numbers_found_late_keep_the_files_before(fp8: Path) -> None:
    _, second = (load_file(file) for file in shards(fp8))
    late = next(name for name, tensor in second.items() if tensor.dtype == torch.float8_e4m3fn)
    before = second[late].view(torch.uint8)[0, 0].item()
    edited(fp8, put(late, (0, 0), 0x7F))
    out = fp8.parent / "out"
    with pytest.raises(UserError, match=rf"model-00002-of-00002\.safetensors: {late} holds NaN"):
        convert_checkpoint(fp8, out, "bf16")
    assert set(tree(out)) == {JOURNAL, "model-00001-of-00002.safetensors"}
    edited(fp8, put(late, (0, 0), before))
    assert convert_checkpoint(fp8, out, "bf16").finished
    convert_checkpoint(fp8, fp8.parent / "fresh", "bf16")
    assert tree(out) == tree(fp8.parent / "fresh")


def test_a_source_that_shrinks_meanwhile_is_refused(fp8: Path) -> None:
    file = shards(fp8)[0]

    def shrink(_: Any) -> None:
        os.truncate(file, 5000)

    with pytest.raises(UserError, match=f"{file.name}: .*: the file ends before it"):
        convert_checkpoint(fp8, fp8.parent / "out", "bf16", progress=shrink)
    assert not (fp8.parent / "out").exists()


# The record of the FP8 checkpoint


@pytest.mark.parametrize("damage", ["cut", "header", "recorded header", "kind"])
def test_a_damaged_record_is_refused(damage: str, fp8: Path) -> None:
    bf16 = fp8.parent / "bf16"
    convert_checkpoint(fp8, bf16, "bf16")
    file = bf16 / ORIGIN_FILE
    raw = bytearray(file.read_bytes())
    match damage:
        case "cut":
            del raw[-1:]
        case "header":
            raw[20] = 0x22
        case "recorded header":
            place = raw.index(b'"data_offsets"', raw.index(b'{"__metadata__"', 100))
            raw[place + 1] = ord("D")
        case "kind":
            raw = raw.replace(b'"scales":"float"', b'"scales":"flawt"')
    file.write_bytes(raw)
    assert ORIGIN_FILE in refused(bf16, "fp8")


# Places


def test_places_that_cannot_be_written_to(fp8: Path, tmp_path: Path) -> None:
    assert "is the checkpoint to convert itself" in refused_at(fp8, fp8)
    (tmp_path / "link").symlink_to(fp8)
    assert "is the checkpoint to convert itself" in refused_at(fp8, tmp_path / "link")
    assert "is the checkpoint to convert itself" in refused_at(fp8, fp8 / "inference" / "..")
    assert "lies inside the checkpoint" in refused_at(fp8, fp8 / "out")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused_at(fp8, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "not an unfinished conversion (it holds notes.txt)" in refused_at(fp8, tmp_path / "full")
    assert "no such folder" in refused_at(tmp_path / "gone", tmp_path / "out")
    assert "a file stands where a folder is needed" in refused_at(fp8, tmp_path / "file" / "out")
    convert_checkpoint(fp8, tmp_path / "out", "bf16")
    assert "not an unfinished conversion" in refused_at(fp8, tmp_path / "out")


def refused_at(source: Path, out: Path) -> str:
    before = tree(source.parent)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(source, out, "bf16")
    assert tree(source.parent) == before
    return str(caught.value)


def test_a_folder_that_may_not_be_written_is_named(fp8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "its file system is mounted read-only" in refused(fp8, "bf16")


def test_a_weight_file_may_not_have_the_name_of_another(fp8: Path) -> None:
    bf16 = fp8.parent / "bf16"
    convert_checkpoint(fp8, bf16, "bf16")
    merge(bf16)
    clash = bf16 / "model-00001-of-00002.safetensors"
    save_file({"x": torch.zeros(1)}, clash)
    assert "a shard without" in refused(bf16, "fp8")


def test_the_command_says_it_in_one_line(fp8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(fp8, put(UP, (0, 0), 0xFF))
    assert main(["convert", str(fp8), str(tmp_path / "out"), "--dtype", "bf16", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("clearseek: ") and said.err.count("\n") == 1
    assert UP in said.err and ".safetensors" in said.err
    assert main(["convert", str(fp8), str(tmp_path / "out")]) == 2
    assert "--dtype" in capsys.readouterr().err
