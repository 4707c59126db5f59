"""Parameters of a configuration of any architecture that transformers has, counted on the meta device, as a program.

Tensors on PyTorch's meta device have shapes and no numbers, so the largest model is built in seconds and megabytes.
Run in a process of its own (:mod:`clearseek.hub.parameters` starts it): config.json comes on standard input, counts go
to standard output as JSON. Nothing of a release is executed: plain values are handed to transformers' own classes,
without the keys that name code, kernels or quantisations, without the network, and with limits on time and memory.

Experts are found by structure: tensors of three dimensions, or lists of equal modules, whose first size is the number
of experts, below a name with "expert" in it; how many of them a token visits is what their router says.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

CPU_SECONDS = 60
MEMORY = 8 << 30
"""Bytes of writable memory that the process may take."""
_UNSAFE = re.compile(
    r"_.*|auto_map|trust_remote_code|quantization_config|torch_dtype|dtype|.*attn_implementation"
    r"|experts_implementation|transformers_version|architectures|model_type|custom_pipelines|use_kernels"
)
"""Keys that name code, kernels or types, none of which decides a shape."""
_SIZE = re.compile(
    r"(?:moe_|shared_expert_|ffn_)?(?:vocab|hidden|intermediate)_size|num_hidden_layers|n_layers?|d_model|n_embd|d_ff"
    r"|num_(?:local_|routed_)?experts|n_routed_experts|num_attention_heads|num_key_value_heads|n_shared_experts"
)
"""Settings that decide most of a count."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("top_k", "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "num_selects")


