"""Adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.

Names are those of transformers' DeepSeek-V3, whose experts are stacked as ours are. PEFT targets linear layers by
`target_modules` and other parameters by `target_parameters`; four habits of PEFT 0.21 with transformers 5 decide how
the files must be read:

- A stack's A is [E * L, X] with the expert slowest, but its B is [Y, E * L] with the expert *fastest* (PEFT reads B as
  [Y, L, E]).
- A parameter's adapter is a wrapper of the module that holds it, and a second one wraps the first. So where both stacks
  have adapters, ``experts.base_layer.lora_A`` is gate|up's and ``experts.lora_A`` is down's; where one has,
  ``experts.lora_A`` is that one's, and only the configuration says which.
- `gate_proj`, `up_proj` and `down_proj` among `target_modules` mean the *routed* experts, at twice the rank for gate|up
  (a `rank_pattern`). Those of dense MLPs and shared experts are targeted as parameters: ``mlp.gate_proj.weight``.
- Settings that a reader does not know change what an adapter does, so all of them are refused.

Shapes: E experts, L rank, X inputs, Y outputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clearseek.config import ModelConfig
from clearseek.errors import UserError, one_line
from clearseek.files import atomic_folder, reading
from clearseek.hub.block_fp8 import check_finite
from clearseek.hub.safetensors import read_header
from clearseek.jsontext import strict_json
from clearseek.model.lora import LowRank, adapters_of, attach
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import GROUPS, adapter_parameters
from clearseek.tensors import TensorSpec, memory_tensors

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
_KEY = re.compile(r"base_model\.model\.(?P<module>model\.layers\.\d+\..+)\.lora_(?P<side>[AB])\.weight")
_PATTERN = re.compile(r"\^?(?:\.\*(?:\\\.)?)?(?P<name>[A-Za-z0-9_]+(?:\\?\.[A-Za-z0-9_]+)*)\$?")
_GATE_UP, _DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
_READ: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "target_parameters", "bias",
     "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"}
)  # fmt: skip
_OF_NO_EFFECT: Final = frozenset(
    {"auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode",
     "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "task_type"}
)  # fmt: skip
_STARTS: Final = (True, False, "gaussian", "eva", "orthogonal", None)
"""First values that leave the frozen matrices as they were."""


class _Settings(NamedTuple):
    """What an adapter_config.json says, checked."""

    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    modules: list[str] | None
    """Names of linear layers; None where they are an expression."""
    parameters: list[str]
    partial: bool
    """Whether targets may be without adapters."""

    def of(self, spec: TensorSpec) -> tuple[int, float]:
        """Rank and alpha of a matrix: the first pattern that fits its name in PEFT, else the common value."""
        key = spec.name if self.aims_at_parameter(spec) else _key(spec.name)
        rank = next((value for name, value in self.ranks.items() if _ends(key, name)), self.rank)
        return rank, next((value for name, value in self.alphas.items() if _ends(key, name)), self.alpha)

    def aims_at(self, spec: TensorSpec) -> bool:
        """Whether a matrix is among the targets."""
        module = spec.kind != "expert" and any(_ends(_key(spec.name), target) for target in self.modules or [])
        return module or self.aims_at_parameter(spec)

    def aims_at_parameter(self, spec: TensorSpec) -> bool:
        """Whether a matrix is among the targets that are parameters."""
        return any(_ends(spec.name, target) for target in self.parameters)


def _ends(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _key(name: str) -> str:
    """PEFT's name of a target, from that of its parameter."""
    return name.removesuffix(".weight")


