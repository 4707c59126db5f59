"""Other names for the same tensors, and remarks on names of other forms.

A checkpoint from another tool often has Hugging Face's names with a prefix more or less; DeepSeek's inference code has
names of its own for the same matrices (its ``convert.py`` only renames, when told to write one file); old checkpoints
carry tables that follow from the settings. All of these are read under the names of :mod:`clearseek.tensors`. Names of
another form (a quantisation, an adapter, another attention) get a remark that names the form.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from clearseek.config import ModelConfig
from clearseek.tensors import HEAD, SCALE_SUFFIX

_LAYER = re.compile(r"(?P<before>.*?)layers\.(?P<layer>\d+)\.")
_TABLE = re.compile(r"(?:^|\.)rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$")
INFERENCE: Final = {
    "embed": "embed_tokens", "attn_norm": "input_layernorm", "attn": "self_attn",
    "wq": "q_proj", "wq_a": "q_a_proj", "q_norm": "q_a_layernorm", "wq_b": "q_b_proj",
    "wkv_a": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "wkv_b": "kv_b_proj", "wo": "o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj",
}  # fmt: skip
"""Hugging Face's parts of names, by those of DeepSeek's inference code."""
_SIGNS: Final = (
    (r"\blora_[AB]\b", "they are of a LoRA adapter: merge it into its base model first (peft: merge_and_unload)"),
    (r"\.(?:qweight|qzeros|g_idx)$", "they are quantised by GPTQ or AWQ, which is not read: fetch FP8 or BF16 weights"),
    (r"\.weight_(?:packed|shape)$", "they are packed integers, which are not read: fetch FP8 or BF16 weights"),
    (r"\.(?:absmax|quant_map|SCB)$|\.quant_state\.", "they are quantised by bitsandbytes, which is not read: fetch FP8 "
     "or BF16 weights"),
    (r"\.weight_scale(?:_2)?$|\.input_scale$", "they have scales of another kind than DeepSeek's blocks of 128 x 128: "
     "fetch DeepSeek's FP8 form, or BF16"),
    (r"\.switch_mlp\.", "they are MLX's: fetch the weights that it was converted from"),
    (r"^blk\.\d+\.", "they are GGUF's: fetch the weights that it was converted from"),
    (r"\.indexer\.", "they are of sparse attention with an indexer (V3.2), which ClearSeek does not have"),
    (r"(?:^|\.)(?:vision_|visual|mm_projector|multi_modal)", "they are of a model of several kinds of input: only its "
     "language model, in a folder of its own, is read"),
)  # fmt: skip


def our_names(names: Iterable[str]) -> dict[str, str]:
    """A checkpoint's names by the names of :mod:`clearseek.tensors`; tables that follow from settings are left out.

    A name that is not understood maps to itself, and so do all names if two would become one.
    """
    stored = [name for name in names if not _TABLE.search(name)]
    befores = {match["before"] for name in stored if (match := _LAYER.match(name))}
    if len(befores) != 1 or befores == {"model."}:
        return {name: name for name in stored}
    before = befores.pop()
    found = {_ours(name, before): name for name in stored}
    return found if len(found) == len(stored) else {name: name for name in stored}


def _ours(name: str, before: str) -> str:
    """The name of :mod:`clearseek.tensors` for one of a checkpoint whose layers' names begin with `before`."""
    outer = before.removesuffix("model.")
    if before and name.startswith(before):
        return "model." + name.removeprefix(before)
    if before:
        return name.removeprefix(outer)
    if name in (HEAD, "head.weight"):
        return HEAD
    parts = [INFERENCE.get(part, part) for part in name.split(".")]
    if parts[-2:] == ["gate", "bias"]:
        parts[-1] = "e_score_correction_bias"
    if parts[-1] == "scale":
        parts[-1] = "weight" + SCALE_SUFFIX
    return ".".join(["model", *parts])


def what_they_are(names: Collection[str], unknown: Collection[str], config: ModelConfig) -> str:
    """Remark on a checkpoint whose names do not fit, beginning with ": ", or an empty string.

    Args:
        names: All names, as stored.
        unknown: Names that the configuration does not ask for.
        config: The dimensions.
    """
    for pattern, says in _SIGNS:
        if any(re.search(pattern, name) for name in unknown):
            return f": {says}"
    layers = {int(match["layer"]) for name in names if (match := _LAYER.match(name))}
    if not layers:
        example = "model.layers.0.self_attn.o_proj.weight"
        return f": its names are neither Hugging Face's (such as {example}) nor DeepSeek's inference code's"
    if max(layers) > config.num_hidden_layers:
        return (
            f": the weights have layers 0 to {max(layers)}, but config.json has num_hidden_layers = "
            f"{config.num_hidden_layers}: fetch the config.json of these weights"
        )
    return ""
