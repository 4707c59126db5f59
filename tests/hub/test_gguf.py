from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clearseek.chat.render import template
from clearseek.config import ModelConfig, RopeScaling
from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from clearseek.errors import UserError
from clearseek.hub import gguf as ours
from clearseek.hub.gguf import export_gguf, places
from clearseek.hub.write import export_hf
from tests.hub.examples import CONFIGS, V2, YARN, random_state, small, tokenizer_file

gguf = pytest.importorskip("gguf")

GOLDEN = Path(__file__).parents[1] / "fixtures" / "gguf" / "description.json"
LOADABLE = {name: CONFIGS[name] for name in ("v3", "v3-mtp", "v3-groups-yarn-mtp", "v3-tied-mtp", "v3-all-dense")} | {
    "v2-lite": small(**V2, q_lora_rank=None, rope_scaling=YARN, num_hidden_layers=26)
}
FULL = CONFIGS["v3-groups-yarn-mtp"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_file(tmp_path))


def written(config: ModelConfig, tokenizer: Tokenizer, out: Path, dtype: Any = "f32", **changed: torch.Tensor) -> Any:
    """A file as gguf's reader sees it."""
    export_gguf(random_state(config, torch.float32) | changed, config, tokenizer, out, dtype)
    return gguf.GGUFReader(out)