def plain(value: Any) -> Any:
    """A value without the keys that are not handed on; configurations within it keep their kind."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: plain(each) for name, each in value.items() if not _UNSAFE.fullmatch(name)}
    return kept | ({"model_type": value["model_type"]} if isinstance(value.get("model_type"), str) else {})


def build(raw: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration and the model, on the meta device: the first class of transformers that makes one of it."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    initialization = importlib.import_module("transformers.initialization")
    values = {name: value for name, value in plain(raw).items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(raw["model_type"], **values)
    failed: Exception = ValueError(f"it has no model for {type(config).__name__}")
    for kind in _classes(transformers, config, raw.get("architectures")):
        try:
            with torch.device("meta"), initialization.no_init_weights(), initialization.meta_device_safe_creation_ops():
                model = kind._from_config(config, attn_implementation="eager")
        except Exception as error:
            failed = error
            continue
        model.tie_weights()
        return config, model
    raise failed


def _classes(transformers: Any, config: Any, named: Any) -> Iterator[Any]:
    """Classes for this configuration: the one that config.json names, if transformers has it, then the usual ones."""
    for name in named if isinstance(named, list) else ():
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        if isinstance(found, type) and getattr(found, "config_class", None) is type(config):
            yield found
    order = ["CausalLM", "ImageTextToText", "Seq2SeqLM", "SpeechSeq2Seq", "MaskedLM"]
    if getattr(config, "is_encoder_decoder", False):
        order = ["Seq2SeqLM", "SpeechSeq2Seq", *order]
    elif config.get_text_config() is not config:
        order = ["ImageTextToText", *order]
    for auto in (*(f"AutoModelFor{each}" for each in order), "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            yield found[0] if isinstance(found, tuple) else found


def count(raw: dict[str, Any]) -> dict[str, Any]:
    """Counts of the model that a config.json describes."""
    config, model = build(raw)
    text = config.get_text_config()
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    sizes |= {name: each.numel() for name, each in model.named_buffers() if name.endswith("correction_bias")}
    total = sum(sizes.values())
    first, last = _weight(model, "get_input_embeddings"), _weight(model, "get_output_embeddings")
    if last is None:
        heads = [each for name, each in model.named_modules() if name.endswith("lm_head")]
        last = getattr(heads[0], "weight", None) if heads else None
    embedding = 0 if first is None else first.numel()
    head = 0 if last is None or last is first else last.numel()
    lookups = sum(each.weight.numel() for each in model.modules() if type(each).__name__.endswith("Embedding")
                  and getattr(getattr(each, "weight", None), "ndim", 0) == 2)  # fmt: skip
    experts, unvisited = _experts(model, text)
    language = _language(config, text, model, last)
    return {
        "total": total, "embedding": embedding, "head": head, "lookups": max(0, lookups - embedding),
        "activated": None if unvisited is None else total - unvisited, "experts": experts[:3],
        "towers": max(0, total - language) if language else 0, "layer": _last_layer(model),
        "hidden": getattr(text, "hidden_size", 0), "class": type(model).__name__, "defaults": _defaults(config, raw),
        "version": importlib.import_module("transformers").__version__,
    }  # fmt: skip


def _weight(model: Any, getter: str) -> Any:
    with contextlib.suppress(Exception):  # not every class says which module it is
        return getattr(getattr(model, getter)(), "weight", None)
    return None


def _first(holder: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(holder, name, None) for name in names)
    return next((each for each in found if type(each) is int and each > 0), None)


def _experts(model: Any, text: Any) -> tuple[list[str], int | None]:
    """Modules that are experts, and the elements of them that a token does not visit; None where it is not known."""
    found: list[str] = []
    unvisited = 0
    number = _first(text, _EXPERTS)
    modules = dict(model.named_modules())
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if not ("expert" in last or "Experts" in type(module).__name__) or "shared" in last:
            continue
        stacked = next((each for each in module.parameters(recurse=False) if each.ndim == 3), None)
        kinds = [type(each) for each in module.children()]
        size = stacked.shape[0] if stacked is not None else len(kinds) if len(set(kinds)) == 1 else 0
        if size < 2:
            continue
        held = sum(each.numel() for each in module.parameters())
        block = modules.get(name.rpartition(".")[0])
        near = [module, block, *(block.children() if block is not None else ())]
        chosen = next((k for each in near if (k := _first(each, _CHOSEN))), None) or _first(text, _CHOSEN)
        if chosen is None or chosen > size or getattr(text, "zero_expert_num", False):
            return [name], None
        found.append(f"{name} ({type(module).__name__}, {chosen} of {size})")
        unvisited += held - held * chosen // size
    if not found and number and number > 1:
        return [], None
    return found, unvisited


def _language(config: Any, text: Any, model: Any, head: Any) -> int:
    """Parameters of the part that reads text and of the head, of a model that has other parts; 0 where it has none."""
    parts = [each for each in model.modules() if each is not model and getattr(each, "config", None) is text]
    if text is config or not parts:
        return 0
    held = max(
        ({id(each): each.numel() for each in part.parameters()} for part in parts), key=lambda of: sum(of.values())
    )
    return sum((held if head is None else held | {id(head): head.numel()}).values())


def _last_layer(model: Any) -> int:
    """Parameters of the last layer of the largest stack, which a multi-token-prediction module repeats."""
    stacks = [each for each in model.modules() if type(each).__name__ == "ModuleList" and len(each)]
    largest = max(stacks, key=lambda stack: sum(each.numel() for each in stack.parameters()), default=None)
    return 0 if largest is None else sum(each.numel() for each in largest[-1].parameters())


def _defaults(config: Any, raw: Any) -> list[str]:
    """Sizes that config.json does not state, with the value that the class takes."""
    attributes = getattr(type(config), "attribute_map", {})
    given = {attributes.get(name, name) for name, value in raw.items() if value is not None}
    fields = getattr(type(config), "__dataclass_fields__", {})
    missing = [
        f"{name} = {getattr(config, name)}"
        for name, field in fields.items()
        if name not in given and _SIZE.fullmatch(name) and type(field.default) is int
    ]
    if getattr(config, "text_config", None) is not None:
        inner = raw.get("text_config")
        missing += [f"text_config.{each}" for each in _defaults(config.text_config, inner or {})]
    return missing


def main() -> None:
    """Read, count, print: counts, or the ``error`` that stands in their way."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "critical",
                   "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    out = sys.stdout
    try:
        importlib.import_module("transformers.initialization")
    except ImportError:
        json.dump({"missing": True}, out)
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = count(json.load(sys.stdin))
    except MemoryError:
        found = {"error": "it takes more memory than any model's configuration should"}
    except Exception as error:  # whatever a class of transformers makes of a broken configuration
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    json.dump(found, out)


if __name__ == "__main__":
    main()
