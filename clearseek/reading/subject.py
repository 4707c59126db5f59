"""What the checks look at: a release taken apart once, each part with its error where it could not be read.

A file that is damaged must not stop an audit; the row that needs it says so. So everything here is either there, or
missing, or an error in words, and checks ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import Any, Generic, TypeVar

from clearseek.config import ModelConfig
from clearseek.counts import Counted, ParameterCount, count_parameters
from clearseek.errors import UserError
from clearseek.hub.config_json import parse_hf_config
from clearseek.hub.parameters import count_config
from clearseek.hub.safetensors import Entry, Header
from clearseek.reading.card import Document
from clearseek.reading.claims import Claim, find_claims
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.identity import Identity, identify, kin, stem
from clearseek.reading.repositories import Repository, read_address, repositories, submodules
from clearseek.reading.source import Source, prose
from clearseek.sysfiles import system_file

T = TypeVar("T")
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MOST_TENSORS = 2_000_000
"""Twenty times DeepSeek-V3's."""
MOST_ROWS = 10**9
MOST_LINKS = 20_000
"""Repositories of all documents that are looked at."""
_NO_WEIGHTS = re.compile(r"optim|buffers|rng|scheduler|training_args|tokeni[sz]er|trainer_state|random_states")
_NAMED_WEIGHTS = re.compile(
    r"(?:^|[-_.])(?:model|models|consolidated|weights?|ckpt|checkpoint|ggml|params)(?=[-_.\d])[\w.-]*"
    r"\.(?:bin|pt|pth|ckpt|npz|msgpack|h5|onnx)$"
)
_MAIN_FOLDERS = ("transformer", "unet", "model", "weights", "final")
"""Where releases that have no weights at their top hold the main ones."""
_DATA = re.compile(r"(?:^|/)(?:data(?:sets?)?|corpus|training_data)/")


def not_settings(path: str) -> bool:
    """Whether a file's name does not say that it holds settings, an optimiser's state, a tokenizer or data."""
    return not _NO_WEIGHTS.search(path.rpartition("/")[2].lower()) and not _DATA.search(path.lower())


def is_weights(path: str) -> bool:
    """Whether a file holds weights, by its name: not settings, an optimiser's state or tokens, which end alike."""
    base = path.rpartition("/")[2].lower()
    if system_file(base) or not not_settings(path):
        return False
    return base.endswith((".safetensors", ".gguf")) or _NAMED_WEIGHTS.search(base) is not None


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of a release: its value, or None with the error that stands in its way, or None for a part not there."""

    value: T | None
    error: str = ""


def attempt(make: Callable[[], T]) -> Part[T]:
    """Run `make`; a UserError becomes the part's error."""
    try:
        return Part(make())
    except UserError as error:
        return Part(None, str(error))


@dataclass(frozen=True, slots=True)
class Index:
    """An index of weights: what it says of files that may not be here."""

    tensors: dict[str, str]
    """Tensor -> file."""
    files: tuple[str, ...]
    size: int | None
    """Bytes of all tensors; None where it does not say."""


def _index(content: dict[str, Any]) -> Index:
    listed, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(f"{INDEX}: weight_map is missing or not a map of names")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, float) and size.is_integer():  # some programs write 6.5e9
        size = int(size)
    return Index(listed, tuple(sorted(set(listed.values()))), size if type(size) is int and size >= 0 else None)


def _bounded(config: ModelConfig) -> ModelConfig:
    """The configuration, if a model can have it: tables of its tensors are made, and a lie must not fill the memory."""
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    if layers * (20 + 3 * config.n_routed_experts) > MOST_TENSORS:
        raise UserError(
            f"{CONFIG}: {layers:,} layers with {config.n_routed_experts:,} experts are more than {MOST_TENSORS:,} "
            "tensors: no such model is looked at"
        )
    largest = max(config.vocab_size, config.hidden_size, config.intermediate_size, config.moe_intermediate_size)
    if largest > MOST_ROWS:
        raise UserError(f"{CONFIG}: a size of {largest:.3g} is more than any model has")
    return config


_BUFFER = re.compile(
    r"(?:(?:attention|attn)\.masked_bias|rotary_emb\.inv_freq|rotary_emb\.(?:cos|sin)_cached|"
    r"position_ids|num_batches_tracked|_scale_inv|\.g_idx|\.qzeros|\.scales|_scales|weight_scale|input_scale|"
    r"weight_zero_point|weight_shape|weight_scale_2|\.absmax|quant_map|quant_state\.\S+)$"
)
_PACKED = re.compile(r"(?:qweight|qzeros|_packed|_blocks|\.blocks)$")