def metadata(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def description(reader: Any) -> dict[str, Any]:
    """Types, shapes, and metadata but for the lists of the vocabulary and the template."""
    long = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.chat_template")
    values = {name: value for name, value in metadata(reader).items() if name not in long}
    types = {name: reader.fields[name].types[-1].name for name in values}
    return {
        "metadata": {name: [types[name], float(f"{v:.7g}") if type(v) is float else v] for name, v in values.items()},
        "tensors": {t.name: [t.tensor_type.name, t.shape.tolist()] for t in reader.tensors},
    }


@pytest.mark.parametrize("dtype", ours.DTYPES)
def test_the_file_is_as_described(dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The described file was loaded by llama.cpp; its shapes are in llama.cpp's order, the row's length first."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    expected = golden["q8_0"] if dtype in ("q8_0", "q4_0") else golden["f32"]
    renamed = {"Q8_0": dtype.upper()} if dtype in ("q8_0", "q4_0") else {}
    router = ("ffn_gate_inp.weight", "_norm.weight", "norm.weight", "exp_probs_b.bias")
    for name, tensor in expected["tensors"].items():
        wide = name.endswith(router) or tensor[0] == "F16"
        tensor[0] = tensor[0] if wide else renamed.get(tensor[0], dtype.upper())
    number = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}[dtype]
    expected["metadata"]["general.file_type"] = ["UINT32", number]
    assert description(written(FULL, tokenizer, tmp_path / "model.gguf", dtype)) == expected


def exported(config: ModelConfig, folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the Hugging Face export, one for each expert's projection."""
    export_hf(random_state(config, torch.float32), config, tokenizer_file(folder), folder / "hf", torch.float32)
    return load_file(folder / "hf" / "model.safetensors")


def in_llama_cpps_form(config: ModelConfig, found: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values by llama.cpp's rules, from the exported tensors."""
    simple = {
        "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
        "self_attn.q_proj.weight": "attn_q.weight", "self_attn.q_a_proj.weight": "attn_q_a.weight",
        "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight", "self_attn.q_b_proj.weight": "attn_q_b.weight",
        "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight", "self_attn.o_proj.weight": "attn_output.weight",
        "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight", "mlp.gate.weight": "ffn_gate_inp.weight",
        "mlp.gate.e_score_correction_bias": "exp_probs_b.bias", "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
        "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight", "eh_proj.weight": "nextn.eh_proj.weight",
        "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight", "enorm.weight": "nextn.enorm.weight",
        "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight", "hnorm.weight": "nextn.hnorm.weight",
        "shared_head.norm.weight": "nextn.shared_head_norm.weight",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    heads, nope, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
    for name, tensor in found.items():
        if not name.startswith("model.layers."):
            yield f"{top[name.removesuffix('.weight')]}.weight", tensor
            continue
        _, _, layer, rest = name.split(".", 3)
        if rest in simple:
            yield f"blk.{layer}.{simple[rest]}", tensor
        elif rest == "self_attn.kv_b_proj.weight":
            key = np.empty((heads, config.kv_lora_rank, nope), np.float32)
            val = np.empty((heads, value, config.kv_lora_rank), np.float32)
            for head in range(heads):
                start = head * (nope + value)
                for channel in range(nope):
                    key[head, :, channel] = tensor[start + channel]
                val[head] = tensor[start + nope : start + nope + value]
            yield f"blk.{layer}.attn_k_b.weight", key
            yield f"blk.{layer}.attn_v_b.weight", val
        elif rest.startswith("mlp.experts.0."):
            projection = rest.split(".")[3]
            each = [found[name.replace("experts.0.", f"experts.{e}.")] for e in range(config.n_routed_experts)]
            yield f"blk.{layer}.ffn_{projection.removesuffix('_proj')}_exps.weight", np.stack(each)
        else:  # the copies of embedding and head, which llama.cpp takes from the main model, and other experts
            assert rest in ("embed_tokens.weight", "shared_head.head.weight") or rest.startswith("mlp.experts."), rest


@pytest.mark.parametrize("config", LOADABLE.values(), ids=LOADABLE)
def test_f32_holds_the_exports_numbers(config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    reader = written(config, tokenizer, tmp_path / "model.gguf")
    expected = dict(in_llama_cpps_form(config, exported(config, tmp_path)))
    assert {tensor.name for tensor in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        assert tensor.data.dtype == np.float32 and np.array_equal(tensor.data, expected[tensor.name]), tensor.name


@pytest.mark.parametrize(("dtype", "torch_type"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_sixteen_bits_round_as_pytorch_does(
    dtype: str, torch_type: torch.dtype, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    reader = written(FULL, tokenizer, tmp_path / "model.gguf", dtype)
    expected = dict(in_llama_cpps_form(FULL, exported(FULL, tmp_path)))
    for tensor in reader.tensors:
        if tensor.tensor_type.name == "F32":
            assert np.array_equal(tensor.data, expected[tensor.name])
        else:
            bits = torch.from_numpy(expected[tensor.name]).to(torch_type).view(torch.int16).numpy()
            assert np.array_equal(tensor.data.reshape(-1).view(np.int16), bits.reshape(-1)), tensor.name


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_blocks_are_near_the_exports_numbers(dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A block is an F16 scale and 32 whole numbers: 8 bits, or 4 with the halves of the block interleaved."""
    reader = written(FULL, tokenizer, tmp_path / "model.gguf", dtype)
    expected = dict(in_llama_cpps_form(FULL, exported(FULL, tmp_path)))
    packed = [tensor for tensor in reader.tensors if tensor.tensor_type.name == dtype.upper()]
    assert len(packed) > 10
    for tensor in packed:
        blocks = np.array(tensor.data).reshape(-1, {"q8_0": 34, "q4_0": 18}[dtype])
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        if dtype == "q8_0":
            whole = blocks[:, 2:].view(np.int8).astype(np.float32)
        else:
            whole = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        away = np.abs(scale * whole - expected[tensor.name].reshape(-1, 32))
        most = np.abs(scale) * (0.55 if dtype == "q8_0" else 1.05)  # 8 of 4 bits is cut to 7; the scale is rounded
        assert np.all(away <= most), tensor.name


def test_vocabulary_is_the_tokenizers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = metadata(written(small(vocab_size=330), tokenizer, tmp_path / "model.gguf"))
    raw = json.loads(tokenizer.content)
    vocabulary = {identity: token for token, identity in raw["model"]["vocab"].items()}
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    size = tokenizer.vocab_size
    assert tokens == [vocabulary[identity] for identity in range(size)] + [f"[PAD{n}]" for n in range(size, 330)]
    user, control = gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL
    special = [user if token in ("<think>", "</think>") else control for token in SPECIAL_TOKENS]
    plain = [gguf.TokenType.NORMAL] * (size - len(special)) + [gguf.TokenType.UNUSED] * (330 - size)
    assert types == special + plain
    merges = raw["model"]["merges"]
    assert [merge.split(" ") for merge in found["tokenizer.ggml.merges"]] == [list(merge) for merge in merges]
    assert found["tokenizer.chat_template"] == template()


@pytest.mark.parametrize("factor", [1.0, 4.0, 40.0])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.707, 0.707), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.707, 1.0)])
def test_yarn_as_llama_cpp_computes_it(
    factor: float, scales: tuple[float, float], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    yarn = RopeScaling(factor=factor, original_max_position_embeddings=16, mscale=scales[0], mscale_all_dim=scales[1])
    found = metadata(written(small(rope_scaling=yarn), tokenizer, tmp_path / "model.gguf"))
    log = 0.1 * math.log(factor)
    multiplier = found["deepseek2.rope.scaling.yarn_log_multiplier"] / 0.1
    # Context: a ratio that is 1 unless the multiplier is 0; what the rotary operation multiplies by, taken out again.
    attention = (1.0 if multiplier else 1 + log) / (1 + log) * found.get("deepseek2.rope.scaling.attn_factor", 1.0)
    turned = attention * (1 + log)  # rotary operation
    softmax = (turned * (1 + log * multiplier)) ** 2  # graph
    assert turned == pytest.approx(yarn.magnitude, rel=1e-6)
    expected = yarn.growth(yarn.mscale_all_dim) ** 2 if yarn.mscale_all_dim else 1.0
    assert softmax == pytest.approx(expected, rel=1e-6)


def test_v2_scales_or_normalises(tokenizer: Tokenizer, tmp_path: Path) -> None:
    v2 = V2 | {"routed_scaling_factor": 16.0}
    for number, (normalised, scale) in enumerate(((False, 16.0), (True, 1.0))):
        config = small(**v2 | {"norm_topk_prob": normalised})
        found = metadata(written(config, tokenizer, tmp_path / f"{number}.gguf"))
        assert found["deepseek2.expert_weights_norm"] is normalised
        assert found["deepseek2.expert_weights_scale"] == scale
        assert found["deepseek2.expert_gating_func"] == gguf.ExpertGatingFuncType.SOFTMAX


def test_rows_that_fill_no_block_are_f16_and_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = small(qk_nope_head_dim=32)
    state = random_state(config)
    assert export_gguf(state, config, tokenizer, tmp_path / "f16.gguf", "f16") == []
    named = export_gguf(state, config, tokenizer, tmp_path / "q4.gguf", "q4_0")
    found = {t.name for t in gguf.GGUFReader(tmp_path / "q4.gguf").tensors if t.tensor_type.name == "F16"}
    assert set(named) == found and "blk.0.attn_v_b.weight" in found and "blk.0.attn_k_b.weight" not in found
    assert "attn_v_b (3 tensors), attn_output (3 tensors), ffn_down (1 tensor)" in places(named)


def test_pieces_change_nothing_and_neither_does_a_second_time(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dtype in ours.DTYPES:
        written(FULL, tokenizer, tmp_path / dtype / "model.gguf", dtype)
    monkeypatch.setattr(ours, "PIECE", 50)
    for dtype in ours.DTYPES:
        written(FULL, tokenizer, tmp_path / f"{dtype}-again" / "model.gguf", dtype)
        first, second = ((tmp_path / name / "model.gguf").read_bytes() for name in (dtype, f"{dtype}-again"))
        assert first == second


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 27}, "takes a model of num_hidden_layers = 27 for V2-Lite"),
        ({"q_lora_rank": None}, "it reads plain queries"),
        (V2 | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}, "by its best alone"),
        ({"rope_scaling": YARN.model_copy(update={"beta_fast": 16.0})}, "beta_fast = 32 and beta_slow = 1 whatever"),
    ],
)
def test_models_that_llama_cpp_would_misread_are_refused(
    changes: dict[str, Any], says: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = small(**changes)
    with pytest.raises(UserError, match=f"llama.cpp would not run this model as it is: .*{says}"):
        export_gguf(random_state(config), config, tokenizer, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_places_and_types_that_cannot_be(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config, state = small(), random_state(small())
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(UserError, match=r"model\.gguf: already exists: remove it or choose another name"):
        export_gguf(state, config, tokenizer, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "mine"
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        export_gguf(state, config, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"dtype 'q5_k': a GGUF file is written as f32, bf16, f16, q8_0, q4_0"):
        export_gguf(state, config, tokenizer, tmp_path / "new.gguf", "q5_k")  # type: ignore[arg-type]


def test_weights_that_cannot_be(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The last tensor of the file is wrong, so most of it has been written."""
    config, out, name = small(), tmp_path / "new" / "model.gguf", "lm_head.weight"
    good = random_state(config, torch.float32)
    large, infinite = good[name].clone(), good[name].clone()
    large[3, 5], infinite[3, 5] = 7e4, math.nan
    for dtype, wrong, says in (
        ("f16", good | {name: large}, f"{name} holds 70000, too large for F16: use bf16 or f32"),
        ("q8_0", good | {name: infinite}, f"{name} holds NaN or infinity"),
        (
            "f32",
            good | {name: good[name][:-1]},
            rf"{name} has shape \[319, 32\], but its configuration says \[320, 32\]",
        ),
        ("f32", {key: good[key] for key in good if key != name}, f"it lacks {name}"),
        ("f32", good | {"model.extra": large}, "it has unknown model.extra"),
    ):
        with pytest.raises(UserError, match=says):
            export_gguf(wrong, config, tokenizer, out, dtype)  # type: ignore[arg-type]
        assert not out.parent.exists() or not list(out.parent.iterdir())
    export_gguf(good | {name: large}, config, tokenizer, out, "q8_0")


def test_tokenizers_that_llama_cpp_would_misread_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    raw = json.loads(tokenizer.content)
    other = json.loads(tokenizer.content)
    other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}"
    none = raw | {"model": raw["model"] | {"merges": []}}
    config = small()
    for wrong, says in ((other, "splits text by other patterns than DeepSeek-V3's"), (none, "has no merges")):
        with pytest.raises(UserError, match=says):
            changed = Tokenizer(json.dumps(wrong).encode())
            export_gguf(random_state(config), config, changed, tmp_path / "model.gguf")
    with pytest.raises(UserError, match="320 tokens, and the embedding vocab_size = 310 rows"):
        export_gguf(random_state(small(vocab_size=310)), small(vocab_size=310), tokenizer, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_part_knows_its_bytes() -> None:
    part = ours.Part("n", "s", (3, 64), lambda x: x, (3, 64), gguf.GGMLQuantizationType.Q8_0)
    assert part.bytes == 3 * 2 * 34 and replace(part, type=gguf.GGMLQuantizationType.BF16).bytes == 3 * 64 * 2


def _write_golden() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as name:
        own = Tokenizer.load(tokenizer_file(Path(name)))
        for dtype in ("f32", "q8_0"):
            found[dtype] = description(written(FULL, own, Path(name) / dtype / "model.gguf", dtype))
    text = json.dumps(found, indent=1)
    text = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda list_: f"[{' '.join(list_[1].split())}]", text)  # a list a line
    text = re.sub(r"\[\s+(\"[^\[\]]+\[[^\[\]]+\])\s+\]", lambda pair: f"[{' '.join(pair[1].split())}]", text)
    GOLDEN.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_golden()
