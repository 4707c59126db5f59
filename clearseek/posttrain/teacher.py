"""The model that another one learns from: it is read once, checked, and never trained.

A teacher and its student must mean the same by a token, or one's probabilities say nothing about the other's: the
SHA-256 of their tokenizer.json must be the same, and so must be the rows of their output heads. A teacher is a run
folder, an exported folder or a release, which our model computes; a folder of another architecture is computed by
transformers (extra ``hf``), from safetensors alone and without code of the folder's own.

Shapes: B sequences, S positions, T = B * S tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clearseek.config import DistilConfig
from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.hub.config_json import ARCHITECTURES, SAME_MODEL
from clearseek.jsontext import strict_json
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.parent import tokenizer_file, weights_of
from clearseek.train.chunks import hash_tensors

_CONFIG = "config.json"


class Network(Protocol):
    """What a teacher computes with."""

    @property
    def head_weight(self) -> Tensor:
        """Output head [V, D]: logits are its product with the final hidden states."""

    def __call__(self, tokens_BS: Tensor) -> Tensor:
        """Final hidden states [B, S, D]."""


@dataclass(frozen=True)
class Teacher:
    """A model that is only read."""

    name: str
    weights_sha256: str
    """SHA-256 of its FP32 weights and balance biases, as transcripts state it."""
    tokenizer_sha256: str
    network: Network

    def record(self) -> dict[str, str]:
        """What a run says of its teacher."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
        }

    def on(self, device: torch.device, dtype: torch.dtype) -> Network:
        """The network on a device and in a type; the routers' balance biases stay FP32."""
        network, head = self.network, self.network.head_weight
        if isinstance(network, nn.Module) and (head.device, head.dtype) != (device, dtype):
            network.to(device)
            for parameter in network.parameters():
                parameter.data = parameter.data.to(dtype)
        return network


def open_teacher(settings: DistilConfig, tokenizer_sha256: str, vocab_size: int) -> Teacher:
    """The teacher that a recipe names, in FP32 on the CPU.

    Args:
        settings: The recipe's table.
        tokenizer_sha256: SHA-256 of the student's tokenizer.json.
        vocab_size: Rows of the student's output head.

    Raises:
        UserError: there is no such model, its tokens are not the student's, or its weights are not those that the
            recipe names.
    """
    folder = Path(settings.teacher)
    found = _tokenizer_sha256(folder)
    if found != tokenizer_sha256:
        raise UserError(
            f"{folder}: the teacher's tokenizer.json has the SHA-256 {found[:16]}…, and the student's "
            f"{tokenizer_sha256[:16]}…: distributions over other tokens cannot be compared; give a teacher of the same "
            'tokenizer, or learn its texts with distil.form = "text" from an endpoint'
        )
    network, tensors, name = _read(folder)
    rows = network.head_weight.shape[0]
    if rows != vocab_size:
        raise UserError(
            f"{folder}: the teacher's output head has {rows} rows, and the student's model.vocab_size is {vocab_size}: "
            "give a teacher of the same vocabulary"
        )
    sha256 = hash_tensors(tensors.items())
    if settings.teacher_sha256 not in (None, sha256):
        raise UserError(
            f"{folder}: its weights have the SHA-256 {sha256}, and distil.teacher_sha256 is {settings.teacher_sha256}: "
            "give the right folder, or change the recipe"
        )
    return Teacher(name, sha256, found, network)


def _tokenizer_sha256(folder: Path) -> str:
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.hub.tokenizer_files import refuse_without_tokenizer

    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}: give a run folder, an exported folder or a release as distil.teacher")
    refuse_without_tokenizer(folder)
    return Tokenizer.load(tokenizer_file(folder)).sha256


def _read(folder: Path) -> tuple[Any, dict[str, Tensor], str]:
    """Network, tensors and name of the model in a folder."""
    if (folder / _CONFIG).is_file() and not _is_ours(folder / _CONFIG):
        network = _foreign(folder)
        return network, dict(network.whole.state_dict()), folder.resolve().name
    config, groups, said = weights_of(folder)
    with torch.device("meta"):
        model = DeepSeekModel(config)
    tensors = {name: tensor for group in groups.values() for name, tensor in group.items()}
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: not of the dimensions that it states: {error!s:.200}") from None
    return model.requires_grad_(False), tensors, said["name"]


def _is_ours(file: Path) -> bool:
    """Whether a config.json is of an architecture that our model computes."""
    with reading(file):
        raw = strict_json(file.read_bytes(), str(file))
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    return not isinstance(kind, str) or kind in ARCHITECTURES or kind in SAME_MODEL


class _Foreign(nn.Module):
    """A causal language model of transformers behind the interface of ours."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole

    @property
    def head_weight(self) -> Tensor:
        """The output head [V, D]."""
        head: Tensor = self.whole.get_output_embeddings().weight
        return head

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Final hidden states [B, S, D]."""
        hidden_BSD: Tensor = self.whole.base_model(input_ids=tokens_BS, use_cache=False).last_hidden_state
        return hidden_BSD


def _foreign(folder: Path) -> _Foreign:
    """A model that only transformers computes. Raises UserError where its logits are not its head's product."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{folder}: not DeepSeek's architecture: it needs transformers: pip install 'clearseek[hf]'")
    from transformers import AutoModelForCausalLM

    try:
        whole: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # whatever a class of another's raises
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: transformers does not read it as a causal language model: {reason}") from None
    network = _Foreign(whole.eval().requires_grad_(False))
    tokens_BS = torch.arange(min(64, network.head_weight.shape[0])).unsqueeze(0)
    with torch.no_grad():
        whole_BSV, ours_BSV = whole(input_ids=tokens_BS).logits, network(tokens_BS) @ network.head_weight.T
    if not torch.allclose(whole_BSV, ours_BSV, rtol=1e-4, atol=1e-4):
        raise UserError(
            f"{folder}: its logits are not its head's product with the final hidden states ({type(whole).__name__} "
            'scales or caps them): such a teacher can only write texts, with distil.form = "text" behind an endpoint'
        )
    return network
