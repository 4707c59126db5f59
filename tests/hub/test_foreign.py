"""Checkpoints as other people's tools leave them: read exactly, or refused by their true cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearseek.cli import main
from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.aliases import INFERENCE
from clearseek.hub.read import import_hf
from clearseek.hub.write import INDEX, export_hf
from tests.hub import checkpoints
from tests.hub.examples import CONFIGS, YARN, random_state, small, tokenizer_file

Tensors = dict[str, torch.Tensor]
MTP = CONFIGS["v3-mtp"]
TIED = small(tie_word_embeddings=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export_hf(random_state(MTP), MTP, tokenizer_file(tmp_path), tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[Tensors], Tensors | None] | None = None, **settings: Any) -> None:
    """Edit the tensors, and config.json (None writes null, ... drops the key)."""
    file = folder / "model.safetensors"
    content = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(edit(content) or content if edit else content, file)
    raw = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def assert_read(folder: Path, config: ModelConfig = MTP, state: Tensors | None = None) -> None:
    found, tensors = import_hf(folder)
    assert found == config
    expected = state or random_state(config)
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        import_hf(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    if not any("num_nextn" in word for word in words):
        assert "drop them" not in message, message
    return message


def renamed(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda content: {rename(name): tensor for name, tensor in content.items()}


def inference_name(name: str) -> str:
    """The steps of DeepSeek's convert.py, in its order."""
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = name.replace("weight_scale_inv", "scale").replace("e_score_correction_bias", "bias")
    theirs = {ours: short for short, ours in INFERENCE.items()} | {"lm_head": "head"}
    parts = name.split(".")
    parts[-2] = theirs.get(parts[-2], parts[-2])
    return ".".join(parts)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("model."),
        lambda name: "language_model." + name,
        lambda name: name.replace("model.", "model.language_model.", 1),
        lambda name: "module." + name,
        lambda name: "_orig_mod." + name,
    ],
    ids=["no prefix", "language_model", "model.language_model", "module", "_orig_mod"],
)
def test_prefixes_of_others_are_read(rename: Callable[[str], str], folder: Path) -> None:
    change(folder, renamed(rename))
    assert_read(folder)


def test_deepseeks_inference_names_are_read(folder: Path) -> None:
    change(folder, lambda content: {n: t for n, t in content.items() if "layers.3." not in n})
    change(folder, renamed(inference_name))
    assert "layers.0.attn.wkv_a.weight" in load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model0-mp1.safetensors")
    refused(folder, "num_nextn_predict_layers = 1", "convert.py")
    config, state = import_hf(folder, allow_missing_mtp=True)
    assert config == CONFIGS["v3"]
    assert all(torch.equal(tensor, random_state(MTP)[name]) for name, tensor in state.items())
    (folder / "model0-mp1.safetensors").rename(folder / "model0-mp8.safetensors")
    refused(folder, "model0-mp8.safetensors is a model split over several processes", "--model-parallel 1")


def test_deepseeks_inference_names_in_fp8_are_read(tmp_path: Path) -> None:
    made = checkpoints.random_fp8()
    plain = checkpoints.write(tmp_path / "plain", made)
    main_model = {name: tensor for name, tensor in made.items() if "layers.2." not in name}
    theirs = checkpoints.write(tmp_path / "theirs", {inference_name(n): t for n, t in main_model.items()})
    _, expected = import_hf(plain)
    _, state = import_hf(theirs, allow_missing_mtp=True)
    assert "model.layers.0.mlp.up_proj.weight" in state
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def fused(content: Tensors) -> Tensors:
    kept = {name: tensor for name, tensor in content.items() if ".experts." not in name}
    return kept | {name: tensor for name, tensor in random_state(MTP).items() if ".experts." in name}


