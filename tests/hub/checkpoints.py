"""FP8 checkpoints to convert, made with safetensors' own writer, and FP8 worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clearseek.config import ModelConfig
from clearseek.hub.config_json import hf_config
from clearseek.tensors import fp8_tensors, tensors
from tests.hub.examples import small

INDEX = "model.safetensors.index.json"
SCALE = "_scale_inv"
ODD = small(
    num_hidden_layers=2,
    hidden_size=160,
    intermediate_size=300,
    moe_intermediate_size=129,
    kv_lora_rank=131,
    n_routed_experts=2,
    num_nextn_predict_layers=1,
)
"""Matrices of every kind, most of them with partial blocks."""
QUANTISED: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
Tensors = dict[str, torch.Tensor]


def random_fp8(config: ModelConfig = ODD, seed: int = 0, powers: bool = False) -> Tensors:
    """An FP8 checkpoint's tensors: any codes but NaN, and scales that no BF16 amax would give."""
    generator = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for name, dtype, shape in fp8_tensors(config):
        if dtype == "F8_E4M3":
            codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            codes[(codes & 0x7F) == 0x7F] = 0x80
            made[name] = codes.view(torch.float8_e4m3fn)
        elif name.endswith(SCALE):
            exponents = torch.randn(shape, generator=generator) * 4 - 13
            made[name] = torch.exp2(exponents.round() if powers else exponents)
        else:
            wide = torch.randn(shape, generator=generator)
            made[name] = wide if dtype == "F32" else wide.bfloat16()
    return made | {spec.name: made[spec.duplicate_of] for spec in tensors(config) if spec.duplicate_of}


def by_turns(shards: int) -> Callable[[int, str], int]:
    """Tensors dealt out one by one, so that most scales are in another file than their matrix."""
    return lambda number, name: number % shards


def scales_apart(number: int, name: str) -> int:
    """A file of nothing but scales."""
    return 1 if name.endswith(SCALE) else 0


def write(
    folder: Path,
    made: Tensors,
    split: Callable[[int, str], int] | None = None,
    config: ModelConfig = ODD,
    scale_fmt: str | None = None,
    quantised: bool = True,
) -> Path:
    """Write a checkpoint, in one file or as `split` says."""
    folder.mkdir(parents=True)
    places = [split(number, name) if split else 0 for number, name in enumerate(made)]
    count = max(places) + 1
    names = [f"model-{n + 1:05d}-of-{count:05d}.safetensors" if split else "model.safetensors" for n in range(count)]
    for number, name in enumerate(names):
        content = {tensor: made[tensor].clone() for tensor, place in zip(made, places, strict=True) if place == number}
        save_file(content, folder / name, metadata={"format": "pt"})
    if split:
        weight_map = {tensor: names[place] for tensor, place in zip(made, places, strict=True)}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}))
    raw = hf_config(config, "bfloat16", 0, 1, 2)
    if quantised:
        raw["quantization_config"] = QUANTISED | ({"scale_fmt": scale_fmt} if scale_fmt else {})
    (folder / "config.json").write_text(json.dumps(raw, indent=4))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "inference").mkdir()
    (folder / "inference" / "model.py").write_text("pass\n")
    return folder


def read(folder: Path) -> Tensors:
    """All tensors of a checkpoint, by safetensors' own reader."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118
                assert name not in found
                found[name] = handle.get_tensor(name)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_same(left: Tensors, right: Tensors) -> None:
    """Equal to the bit, NaN and the sign of zero included."""
    assert set(left) == set(right)
    for name, tensor in left.items():
        other = right[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape, name
        assert torch.equal(tensor.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)), name


@cache
def e4m3_values() -> np.ndarray:
    """The number of every code, float64, from the format's definition (OCP FP8, section 5)."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = np.where(exponent > 0, (1 + fraction / 8) * 2.0 ** (exponent - 7.0), fraction / 8 * 2.0**-6)
    values = np.where(codes & 128, -size, size)
    values[[0x7F, 0xFF]] = np.nan
    return values


def spread(scale: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Each element's scale, float64."""
    rows, columns = (np.arange(size) // 128 for size in shape)
    return scale.numpy().astype(np.float64)[np.ix_(rows, columns)]


def decoded(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """BF16 of an FP8 matrix: the exact product in float64 (4 by 24 bits), rounded to FP32, then to BF16 by bits."""
    product = e4m3_values()[codes.view(torch.uint8).numpy()] * spread(scale, codes.shape)
    return round_to_bf16(product.astype(np.float32))


def round_to_bf16(x: np.ndarray) -> torch.Tensor:
    """Nearest BF16 of FP32 numbers, ties to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return torch.from_numpy(rounded.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


def encoded(w: torch.Tensor, power_of_two: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (E4M3) and scales of a BF16 matrix: block by block, and each quotient to the nearest of all 254 codes."""
    x = w.float().numpy()
    scale = np.empty([-(-size // 128) for size in x.shape], np.float32)
    codes = np.empty(x.shape, np.uint8)
    order = np.array([code for code in np.argsort(e4m3_values(), kind="stable") if code & 0x7F != 0x7F])
    values = e4m3_values()[order]
    for i, j in np.ndindex(*scale.shape):
        block = np.s_[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
        scale[i, j] = np.maximum(np.abs(x[block]).max(), np.float32(1e-4)) / np.float32(448)
        if power_of_two:
            scale[i, j] = 2.0 ** np.ceil(np.log2(scale[i, j].astype(np.float64)))
        quotient = np.clip(x[block] / scale[i, j], -448, 448).astype(np.float64)
        above = np.clip(np.searchsorted(values, quotient), 1, len(values) - 1)
        low, high = order[above - 1], order[above]
        to_low, to_high = quotient - values[above - 1], values[above] - quotient
        nearest = np.where((to_low < to_high) | ((to_low == to_high) & (low % 2 == 0)), low, high)
        codes[block] = np.where(nearest & 0x7F, nearest, np.where(np.signbit(quotient), 0x80, 0))
    return torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scale)
