"""config.json, read and written: the settings under which every engine reads the same model.

Hugging Face's own writer leaves out fields that other readers depend on (without ``scoring_func`` and ``topk_method``
vLLM and llama.cpp route with a softmax, silently), so this writer is explicit and complete. Rotary settings appear
three times, because readers differ: a flat ``rope_theta`` and ``rope_scaling`` for transformers 4, vLLM and llama.cpp,
and ``rope_parameters`` for transformers 5. Reading accepts either form, in :mod:`clearseek.hub.rope`, and refuses what
the model code does not implement. Source of the fields: the config.json published with DeepSeek-V3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.rope import rope_settings

ARCHITECTURES: Final = {"deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
SAME_MODEL: Final = {"kimi_k2": "deepseek_v3"}
"""Model types of other publishers with one of these architectures, under the same names of settings and tensors."""
# Values that a class of transformers takes for settings left out of config.json, where tensors do not show them.
ABSENT: Final[dict[str, dict[str, Any]]] = {
    "deepseek_v2": {
        "scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        "n_shared_experts": 2, "first_k_dense_replace": 0,
    },
    "deepseek_v3": {
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
    },
}  # fmt: skip
_OTHERS: Final = {
    "deepseek": "the first DeepSeek-MoE, whose attention has no latent",
    "deepseek_v32": "its attention is sparse, chosen by an indexer",
    "deepseek_v4": "its attention is another one",
    "deepseek_vl_v2": "a model of text and images",
    "kimi_vl": "a model of text and images",
    "kimi_k25": "a model of text and images",
}

# Settings that ClearSeek implements with one value only, which is written; another value is refused.
FIXED: Final[dict[str, Any]] = {
    "attention_bias": False, "attention_dropout": 0.0, "ep_size": 1, "hidden_act": "silu", "moe_layer_freq": 1,
    "pretraining_tp": 1, "rope_interleave": True,
}  # fmt: skip
BLOCK_FP8: Final[dict[str, Any]] = {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
}  # fmt: skip
SHARED_FIELDS: Final = tuple(name for name in ModelConfig.model_fields if name != "rope_scaling")
Scales = Literal["float", "power-of-two"]
"""Kind of scales of eight-bit weights: any positive numbers, or powers of two (``ue8m0``)."""


def hf_config(config: ModelConfig, dtype: str, bos: int, eos: int, pad: int) -> dict[str, Any]:
    """Content of config.json, given the stored type (``bfloat16`` or ``float32``) and the tokenizer's ids."""
    raw = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        **FIXED,
        **{name: getattr(config, name) for name in SHARED_FIELDS},
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,  # transformers 5 means the rotary width here
        "qk_head_dim": config.qk_head_dim,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if config.rope_scaling is not None:
        scaling = config.rope_scaling.model_dump()
        raw["rope_scaling"] = {"type": "yarn", **scaling}
        raw["rope_parameters"] = {"rope_type": "yarn", "rope_theta": config.rope_theta, **scaling}
    return dict(sorted(raw.items()))


def quantization_config(scales: Scales) -> dict[str, Any]:
    """The ``quantization_config`` of a block-FP8 checkpoint: DeepSeek-V3's, or with power-of-two scales V3.1's."""
    return {**BLOCK_FP8, "scale_fmt": "ue8m0"} if scales == "power-of-two" else dict(BLOCK_FP8)


def fp8_scales(raw: dict[str, Any], file: Path) -> Scales | None:
    """Kind of scales that a config.json states, or None for weights that are not quantised.

    Raises UserError for every quantisation other than block FP8.
    """
    found = raw.get("quantization_config")
    if found is None or found == {}:
        return None
    if not isinstance(found, dict):
        raise UserError(f"{file}: quantization_config must be an object")
    wrong = [
        f"{name} = {found.get(name)!r} (only {value!r} is supported)"
        for name, value in BLOCK_FP8.items()
        if found.get(name) != value and (found.get(name) is not None or name not in ("activation_scheme", "fmt"))
    ]
    if found.get("scale_fmt") not in (None, "float", "ue8m0"):
        wrong.append(f"scale_fmt = {found['scale_fmt']!r} (only 'float' and 'ue8m0' are supported)")
    if wrong:
        raise UserError(f"{file}: quantization_config: {'; '.join(wrong)}")
    return "power-of-two" if found.get("scale_fmt") == "ue8m0" else "float"