LAYER = "model.layers.3."
READ: dict[str, tuple[Callable[[Tensors], Tensors | None] | None, dict[str, Any]]] = {
    "MTP without its embedding": (lambda c: {n: t for n, t in c.items() if n != LAYER + "embed_tokens.weight"}, {}),
    "MTP without its head": (lambda c: {n: t for n, t in c.items() if n != LAYER + "shared_head.head.weight"}, {}),
    "MTP that config.json denies": (None, {"num_nextn_predict_layers": 0}),
    "MTP that config.json leaves out": (None, {"num_nextn_predict_layers": ...}),
    "MTP under transformers' name": (None, {"num_nextn_predict_layers": ..., "num_mtp_layers": 1}),
    "rotary tables": (
        lambda c: c | {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(2) for n in range(4)},
        {},
    ),
    "one rotary table": (lambda c: c | {"model.rotary_emb.inv_freq": torch.ones(2).double()}, {}),
    "experts stacked as in transformers": (fused, {}),
    "stale quantization_config": (None, {"quantization_config": checkpoints.QUANTISED}),
    "Kimi K2": (None, {"model_type": "kimi_k2"}),
    "no model_type": (None, {"model_type": ...}),
    "null groups": (None, {"n_group": None, "topk_group": None}),
    "dtype only": (None, {"torch_dtype": ...}),
    "a list of layers": (None, {"moe_layer_freq": [0, 1, 1], "first_k_dense_replace": ...}),
    "kinds of layers": (None, {"mlp_layer_types": ["dense", "sparse", "sparse"], "first_k_dense_replace": None}),
    "null biases": (None, {"attention_bias": None, "rope_scaling": None, "quantization_config": None}),
}


@pytest.mark.parametrize("name", READ)
def test_what_others_write_is_read(name: str, folder: Path) -> None:
    edit, settings = READ[name]
    change(folder, edit, **settings)
    assert_read(folder)


def test_router_bias_in_bf16_becomes_fp32(folder: Path) -> None:
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    change(folder, lambda content: content | {bias: content[bias].bfloat16()})
    assert_read(folder, MTP, random_state(MTP) | {bias: random_state(MTP)[bias].bfloat16().float()})


def test_plain_queries_written_as_rank_zero(tmp_path: Path) -> None:
    config = CONFIGS["v3-plain-queries"]
    export_hf(random_state(config), config, tokenizer_file(tmp_path), tmp_path / "model")
    for rank in (0, None):
        change(tmp_path / "model", q_lora_rank=rank)
        assert_read(tmp_path / "model", config)


def test_a_tied_head_may_be_stored_if_it_is_equal(tmp_path: Path) -> None:
    export_hf(random_state(TIED), TIED, tokenizer_file(tmp_path), tmp_path / "model")
    change(tmp_path / "model", lambda c: c | {"lm_head.weight": c["model.embed_tokens.weight"].clone()})
    assert_read(tmp_path / "model", TIED)
    change(tmp_path / "model", lambda c: c | {"lm_head.weight": c["lm_head.weight"] + 1})
    refused(tmp_path / "model", "lm_head.weight differs", "tie_word_embeddings = true: set it to false")


def test_fp8_and_wide_matrices_side_by_side_are_read(tmp_path: Path) -> None:
    made = checkpoints.random_fp8()
    name = "model.layers.0.self_attn.o_proj.weight"
    wide = checkpoints.decoded(made[name], made[name + "_scale_inv"])
    mixed = {n: t for n, t in made.items() if n != name + "_scale_inv"} | {name: wide}
    _, expected = import_hf(checkpoints.write(tmp_path / "fp8", made))
    _, state = import_hf(checkpoints.write(tmp_path / "mixed", mixed))
    assert all(torch.equal(tensor, expected[n]) for n, tensor in state.items())


def test_packed_scales_are_read(tmp_path: Path) -> None:
    made = checkpoints.random_fp8(powers=True)
    packed = {n: t.to(torch.float8_e8m0fnu) if n.endswith("_scale_inv") else t for n, t in made.items()}
    _, expected = import_hf(checkpoints.write(tmp_path / "fp8", made))
    for scale_fmt in (None, "ue8m0"):
        _, state = import_hf(checkpoints.write(tmp_path / f"packed-{scale_fmt}", packed, scale_fmt=scale_fmt))
        assert all(torch.equal(tensor, expected[n]) for n, tensor in state.items())