def export_peft(model: DeepSeekModel, out: str | Path, base: str | None = None) -> None:
    """Write a model's adapters to a new folder that PEFT loads over the model's Hugging Face export.

    transformers has no multi-token-prediction layer: PEFT passes over that layer's adapters, and :func:`load_peft`
    reads them.

    Args:
        model: A model with adapters.
        out: The folder to write.
        base: Name or path of the frozen model, for the reader.

    Raises:
        UserError: the model has no adapters, `out` is there already, or the disk is full.
    """
    out, adapters = Path(out), dict(adapters_of(model))
    if not adapters:
        raise UserError("this model has no adapters to export")
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        module = _module(name, adapters)
        for side, matrix in (("A", adapter.lora_A), ("B", adapter.lora_B)):
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = _flat(matrix.detach().cpu(), side)
    content = _config(model.config, adapters, base)
    with atomic_folder(out) as folder:
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        try:
            (folder / WEIGHTS).touch()  # the library's own file would be for its owner only
            mode = (folder / WEIGHTS).stat().st_mode
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
            (folder / WEIGHTS).chmod(mode)
        except SafetensorError as error:
            raise UserError(f"{out / WEIGHTS}: cannot write the adapters: {error}") from None


def _module(name: str, adapted: Iterable[str]) -> str:
    """PEFT's wrapper of a parameter: the outer one of a stack, or the inner one where there are two."""
    path = name.rpartition(".")[0]
    if name.endswith(_GATE_UP) and f"{path}.down_proj" in adapted:
        return f"{path}.base_layer"
    return path


def _flat(matrix: Tensor, side: str) -> Tensor:
    """A stack as PEFT's matrix: A [E, L, X] to [E * L, X], B [E, Y, L] to [Y, L * E]."""
    if matrix.ndim == 3:
        matrix = matrix.flatten(0, 1) if side == "A" else matrix.permute(1, 2, 0).flatten(1)
    return matrix.clone(memory_format=torch.contiguous_format)


def _stacked(matrix: Tensor, side: str, experts: int) -> Tensor:
    """PEFT's matrix as a stack."""
    if side == "A":
        return matrix.view(experts, -1, matrix.shape[1])
    return matrix.view(len(matrix), -1, experts).permute(2, 0, 1)


def _config(config: ModelConfig, adapters: Mapping[str, LowRank], base: str | None) -> dict[str, Any]:
    """The content of adapter_config.json."""
    first = next(iter(adapters.values()))
    specs = {spec.name: spec for spec in _specs(config)}
    modules, parameters = set[str](), set[str]()
    for name in adapters:
        of_module = specs[name].kind == "attention"
        short = _key(name).rpartition(".")[2] if of_module else re.sub(r"model\.layers\.\d+\.", "", name)
        same = [
            each for each, spec in specs.items() if not spec.mtp and _ends(_key(each) if of_module else each, short)
        ]
        whole = all(each in adapters for each in same)
        (modules if of_module else parameters).add(short if whole else _key(name) if of_module else name)
    keys = {_key(name) if specs[name].kind == "attention" else name: adapter for name, adapter in adapters.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": _whole(first.alpha),
        "rank_pattern": {key: each.rank for key, each in keys.items() if each.rank != first.rank},
        "alpha_pattern": {key: _whole(each.alpha) for key, each in keys.items() if each.alpha != first.alpha},
        "target_modules": sorted(modules),
        "target_parameters": sorted(parameters),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _specs(config: ModelConfig) -> list[TensorSpec]:
    return [spec for spec in memory_tensors(config) if spec.kind in GROUPS["all"]]


@torch.no_grad()
def load_peft(model: DeepSeekModel, folder: str | Path) -> list[tuple[str, nn.Parameter]]:
    """Give a model the adapters of a folder that PEFT or :func:`export_peft` wrote, and freeze all else.

    Args:
        model: The model, with the weights, on the device and in the types that it is to be used with.
        folder: Folder with adapter_config.json and adapter_model.safetensors; a pickle is not read.

    Returns:
        Names and parameters of the adapters, in the model's order.

    Raises:
        UserError: the model has adapters; a file is missing or damaged; the adapters are of another method, rank, shape
            or model. The message names file and key, and the model is then unchanged.
    """
    if any(True for _ in adapters_of(model)):
        raise UserError("this model has adapters already: merge them first")
    folder = Path(folder)
    settings = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder)
    specs = {spec.name: spec for spec in _specs(model.config)}
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        name, side = _name(folder / WEIGHTS, key, tensors, settings, specs)
        found.setdefault(name, {})[side] = key, tensor
    _check_all_there(folder, found, settings, specs)
    checked = {name: _matrices(folder / WEIGHTS, sides, specs[name], settings) for name, sides in found.items()}
    model.requires_grad_(False)
    for name in (name for name in specs if name in checked):
        a, b, rank, alpha = checked[name]
        adapter = attach(model, name, rank, alpha)
        adapter.lora_A.copy_(a)
        adapter.lora_B.copy_(b)
    return adapter_parameters(model)


