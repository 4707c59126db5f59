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
    """The configuration and the model, on the meta device."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    initialization = importlib.import_module("transformers.initialization")
    values = {name: value for name, value in plain(raw).items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(raw["model_type"], **values)
    kind = _class(transformers, config, raw.get("architectures"))
    with torch.device("meta"), initialization.no_init_weights(), initialization.meta_device_safe_creation_ops():
        model = kind._from_config(config, attn_implementation="eager")
    model.tie_weights()
    return config, model


def _class(transformers: Any, config: Any, named: Any) -> Any:
    """The class of transformers that config.json names, if it is one for this configuration, or the first that is."""
    for name in named if isinstance(named, list) else ():
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        if isinstance(found, type) and getattr(found, "config_class", None) is type(config):
            return found
    for auto in ("CausalLM", "ImageTextToText", "Seq2SeqLM", "SpeechSeq2Seq", "MaskedLM", ""):
        mapping = getattr(transformers, f"AutoModelFor{auto}" if auto else "AutoModel")._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise ValueError(f"transformers has no model for {type(config).__name__}")


def count(raw: dict[str, Any]) -> dict[str, Any]:
    """Counts of the model that a config.json describes."""
    config, model = build(raw)
    text = config.get_text_config()
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    sizes |= {name: each.numel() for name, each in model.named_buffers() if name.endswith("correction_bias")}
    total = sum(sizes.values())
    embedding = _numel(model, "get_input_embeddings")
    head = _numel(model, "get_output_embeddings")
    if head and _weight(model, "get_output_embeddings") is _weight(model, "get_input_embeddings"):
        head = 0
    lookups = sum(each.weight.numel() for each in model.modules() if type(each).__name__.endswith("Embedding")
                  and getattr(getattr(each, "weight", None), "ndim", 0) == 2)  # fmt: skip
    experts, unvisited = _experts(model, text)
    language = _language(config, text, model)
    return {
        "total": total, "embedding": embedding, "head": head, "lookups": max(0, lookups - embedding),
        "activated": None if unvisited is None else total - unvisited, "experts": experts[:3],
        "towers": max(0, total - language - head) if language else 0, "layer": _last_layer(model),
        "hidden": getattr(text, "hidden_size", 0), "class": type(model).__name__, "defaults": _defaults(config, raw),
        "version": importlib.import_module("transformers").__version__,
    }  # fmt: skip


def _weight(model: Any, getter: str) -> Any:
    with contextlib.suppress(Exception):  # not every class says which module it is
        return getattr(getattr(model, getter)(), "weight", None)
    return None


def _numel(model: Any, getter: str) -> int:
    weight = _weight(model, getter)
    return 0 if weight is None else int(weight.numel())


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
        if "expert" not in last or "shared" in last:
            continue
        children = list(module.children())
        held = sum(each.numel() for each in module.parameters())
        stacked = [each for each in module.parameters(recurse=False) if each.ndim >= 2]
        listed = len(children) > 1 and len({type(each) for each in children}) == 1 and type(module).__name__.endswith(
            ("List", "Dict", "Experts"))  # fmt: skip
        size = stacked[0].shape[0] if stacked and stacked[0].ndim == 3 else len(children) if listed else 0
        size = _first(module, _EXPERTS) or size
        if size < 2 or (number and number % size and size % number):
            continue
        block = modules.get(name.rpartition(".")[0])
        near = [module, block, *(block.children() if block is not None else ())]
        chosen = next((k for each in near if (k := _first(each, _CHOSEN))), None) or _first(text, _CHOSEN)
        if chosen is None or chosen > size or getattr(text, "zero_expert_num", 0):
            return [name], None
        found.append(f"{name} ({type(module).__name__}, {chosen} of {size})")
        unvisited += held - held * chosen // size
    if not found and number and number > 1:
        return [], None
    return found, unvisited


def _language(config: Any, text: Any, model: Any) -> int:
    """Parameters of the part that reads text, of a model that has others too; 0 where it has not."""
    if text is config:
        return 0
    parts = [each for each in model.modules() if each is not model and getattr(each, "config", None) is text]
    return max((sum(each.numel() for each in part.parameters()) for part in parts), default=0)


def _last_layer(model: Any) -> int:
    """Parameters of the last layer of the largest stack, which a multi-token-prediction module repeats."""
    stacks = [each for each in model.modules() if type(each).__name__ == "ModuleList" and len(each)]
    largest = max(stacks, key=lambda stack: sum(each.numel() for each in stack.parameters()), default=None)
    return 0 if largest is None else sum(each.numel() for each in largest[-1].parameters())


def _defaults(config: Any, raw: dict[str, Any]) -> list[str]:
    """Sizes that config.json does not state, with the value that the class takes."""
    attributes = getattr(type(config), "attribute_map", {})
    given = {attributes.get(name, name) for name, value in raw.items() if value is not None}
    fields = getattr(type(config), "__dataclass_fields__", {})
    missing = [
        f"{name} = {getattr(config, name)}"
        for name, field in fields.items()
        if name not in given and _SIZE.fullmatch(name) and type(field.default) is int
    ]
    for name in getattr(config, "sub_configs", {}):
        if isinstance(below := getattr(config, name, None), object) and name == "text_config" and below is not None:
            inner = raw.get(name)
            missing += [f"{name}.{each}" for each in _defaults(below, inner if isinstance(inner, dict) else {})]
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
        with contextlib.redirect_stdout(sys.stderr):
            found = count(json.load(sys.stdin))
    except ImportError:
        found = {"missing": True}
    except MemoryError:
        found = {"error": "it takes more memory than any model's configuration should"}
    except Exception as error:  # whatever a class of transformers makes of a broken configuration
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    json.dump(found, out)


if __name__ == "__main__":
    main()
