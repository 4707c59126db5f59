"""config.json, both ways: the settings under which every engine reads the same model.

Hugging Face's own writer leaves out fields that others depend on (``scoring_func`` and ``topk_method``, without which
vLLM and llama.cpp route with a softmax, and no error tells), so this one is written by hand and is complete. Rotary
settings appear three times, because readers differ: a flat ``rope_theta`` and ``rope_scaling`` for transformers 4, vLLM
and llama.cpp, and ``rope_parameters`` for transformers 5. Reading accepts either form and refuses what the model code
does not implement. Source of the fields: the config.json published with DeepSeek-V3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from clearseek.config import ModelConfig, RopeScaling
from clearseek.errors import UserError

ARCHITECTURES: Final = {"deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}

# Settings that ClearSeek implements with one value only: this is written, and anything else is refused.
FIXED: Final[dict[str, Any]] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "ep_size": 1,
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "rope_interleave": True,
}
BLOCK_FP8: Final[dict[str, Any]] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
SHARED_FIELDS: Final = tuple(name for name in ModelConfig.model_fields if name != "rope_scaling")
Scales = Literal["float", "power-of-two"]
"""Scales of eight-bit weights: any number, or powers of two (``ue8m0``)."""


def hf_config(config: ModelConfig, dtype: str, bos: int, eos: int, pad: int) -> dict[str, Any]:
    """The content of config.json.

    Args:
        config: Dimensions.
        dtype: ``bfloat16`` or ``float32``, as stored.
        bos, eos, pad: The tokenizer's ids.
    """
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
    """Which scales a config.json says its weights have; None for weights that are not quantised.

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
    """Dimensions from the content of a config.json; `file` starts the message of the UserError."""
    model_type = raw.get("model_type")
    if model_type not in tuple(ARCHITECTURES):
        raise UserError(f"{file}: model_type = {model_type!r}: only {' and '.join(ARCHITECTURES)} are supported")
    wrong = [
        f"{name} = {raw[name]!r} (only {value!r} is supported)"
        for name, value in FIXED.items()
        if raw.get(name) not in (None, value)
    ]
    heads = raw.get("num_attention_heads")
    if raw.get("num_key_value_heads") not in (None, heads):
        wrong.append(f"num_key_value_heads = {raw['num_key_value_heads']!r} (only num_attention_heads, {heads!r})")
    if raw.get("mlp_bias"):
        wrong.append("mlp_bias = true (only false is supported)")
    try:
        fp8_scales(raw, file)
    except UserError as error:
        wrong.append(str(error).removeprefix(f"{file}: "))
    if wrong:
        raise UserError(f"{file}: unsupported settings: {'; '.join(wrong)}")
    v3 = model_type == "deepseek_v3"
    fields = {
        # transformers drops these two when it saves a V3, and writes null for a V2 without groups.
        "scoring_func": "sigmoid" if v3 else "softmax",
        "topk_method": "noaux_tc" if v3 else "greedy",
        "rms_norm_eps": 1e-6,
        **{name: raw[name] for name in SHARED_FIELDS if raw.get(name) is not None},
    }
    if not v3:
        fields["num_nextn_predict_layers"] = 0
    fields["rope_theta"], fields["rope_scaling"] = _rope(raw, file)
    try:
        config = ModelConfig.model_validate(fields)
    except ValidationError as error:
        causes = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}".lstrip(": ") for entry in error.errors()]
        raise UserError(f"{file}: {'; '.join(causes)}") from None
    if config.model_type != model_type:
        raise UserError(f'{file}: topk_method = "{config.topk_method}" does not belong to model_type = "{model_type}"')
    return config


def _rope(raw: dict[str, Any], file: Path) -> tuple[Any, RopeScaling | None]:
    """Base (not validated yet) and YaRN settings, from the flat form or `rope_parameters`."""
    new, old = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    if not isinstance(new, dict) or not isinstance(old, dict):
        raise UserError(f"{file}: rope_parameters and rope_scaling must be objects")
    thetas = [source["rope_theta"] for source in (new, old, raw) if source.get("rope_theta") is not None]
    scalings = [_yarn(source, file) for source in (new, old) if source]
    if any(theta != thetas[0] for theta in thetas) or (len(scalings) == 2 and scalings[0] != scalings[1]):
        raise UserError(f"{file}: rope_parameters and rope_theta / rope_scaling contradict each other: keep one form")
    return thetas[0] if thetas else 10000.0, scalings[0] if scalings else None


def _yarn(source: dict[str, Any], file: Path) -> RopeScaling | None:
    kind = source.get("rope_type", source.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise UserError(f'{file}: rope type "{kind}": only "default" and "yarn" are supported')
    # DeepSeek's own code takes these two for missing ones; ClearSeek's defaults are those of the V3 release.
    settings = {"mscale": 1.0, "mscale_all_dim": 0.0}
    settings |= {name: value for name, value in source.items() if name not in ("type", "rope_type", "rope_theta")}
    missing = [name for name in ("factor", "original_max_position_embeddings") if name not in settings]
    if missing:
        raise UserError(f"{file}: the YaRN settings lack {' and '.join(missing)}")
    try:
        return RopeScaling.model_validate(settings)
    except ValidationError as error:
        causes = [f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors()]
        raise UserError(f"{file}: YaRN settings: {'; '.join(causes)}") from None
