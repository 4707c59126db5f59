# ruff: noqa: RUF001
from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.hub import write
from clearseek.hub.read import import_hf
from clearseek.hub.write import INDEX, export_hf
from clearseek.tensors import tensors
from tests.hub.examples import CONFIGS, random_state, routers_as, small, tokenizer_file

MTP = CONFIGS["v3-mtp"]


def export(config: ModelConfig, folder: Path, **options: Any) -> Path:
    out = folder / "model"
    export_hf(random_state(config), config, tokenizer_file(folder), out, **options)
    return out


def assert_same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def edit(folder: Path, **changes: Any) -> None:
    """Change tensors of model.safetensors; None drops one."""
    file = folder / "model.safetensors"
    content = {name.replace(".", "_"): tensor for name, tensor in load_file(file).items()}
    names = {name.replace(".", "_"): name for name in load_file(file)}
    content |= changes
    save_file({names.get(key, key): value for key, value in content.items() if value is not None}, file)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_import_gives_back_the_exported_bits(config: ModelConfig, tmp_path: Path) -> None:
    back, state = import_hf(export(config, tmp_path))
    assert back == config
    assert_same(state, random_state(config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_loads_and_saves_the_same_bits(config: ModelConfig, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        export(config, tmp_path), output_loading_info=True, dtype="auto"
    )
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(f"layers.{config.num_hidden_layers}." in name for name in info["unexpected_keys"])
    loaded = model.state_dict()
    ours = {name: tensor for name, tensor in random_state(config).items() if "layers.3." not in name}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.items())
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    main = config.model_copy(update={"num_nextn_predict_layers": 0})
    assert set(load_file(saved / "model.safetensors")) == {spec.name for spec in tensors(main)}
    if config.num_nextn_predict_layers:
        with pytest.raises(UserError, match=r"num_nextn_predict_layers = 1.*model\.layers\.3"):
            import_hf(saved)
    back, state = import_hf(saved, allow_missing_mtp=True)
    assert back == main
    assert_same(routers_as(state, ours), ours)


def test_transformers_sees_v3s_softmax_scale(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from clearseek.hub.config_json import hf_config
    from clearseek.recipe import load_recipe

    for name, scale in (("v3-671b", 0.1352338), ("v2-lite-16b", 0.1147214)):
        recipe = load_recipe(name).model.model_copy(update={"num_hidden_layers": 1})
        (tmp_path / "config.json").write_text(json.dumps(hf_config(recipe, "bfloat16", 0, 1, 2)))
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
        assert model.model.layers[0].self_attn.scaling == pytest.approx(scale, abs=1e-7)


def test_transformers_loads_tokenizer_and_template(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = export(MTP, tmp_path)
    ours, theirs = Tokenizer.load(out / "tokenizer.json"), transformers.AutoTokenizer.from_pretrained(out)
    text = "seaweed tidemark 1234 ünïcode\n\n  x"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "seaweed?"},
        {"role": "assistant", "content": "saltmark"},
        {"role": "user", "content": "sandline?"},
    ]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>seaweed?<｜Assistant｜></think>saltmark<｜end▁of▁sentence｜>"
        "<｜User｜>sandline?<｜Assistant｜></think>"
    )
    encoded = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    trained = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert theirs.decode(trained) == "saltmark<｜end▁of▁sentence｜>"


def test_generation_stops_at_the_end_token(tmp_path: Path) -> None:
    content = json.loads((export(MTP, tmp_path) / "generation_config.json").read_text())
    assert content == {"bos_token_id": 0, "eos_token_id": [1], "pad_token_id": 2}


