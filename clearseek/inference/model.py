"""A model ready to answer: packed weights, tokenizer, and the fingerprint that its answers are recorded under."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.inference.engine import Engine, Forward
from clearseek.inference.packed import Packed, pack
from clearseek.inference.plain import Plain
from clearseek.inference.sampling import draws
from clearseek.inference.storage import Kind, wide
from clearseek.kernels import PAGE, launch
from clearseek.tensors import memory_tensors


@dataclass(frozen=True)
class Model:
    """A packed model with its tokenizer."""

    name: str
    packed: Packed
    tokenizer: Tokenizer
    weights_sha256: str
    """SHA-256 of the weights as they were read, in the order of their names."""

    @property
    def config(self) -> ModelConfig:
        return self.packed.config

    @staticmethod
    def of(
        name: str, config: ModelConfig, tensors: dict[str, Tensor], tokenizer: Tokenizer, kind: Kind,
        device: torch.device | None = None,
    ) -> Model:  # fmt: skip
        """Pack tensors by their memory names; each is given up when it is packed, so nothing is held twice."""
        digest = weights_hash(tensors)
        expected = {spec.name for spec in memory_tensors(config)}
        missing = sorted(expected - tensors.keys())
        if missing:
            raise UserError(f"{name}: no tensor {missing[0]} among the weights: the checkpoint is not whole")
        return Model(name, pack(config, lambda key: tensors.pop(key).to(device), kind), tokenizer, digest)

    def named(self, name: str) -> Model:
        """The same model under another name."""
        return replace(self, name=name)

    def without_drafts(self) -> Model:
        """The same model without its multi-token-prediction layer."""
        return replace(self, packed=replace(self.packed, draft=None))

    def engine(
        self, pages: int, rows: int = 256, longest: int | None = None, drafts: bool = True, most: int = 64
    ) -> Engine:
        """An engine with a cache of `pages` pages, for steps of at most `rows` tokens."""
        longest = self.config.max_position_embeddings if longest is None else longest
        forward = forward_of(self.packed, pages, rows, longest)
        return Engine(forward, most, drafts and self.packed.draft is not None)


def pages_for(packed: Packed, memory: int) -> int:
    """Pages that fit `memory` bytes, as :func:`forward_of` makes them."""
    layers = len(packed.layers) + (packed.draft is not None)
    cached = wide(packed.config.kv_lora_rank) + wide(packed.config.qk_rope_head_dim)
    return memory // (4 * PAGE * layers * cached)


def loops_run(packed: Packed) -> bool:
    """Whether the compiled loops can run a model here."""
    return packed.embedding.is_cpu and launch.unavailable() is None


def forward_of(packed: Packed, pages: int, rows: int, longest: int) -> Forward:
    """Compiled loops where they can be had, graphs of PyTorch's operations on a GPU, those operations elsewhere."""
    if loops_run(packed):
        from clearseek.inference.loops import Loops

        return Loops(packed, pages, rows, longest)
    if packed.embedding.is_cuda and packed.kind == "BF16":
        from clearseek.inference.graphs import Graphed

        return Graphed(packed, pages, rows, longest)
    return Plain(packed, pages, rows, longest)


def environment(packed: Packed) -> dict[str, str]:
    """What besides weights, prompt and settings decides an answer's bits."""
    found = {"weights stored as": packed.kind, "processor": platform.machine(), "draws": draws()}
    with suppress(importlib.metadata.PackageNotFoundError):  # it decides which tokens a schema allows
        found["llguidance"] = _version("llguidance")
    if loops_run(packed):
        return found | {"sums": "loops-1", "numba": _version("numba"), "numpy": _version("numpy")}
    return found | {"sums": "torch", "torch": torch.__version__, "device": _device(packed.embedding.device)}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors in the order of their names, as :attr:`Model.weights_sha256` has it."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