def parse_hf_config(raw: dict[str, Any], file: Path) -> ModelConfig:
    """Dimensions from the content of a config.json. Raises UserError, which begins with `file`."""
    model_type = _model_type(raw, file)
    heads = raw.get("num_attention_heads")
    wrong = [
        f"{name} = {raw[name]!r} (only {value!r} is supported)"
        for name, value in {**FIXED, "mlp_bias": False}.items()
        if raw.get(name) not in (None, value) and not (name == "moe_layer_freq" and isinstance(raw[name], list))
    ]
    if raw.get("num_key_value_heads") not in (None, heads):
        wrong.append(f"num_key_value_heads = {raw['num_key_value_heads']!r} (only num_attention_heads, {heads!r})")
    try:
        fp8_scales(raw, file)
    except UserError as error:
        wrong.append(str(error).removeprefix(f"{file}: "))
    if wrong:
        raise UserError(f"{file}: unsupported settings: {'; '.join(wrong)}")
    fields = _fields(raw, model_type)
    fields["first_k_dense_replace"] = _dense_layers(raw, fields.get("first_k_dense_replace"), file)
    fields["rope_theta"], fields["rope_scaling"] = rope_settings(raw, file)
    try:
        config = ModelConfig.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        causes = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}".lstrip(": ") for entry in error.errors()]
        if absent := [
            f"{name} = {fields[name]}"
            for name in ("n_group", "topk_group")
            if fields.get(name, 1) != 1 and name not in raw
        ]:
            causes.append(f"(left out, which means {' and '.join(absent)} in transformers: write what the model has)")
        raise UserError(f"{file}: {'; '.join(causes)}") from None
    if config.model_type != model_type:
        raise UserError(f'{file}: topk_method = "{config.topk_method}" does not belong to model_type = "{model_type}"')
    return config


def _model_type(raw: dict[str, Any], file: Path) -> str:
    """``deepseek_v2`` or ``deepseek_v3``."""
    found = raw.get("model_type")
    named = raw.get("architectures")
    if found is None and isinstance(named, list):  # some writers name the class alone
        found = next((kind for name in named for kind, known in ARCHITECTURES.items() if name == known), None)
    found = SAME_MODEL.get(found, found) if isinstance(found, str) else found
    if isinstance(found, str) and found in ARCHITECTURES:
        return found
    if found is None and {"dim", "n_layers"} <= set(raw):
        raise UserError(
            f"{file}: has the settings of DeepSeek's inference code (dim, n_layers, ...): put the config.json of the "
            "Hugging Face repository there"
        )
    known = f"only {', '.join(ARCHITECTURES)} and {', '.join(SAME_MODEL)} are supported"
    why = _OTHERS.get(found) if isinstance(found, str) else None
    if why is None and isinstance(raw.get("text_config"), dict):
        why = "its text_config is one part of a model of several kinds of input"
    raise UserError(f"{file}: model_type = {found!r}{f' ({why})' if why else ''}: {known}")


def _fields(raw: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Settings by ``ModelConfig``'s names: those given, and for the others the values that the class takes."""
    fields = {"rms_norm_eps": 1e-6, **ABSENT[model_type]}
    fields |= {name: 1 for name in ("n_group", "topk_group") if name in raw}  # null means no groups
    fields |= {name: raw[name] for name in SHARED_FIELDS if raw.get(name) is not None}
    if fields.get("q_lora_rank") == 0:  # DeepSeek's inference code writes plain queries so
        del fields["q_lora_rank"]
    if "num_nextn_predict_layers" not in fields:
        fields["num_nextn_predict_layers"] = raw.get("num_mtp_layers") or 0  # transformers' name
    if model_type == "deepseek_v2":
        fields["num_nextn_predict_layers"] = 0
    return fields


def _dense_layers(raw: dict[str, Any], given: Any, file: Path) -> Any:
    """Number of layers before the first with experts, given as a number or, by some writers, as a list of layers."""
    for name, dense in (("moe_layer_freq", (0, False)), ("mlp_layer_types", ("dense",))):
        layers = raw.get(name)
        if not isinstance(layers, list):
            continue
        count = next((n for n, kind in enumerate(layers) if kind not in dense), len(layers))
        if any(kind in dense for kind in layers[count:]):
            raise UserError(f"{file}: {name} has dense layers after one with experts, which is not supported")
        if raw.get("first_k_dense_replace") not in (None, count):
            raise UserError(f"{file}: {name} has {count} dense layers, but first_k_dense_replace = {given}")
        return count
    return given