def test_fp32_masters_are_rounded_once_or_kept(tmp_path: Path) -> None:
    masters = random_state(MTP, torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        out = tmp_path / str(dtype)
        export_hf(masters, MTP, tokenizer_file(tmp_path), out, dtype=dtype)
        _, state = import_hf(out)
        bias = "model.layers.1.mlp.gate.e_score_correction_bias"
        assert_same(state, {n: t if "e_score" in n else t.to(dtype) for n, t in masters.items()})
        assert torch.equal(state[bias], masters[bias]) and state[bias].dtype == torch.float32
        assert json.loads((out / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match="float16"):
        export_hf(masters, MTP, tokenizer_file(tmp_path), tmp_path / "half", dtype=torch.float16)


def test_shards_hold_the_same_tensors_within_the_limit(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    limit = 30_000
    out = export(MTP, tmp_path, shard_bytes=limit)
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((out / INDEX).read_text())
    sizes = []
    for file in files:
        content = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in content)
        sizes.append(sum(tensor.nbytes for tensor in content.values()))
    assert max(sizes) <= limit and sum(sizes) == index["metadata"]["total_size"]
    assert set(index["weight_map"]) == {spec.name for spec in tensors(MTP)}
    assert_same(import_hf(out)[1], random_state(MTP))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out).state_dict()["lm_head.weight"]
    assert torch.equal(loaded, random_state(MTP)["lm_head.weight"].to(loaded.dtype))


def test_two_exports_have_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(4):
        out = export(MTP, tmp_path)
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert all(content == contents[0] for content in contents)


class Lazy(Mapping[str, torch.Tensor]):
    """A state that counts what is asked of it."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state, self.asked = state, list[str]()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked.append(name)
        return self.state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def test_each_stack_of_experts_is_asked_for_once(tmp_path: Path) -> None:
    state = Lazy(random_state(MTP))
    export_hf(state, MTP, tokenizer_file(tmp_path), tmp_path / "model")
    experts = [name for name in state.asked if ".experts." in name]
    assert len(experts) == len(set(experts)) == 6


def test_earlier_export_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    out = export(MTP, tmp_path, shard_bytes=30_000)
    export(CONFIGS["v3"], tmp_path)
    assert import_hf(out)[0] == CONFIGS["v3"] and not (out / INDEX).exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        export(MTP, tmp_path)
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("# Somebody's model")
    with pytest.raises(UserError, match="not an earlier export"):
        export(MTP, tmp_path)
    assert import_hf(out)[0] == CONFIGS["v3"]
    shutil.rmtree(out)
    out.mkdir()
    assert import_hf(export(MTP, tmp_path))[0] == MTP


def test_failed_export_leaves_nothing_new(tmp_path: Path) -> None:
    file, out = tokenizer_file(tmp_path), tmp_path / "model"
    state = random_state(MTP)
    state["lm_head.weight"] = state["lm_head.weight"][:-1]
    with pytest.raises(UserError, match=r"lm_head\.weight has shape \[319, 32\]"):
        export_hf(state, MTP, file, out)
    del state["model.norm.weight"]
    state["model.layers.9.extra"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"lacks model\.norm\.weight; it has unknown model\.layers\.9\.extra"):
        export_hf(state, MTP, file, out)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_tokenizer_must_fit_the_embedding(tmp_path: Path) -> None:
    config = small(vocab_size=300)
    with pytest.raises(UserError, match="320 tokens"):
        export_hf(random_state(config), config, tokenizer_file(tmp_path), tmp_path / "model")


def test_card_counts_parameters_and_takes_more_text(tmp_path: Path) -> None:
    card = (export(MTP, tmp_path, extra_card="## Data\n\nNone.") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "\n\n## Data\n\nNone.\n\n" in card
    assert "multi-token-prediction" in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_head_weight": None}, r"lacks lm_head\.weight"),
        ({"extra": torch.zeros(1)}, "unknown extra"),
        ({"lm_head_weight": torch.zeros(1, 2)}, r"model\.safetensors: lm_head\.weight has shape \[1, 2\]"),
        ({"model_norm_weight": torch.zeros(32, dtype=torch.int8)}, r"model\.norm\.weight is of type I8"),
        ({"model_layers_3_embed_tokens_weight": torch.zeros(320, 32)}, r"layers\.3\.embed_tokens\.weight differs"),
        ({"model_layers_1_mlp_experts_5_up_proj_weight": torch.zeros(20, 32)}, r"experts\.5\.up_proj.*float32"),
    ],
)
def test_import_names_the_wrong_tensor(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = export(MTP, tmp_path)
    edit(out, **changes)
    with pytest.raises(UserError, match=message):
        import_hf(out)


def test_missing_mtp_is_allowed_only_whole(tmp_path: Path) -> None:
    out = export(MTP, tmp_path)
    edit(out, model_layers_3_enorm_weight=None)
    with pytest.raises(UserError, match=r"lacks model\.layers\.3\.enorm\.weight"):
        import_hf(out, allow_missing_mtp=True)


def test_import_names_the_wrong_file(tmp_path: Path) -> None:
    out = export(MTP, tmp_path, shard_bytes=60_000)
    index = out / INDEX
    good, first = index.read_text(), next(iter(sorted(out.glob("model-*"))))
    weights = first.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            import_hf(out)

    first.write_bytes(weights[:1000])
    refused(f"{first.name}: ")
    first.unlink()
    refused(f"{first.name}: no such")
    first.write_bytes(weights)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../model.safetensors"}}))
    refused("is not the name of a weight file")
    index.write_text(json.dumps({"weight_map": {}}))
    refused("weight_map is missing or empty")
    copy = out / "model-copy.safetensors"
    shutil.copy(first, copy)
    index.write_text(json.dumps({"weight_map": json.loads(good)["weight_map"] | {"x": copy.name}}))
    refused("is also in")
    index.unlink()
    refused("a shard without model.safetensors.index.json")
    (out / "config.json").write_text("[1")
    refused(r"config\.json: not valid JSON")
    (out / "config.json").write_text("[1]")
    refused(r"config\.json: must be a JSON object")
    (out / "config.json").unlink()
    refused(r"config\.json: cannot read")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_tensor_written_in_pieces_is_the_same(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, file = random_state(MTP), tokenizer_file(tmp_path)
    export_hf(state, MTP, file, tmp_path / "whole", dtype)
    monkeypatch.setattr(write, "_PIECE_ELEMENTS", 1)  # 128 rows at once
    export_hf(state, MTP, file, tmp_path / "pieces", dtype)
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()
               for name in ("model.safetensors", "config.json"))  # fmt: skip