def is_buffer(entry: Entry) -> bool:
    """Whether a tensor is no parameter: a mask or table that a program computes, or scales of quantised numbers."""
    if entry.name.endswith(("attention.bias", "attn.bias")):
        return len(entry.shape) == 4  # a causal mask; the bias of a layer is a vector
    return _BUFFER.search(entry.name) is not None


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a release by their headers."""

    headers: dict[str, Header]
    """File -> header, for those that could be read."""
    errors: dict[str, str]
    """File -> what is wrong with its header."""
    twice: tuple[str, ...]
    """Tensors that stand in two files."""

    @cached_property
    def tensors(self) -> dict[str, tuple[str, Entry]]:
        """Tensor -> its file and its entry."""
        return {entry.name: (file, entry) for file, header in self.headers.items() for entry in header.entries}

    @cached_property
    def parameters(self) -> dict[str, tuple[str, Entry]]:
        """The tensors that are parameters: masks and tables that a program computes, and scales, are none.

        Of packed numbers (see `packed`) an element is several parameters.
        """
        return {name: held for name, held in self.tensors.items() if not is_buffer(held[1])}

    @cached_property
    def packed(self) -> frozenset[str]:
        """Tensors whose elements hold several quantised numbers each."""
        kept = {name for name, (_, entry) in self.tensors.items() if entry.dtype in ("I32", "U32", "U8", "I8")}
        return frozenset(filter(_PACKED.search, kept))

    @property
    def complete(self) -> bool:
        """Whether every file could be read, and no tensor stands twice."""
        return bool(self.headers) and not self.errors and not self.twice


class Subject:
    """A release, taken apart as checks ask for it."""

    def __init__(self, source: Source, name: str = "", base: Source | None = None) -> None:
        """Take a release apart.

        Args:
            source: The release.
            name: The model's, where its card names several or none.
            base: The release that it may have been made from.
        """
        self.source = source
        self.base = None if base is None else Subject(base)
        self.given = name

    @cached_property
    def config_raw(self) -> Part[dict[str, Any]]:
        """config.json as it stands."""
        if CONFIG not in self.source.sizes:
            return Part(None)
        return attempt(lambda: self.source.json(CONFIG))

    @cached_property
    def config(self) -> Part[ModelConfig]:
        """config.json as a model that ClearSeek knows all tensors of."""
        raw, content = self.config_raw, self.config_raw.value
        if content is None:
            return Part(None, raw.error)
        return attempt(lambda: _bounded(parse_hf_config(content, Path(CONFIG))))

    @cached_property
    def repositories(self) -> tuple[Repository, ...]:
        """Repositories of models, data and code that the documents link to, clone or load."""
        linked = (each for document in self.documents for each in repositories(document))
        modules = self.source.readable(path for path in (".gitmodules",) if path in self.source.sizes)
        return tuple(islice(chain(linked, (each for document in modules for each in submodules(document))), MOST_LINKS))

    @cached_property
    def identity(self) -> Identity:
        """Which model this is, and who made it."""
        elements = sum(prod(entry.shape) for _, entry in self.weights.tensors.values())
        owner, _, name = self.source.repository.rpartition("/")
        return identify(
            self.card, self.metadata.value or {}, self.repositories, self.config_raw.value or {},
            self.given or name, owner, self.counts.total if self.counts is not None else elements,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The model's name: the user's, or by its card, its links or its configuration; never a folder's."""
        return self.identity.name

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the documents speak of this model; empty where nothing names it."""
        return self.identity.names

    def kin(self, name: str) -> str:
        """What a repository's name is to this model: ``same``, ``form``, ``variant``, or empty for another model."""
        found = [kin(name, each) for each in self.names]
        return next((each for each in ("same", "form", "variant") if each in found), "")

    def is_own(self, target: str) -> bool | None:
        """Whether a link leads to a repository of this model's maker, or to another's; None where that is unclear.

        A link without a host leads into the release itself, which is the maker's.
        """
        found = read_address(target)
        if found is None:
            return None if re.match(r"[a-z][a-z0-9+.-]{0,20}:|//|git@|www\.", target, re.I) else True
        _, owner, name = found
        root, makers = stem(owner), self.identity.makers
        if any(root == each or (min(len(root), len(each)) > 3 and (root.startswith(each) or each.startswith(root)))
               for each in makers):  # fmt: skip
            return True
        others, ours = self._spoken_of.get((owner, name), (False, False))
        return ours if others or ours else False if makers and not self.kin(name) else None

    @cached_property
    def _spoken_of(self) -> dict[tuple[str, str], tuple[bool, bool]]:
        """Owner and name of a repository -> whether all words around it are about others' work, or some say "our"."""
        out: dict[tuple[str, str], tuple[bool, bool]] = {}
        for each in self.repositories:
            others, ours = out.get((each.owner, each.name), (True, False))
            out[each.owner, each.name] = (others and each.others, ours or (each.ours and not each.others))
        return out

    @cached_property
    def counts(self) -> ParameterCount | None:
        """Parameters that the config stands for, where ClearSeek knows all tensors."""
        return None if self.config.value is None else count_parameters(self.config.value)

    @cached_property
    def counted(self) -> Part[Counted]:
        """Parameters that config.json stands for, of any architecture; the error says why they are not known.

        Where no figure is stated to compare them with, no process is started to count them.
        """
        raw, content = self.config_raw, self.config_raw.value
        if content is None:
            return Part(None, raw.error or "there is no config.json")
        return attempt(lambda: count_config(content, Path(CONFIG), bool(self.stated("total", "activated", "tokens"))))

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """Prose, the card first."""
        return tuple(self.source.document(path) for path in prose(self.source)[0])

    @cached_property
    def unread(self) -> str:
        """What of the documents was too much to read, in words; empty where all was read: "no" is said only then."""
        left = prose(self.source)[1]
        told = [f"{amount(len(left), 'text file')}, from {left[0]} on, are more than is read"] if left else []
        told += [f"{document.file}: {document.unread}" for document in self.documents if document.unread]
        return "; ".join(told)

    def heading(self, pattern: re.Pattern[str]) -> tuple[Document, int] | None:
        """The first heading, and its line, that matches in lower case and with dashes for spaces."""
        for document in self.documents:
            for block in document.blocks:
                if block.kind == "heading" and pattern.search(block.text.lower().replace(" ", "-")):
                    return document, block.line
        return None

    @cached_property
    def card(self) -> Document | None:
        """The README at the top of the release."""
        names = ("readme.md", "readme", "readme.txt")
        return next((each for each in self.documents if each.file.lower() in names), None)

    @cached_property
    def metadata(self) -> Part[dict[str, Any]]:
        """The card's YAML block."""
        card = self.card
        return Part(None) if card is None else attempt(lambda: card.metadata)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """Figures that the prose states about this model."""
        return tuple(claim for document in self.documents for claim in find_claims(document, *self.names))

    def stated(self, *kinds: str) -> tuple[Claim, ...]:
        """The claims of these kinds."""
        return tuple(claim for claim in self.claims if claim.kind in kinds)

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """The final weights: safetensors files at the top of the release, or where there is none, in its folders.

        A release may hold them twice, in its publisher's own layout beside the hub's: then the hub's are meant. Files
        that only point to weights are :attr:`pointed_weights`.
        """
        named = (path for path in self.source.find("*.safetensors") if is_weights(path))
        found = [path for path in named if self.source.pointer(path) is None]
        top = [path for path in found if "/" not in path and path not in self.second_copy]
        folders = ([path for path in found if path.rpartition("/")[0] == folder] for folder in _MAIN_FOLDERS)
        return tuple(top or next(filter(None, folders), ()))

    @cached_property
    def pointed_weights(self) -> tuple[str, ...]:
        """Pointers to files of weights, of any format, in a copy that was made without large files."""
        named = (path for path in self.source.sizes if is_weights(path))
        return tuple(path for path in named if self.source.pointer(path) is not None)

    @cached_property
    def index(self) -> Part[Index]:
        """The index of the weights."""
        if INDEX not in self.source.sizes:
            return Part(None)
        return attempt(lambda: _index(self.source.json(INDEX)))

    @cached_property
    def absent_shards(self) -> tuple[str, ...]:
        """Files that the index names and this copy does not have, not even as pointers."""
        named = self.index.value.files if self.index.value is not None else ()
        return tuple(file for file in named if file not in self.source.sizes)

    @cached_property
    def second_copy(self) -> tuple[str, ...]:
        """Files of weights that stand beside the same in the hub's layout."""
        top = [path for path in self.source.find("*.safetensors") if "/" not in path]
        beside = any(path.startswith("model") for path in top)
        return tuple(path for path in top if beside and path.startswith("consolidated"))

    @cached_property
    def weights(self) -> Weights:
        """Headers of the final weights."""
        parts = {file: attempt(partial(self.source.header, file)) for file in self.weight_files}
        headers = {file: part.value for file, part in parts.items() if part.value is not None}
        seen: dict[str, str] = {}
        twice = tuple(
            f"{entry.name} in {seen[entry.name]} and {file}"
            for file, header in headers.items()
            for entry in header.entries
            if seen.setdefault(entry.name, file) != file
        )
        return Weights(headers, {file: part.error for file, part in parts.items() if part.error}, twice)

    def config_key(self, key: str) -> Evidence:
        """A top-level key of config.json as evidence."""
        raw = self.config_raw.value or {}
        return self.source.key(CONFIG, key, raw.get(key))