def _read_config(file: Path) -> _Settings:
    with reading(file, "give the folder that PEFT's save_pretrained wrote"):
        content = strict_json(file.read_bytes(), str(file))

    def refuse(key: str, why: str) -> UserError:
        return UserError(f"{file}: {key} = {one_line(json.dumps(content.get(key)))[:80]}: {why}")

    if content.get("peft_type") != "LORA":
        raise refuse("peft_type", 'only adapters of type "LORA" are read')
    if content.get("bias", "none") not in ("none", None):
        raise refuse("bias", 'trained biases are not read, and DeepSeek\'s models have none: train with bias = "none"')
    if content.get("init_lora_weights", True) not in _STARTS:
        raise refuse("init_lora_weights", "this start changes the frozen matrices too: convert the adapter with PEFT")
    for key, value in content.items():
        if key not in _READ | _OF_NO_EFFECT and value not in (None, False, {}, [], "") and key != "megatron_config":
            raise refuse(key, "this variant of LoRA is not read: merge it with PEFT (merge_and_unload)")
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if not isinstance(rank, int) or not _is_rank(rank):
        raise refuse("r", "it must be a whole number from 1 up")
    if not isinstance(alpha, int | float) or not _is_alpha(alpha):
        raise refuse("lora_alpha", "it must be a positive number")
    lists: dict[str, list[str] | None] = {}
    for key in ("target_modules", "target_parameters"):
        value = content.get(key) or []
        if isinstance(value, str) and key == "target_modules":
            lists[key] = None
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            lists[key] = value
        else:
            raise refuse(key, "it must be a list of names")
    patterns: dict[str, dict[str, Any]] = {}
    for key, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_alpha)):
        patterns[key] = {}
        value = content.get(key) or {}
        for pattern, number in value.items() if isinstance(value, dict) else [("", None)]:
            match = _PATTERN.fullmatch(pattern)
            if match is None or not fits(number):
                raise refuse(key, "it must map names of matrices to numbers; other expressions are not evaluated")
            patterns[key][match["name"].replace("\\", "")] = number
    partial = any(content.get(key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern"))
    return _Settings(
        rank, float(alpha), patterns["rank_pattern"], patterns["alpha_pattern"], lists["target_modules"],
        lists["target_parameters"] or [], partial,
    )  # fmt: skip


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 2**31


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.exists() and (folder / PICKLE).exists():
        raise UserError(
            f"{folder / PICKLE}: a pickle can run code when it is read, so it is not: save the adapter as {WEIGHTS}, "
            "with PEFT's save_pretrained(safe_serialization=True)"
        )
    header = read_header(file)
    if not header.entries:
        raise UserError(f"{file}: holds no tensors")
    for entry in header.entries:
        if entry.dtype not in ("F32", "BF16", "F16"):
            raise UserError(f"{file}: {one_line(entry.name)} is {entry.dtype}: adapters are F32, BF16 or F16")
    with reading(file):
        tensors: dict[str, Tensor] = load_file(file)
    for entry in header.entries:
        check_finite(tensors[entry.name], entry.dtype, f"{file}: {one_line(entry.name)}")
    return tensors


def _name(
    file: Path, key: str, keys: Iterable[str], settings: _Settings, specs: Mapping[str, TensorSpec]
) -> tuple[str, str]:
    """Name of the parameter that a tensor adapts, and which matrix the tensor is, A or B."""
    match = _KEY.fullmatch(key)
    where = f"{file}: {one_line(key)}"
    if match is None:
        kind = next((why for sign, why in _SIGNS.items() if sign in key), "no LoRA matrix of a DeepSeek model")
        raise UserError(f"{where}: {kind}")
    module, side = match["module"], match["side"]
    if module.endswith(".mlp.experts.base_layer"):
        name = module.removesuffix("base_layer") + "gate_up_proj"
    elif module.endswith(".mlp.experts"):
        name = f"{module}.down_proj"
        if not any(each.startswith(f"base_model.model.{module}.base_layer.") for each in keys):
            stacks = [f"{module}.{each}" for each in ("gate_up_proj", "down_proj")]
            aimed = [each for each in stacks if each in specs and settings.aims_at(specs[each])]
            if len(aimed) != 1:
                raise UserError(
                    f"{where}: belongs to gate_up_proj or to down_proj, but target_parameters in {CONFIG} names "
                    f"{'both' if aimed else 'neither'}: exactly one must be there, or the other's matrices too"
                )
            name = aimed[0]
    else:
        name = f"{module}.weight"
    if name not in specs:
        what = "one expert by itself, as in transformers 4: load and save the adapter with PEFT on transformers 5"
        known = what if re.search(r"experts\.\d+\.", key) else "this model has no such matrix for an adapter"
        raise UserError(f"{where}: {known}")
    return name, side


_SIGNS: Final = {
    "lora_magnitude_vector": "DoRA is not read: merge it with PEFT (merge_and_unload)",
    "modules_to_save": "modules trained whole are not read: merge them with PEFT (merge_and_unload)",
    "lora_embedding_": "adapters of the embedding are not read: merge them with PEFT (merge_and_unload)",
    "lora_B.bias": "biases of adapters are not read: merge them with PEFT (merge_and_unload)",
}


def _check_all_there(
    folder: Path, found: Mapping[str, dict[str, Any]], settings: _Settings, specs: Mapping[str, TensorSpec]
) -> None:
    for name, sides in found.items():
        if len(sides) != 2:
            key = next(iter(sides.values()))[0]
            raise UserError(f"{folder / WEIGHTS}: {one_line(key)}: the other matrix of the pair is missing")
        if not settings.aims_at(specs[name]) and not (settings.modules is None and specs[name].kind != "expert"):
            raise UserError(f"{folder / WEIGHTS}: has matrices for {name}, which {folder / CONFIG} does not target")
    if settings.partial:
        return
    for name, spec in specs.items():
        if name not in found and not spec.mtp and settings.aims_at(spec):
            raise UserError(
                f"{folder / WEIGHTS}: lacks the matrices of {name}, which {folder / CONFIG} targets: the file is cut "
                "off, or of another model"
            )


def _matrices(
    file: Path, sides: Mapping[str, tuple[str, Tensor]], spec: TensorSpec, settings: _Settings
) -> tuple[Tensor, Tensor, int, float]:
    """A and B in our form, rank and alpha; checked against the model's shapes."""
    *stack, outputs, inputs = spec.shape
    rank, alpha = settings.of(spec)
    experts = stack[0] if stack else 1
    expected = {"A": (experts * rank, inputs), "B": (outputs, experts * rank)}
    parts = {}
    for side, (key, tensor) in sides.items():
        if tuple(tensor.shape) != expected[side]:
            raise UserError(
                f"{file}: {one_line(key)} is {list(tensor.shape)}, but {spec.name} {list(spec.shape)} with rank {rank} "
                f"needs {list(expected[side])}: the adapter is of another model or rank"
            )
        parts[side] = _stacked(tensor, side, experts) if stack else tensor
    return parts["A"], parts["B"], rank, alpha