def drop(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda content: {n: t for n, t in content.items() if not any(part in n for part in parts)}


def put(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[Tensors], Tensors]:
    return lambda content: content | {name: torch.zeros(shape, dtype=dtype)}


def stacked_fp8(content: Tensors) -> Tensors:
    return fused(content) | {"model.layers.1.mlp.experts.down_proj": torch.zeros(8, 32, 20).to(torch.float8_e4m3fn)}


A = "model.layers.0.self_attn."
INSTEAD: dict[str, Any] = {"rope_parameters": ...}
V3_INFERENCE: dict[str, Any] = {"model_type": ..., "architectures": ..., "dim": 32, "n_layers": 3}
BY_LAYER: dict[str, Any] = {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}
REFUSED: dict[str, tuple[Callable[[Tensors], Tensors | None] | None, dict[str, Any], tuple[str, ...]]] = {
    "strange names": (renamed(lambda n: "t" + str(abs(hash(n)))), {}, ("its names are neither",)),
    "LoRA": (put(A + "q_a_proj.lora_A.weight", 8, 32), {}, ("LoRA adapter", "merge")),
    "AWQ": (put(A + "o_proj.qweight", 4, 4, dtype=torch.int32), {}, ("GPTQ or AWQ",)),
    "packed INT4": (put(A + "o_proj.weight_packed", 4, 4, dtype=torch.int32), {}, ("packed integers",)),
    "one scale a tensor": (put(A + "o_proj.weight_scale", 1), {}, ("scales of another kind",)),
    "MLX": (renamed(lambda n: n.replace("experts", "switch_mlp")), {}, ("MLX",)),
    "sparse attention": (put(A + "indexer.wq_b.weight", 8, 8), {}, ("indexer",)),
    "doubles": (lambda c: c | {"model.norm.weight": c["model.norm.weight"].double()}, {}, ("of type F64",)),
    "tied by config.json alone": (None, {"tie_word_embeddings": True}, ("lm_head.weight differs", "set it to false")),
    "more layers": (put("model.layers.7.input_layernorm.weight", 32), {}, ("0 to 7", "num_hidden_layers = 3")),
    "no head": (drop("lm_head"), {}, ("lacks lm_head.weight", "tie_word_embeddings = true")),
    "part of the MTP layer": (drop("layers.3.enorm"), {}, ("lacks model.layers.3.enorm.weight",)),
    "no MTP layer": (drop("layers.3."), {}, ("num_nextn_predict_layers = 1",)),
    "larger embedding": (put("model.embed_tokens.weight", 384, 32), {}, ("[384, 32]", "[320, 32]")),
    "stacked and FP8": (stacked_fp8, {"quantization_config": checkpoints.QUANTISED}, ("in FP8, but no matrix",)),
    "AWQ by config.json": (None, {"quantization_config": {"quant_method": "awq"}}, ("quant_method = 'awq'",)),
    "linear rope": (None, {"rope_scaling": {"type": "linear", "factor": 2.0}} | INSTEAD, ('"linear"',)),
    "dynamic rope": (None, {"rope_scaling": {"type": "dynamic", "factor": 2.0}} | INSTEAD, ('"dynamic"',)),
    "rope without type": (None, {"rope_scaling": {"factor": 2.0}} | INSTEAD, ("no rope_type",)),
    "rope by layer": (None, BY_LAYER, ("full_attention", "rope_type")),
    "images": (None, {"model_type": "kimi_k25", "text_config": {}}, ("text and images",)),
    "sparse V3.2": (None, {"model_type": "deepseek_v32"}, ("indexer",)),
    "inference config": (None, V3_INFERENCE, ("inference code",)),
    "dense after experts": (None, {"moe_layer_freq": [0, 1, 0]}, ("moe_layer_freq",)),
    "other count": (None, {"moe_layer_freq": [0, 0, 1]}, ("first_k_dense_replace = 1",)),
    "a million layers": (None, {"num_hidden_layers": 10**6}, ("num_hidden_layers = 1000000", "tensors")),
    "a billion experts": (None, {"n_routed_experts": 10**9, "n_group": 1}, ("n_routed_experts = 1000000000",)),
    "groups left out": (None, {"n_group": ...}, ("left out", "n_group = 8")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_true_cause_is_named(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, settings, words = REFUSED[name]
    change(folder, edit, **settings)
    refused(folder, *words)
    out = folder.parent / "run"
    assert main(["import", str(folder), str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and not out.exists()


YARN_EXTRAS: dict[str, Any] = {
    "attention_factor": None, "truncate": True, "partial_rotary_factor": 1.0, "finetuned": True,
}  # fmt: skip


def yarn(config: ModelConfig, folder: Path, **more: Any) -> None:
    assert config.rope_scaling is not None
    settings = {"rope_type": "yarn", "rope_theta": 10000, **config.rope_scaling.model_dump()}
    change(folder, rope_scaling=..., rope_parameters=settings | more)


def test_yarns_default_settings_are_read_and_others_refused(tmp_path: Path) -> None:
    config = small(rope_scaling=YARN.model_copy(update={"mscale": 1.0}))
    folder = tmp_path / "model"
    export_hf(random_state(config), config, tokenizer_file(tmp_path), folder)
    assert config.rope_scaling is not None
    yarn(config, folder, **YARN_EXTRAS)
    assert_read(folder, config)
    yarn(config, folder, attention_factor=config.rope_scaling.magnitude, type="yarn", beta_fast=None)
    assert_read(folder, config)
    wrong = {"attention_factor": (1.5, "a"), "truncate": (False,), "partial_rotary_factor": (0.5,)}
    for key, value in ((key, value) for key, values in wrong.items() for value in values):
        yarn(config, folder, **{key: value})
        refused(folder, key)
    yarn(config, folder, type="linear")
    refused(folder, "contradict")


# Files


ABSENT = {
    "pytorch_model.bin": "pytorch_model.bin is pickled weights",
    "pytorch_model-00001-of-00002.bin": "is pickled weights",
    "consolidated.00.pth": "is pickled weights",
    "model-q4_k_m.gguf": "is GGUF",
    "adapter_model.safetensors": "is a LoRA adapter",
    "consolidated.safetensors": "weights under another name",
    "model-00001-of-00002.safetensors": "a shard without",
    "model.safetensors.part": "a download that is not finished",
    "tf_model.h5": "weights of another library",
    "__0_0.distcp": "a distributed checkpoint",
    "training_args.bin": "the folder holds no weights",
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_folder_without_safetensors_is_told_what_it_holds(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"PK\x03\x04")
    refused(folder, ABSENT[name])


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 123456789\n".encode()
WRONG = {
    "empty": (b"", "it has 0 bytes"),
    "pointer": (POINTER, "Git-LFS pointer"),
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"),
    "zip": (b"PK\x03\x04\x00\x00\x08\x08" + bytes(18) + b"\x16\x00\x00\x00pytorch_model/data.pkl", "pickle"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(16), "GGUF"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_are_something_else_are_named(name: str, folder: Path) -> None:
    content, says = WRONG[name]
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors: ", says)


def test_small_files_that_are_something_else_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + good)
    assert_read(folder)
    (folder / "config.json").write_bytes(POINTER)
    refused(folder, "config.json", "Git-LFS pointer")
    (folder / "config.json").unlink()
    refused(folder, "config.json: cannot read", "fetch it; the weights are there")
    (folder / "config.json").write_bytes(good.replace(b"{", b'{"long": ' + b"9" * 5000 + b",", 1))
    assert_read(folder)
    (folder / "config.json").write_bytes(good.replace(b"{", b'{"\xf6": 1,', 1))
    refused(folder, "config.json: not valid JSON: not UTF-8")
    (folder / "config.json").write_bytes(b"[" * 100_000)
    refused(folder, "config.json: not valid JSON: nested too deeply")
    (folder / "config.json").write_bytes(good)
    (folder / "tokenizer.json").write_bytes(POINTER)
    out = folder.parent / "run"
    assert main(["import", str(folder), str(out)]) == 2 and "Git-LFS pointer" in capsys.readouterr().err
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert main(["import", str(folder), str(out)]) == 2 and "tokenizer.model is another form" in capsys.readouterr().err
    assert not out.exists()


def test_a_download_cache_of_links_is_read_and_dead_links_are_named(tmp_path: Path) -> None:
    export_hf(random_state(MTP), MTP, tokenizer_file(tmp_path), tmp_path / "model", shard_bytes=60_000)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "model").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert_read(snapshot)
    last = sorted(snapshot.glob("*.safetensors"))[-1]
    last.resolve().unlink()
    refused(snapshot, f"{last.name}: no such file", "only a dead link", "1 of its")


def test_an_index_of_others(tmp_path: Path) -> None:
    export_hf(random_state(MTP), MTP, tokenizer_file(tmp_path), tmp_path / "model", shard_bytes=60_000)
    folder = tmp_path / "model"
    index = json.loads((folder / INDEX).read_text())
    for metadata in ({}, {"metadata": None}, {"metadata": {"total_size": 1}}):
        (folder / INDEX).write_text(json.dumps({"weight_map": index["weight_map"], **metadata}))
        assert_read(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    stale = index["weight_map"] | {name + "_scale_inv": index["weight_map"][name]}
    (folder / INDEX).write_text(json.dumps({"weight_map": stale}))
    refused(folder, "the index is of the FP8 weights")
