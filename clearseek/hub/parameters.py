"""Parameters of a config.json, whoever's model it describes: total, activated, and what each is counted by.

Three ways, cheapest first. DeepSeek's own architectures and the common decoders follow from their dimensions by
arithmetic (:mod:`clearseek.tensors`, :mod:`clearseek.hub.decoders`). Every other architecture that transformers knows
is built by its classes on the meta device, in a process of its own (:mod:`clearseek.hub.meta_device`). What neither
gives is an error with its reason: a count is never guessed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from clearseek.counts import Counted, ParameterCount, count_parameters
from clearseek.errors import UserError
from clearseek.hub.config_json import parse_hf_config
from clearseek.hub.decoders import decoder

SECONDS: Final = 90
"""Time that a count on the meta device may take."""
MOST_LAYERS: Final = 2_000
MOST_SIZE: Final = 10**10
"""More layers, or a larger size of anything, than a model has."""
MOST_VALUES: Final = 20_000
"""Values of a config.json that are handed on."""
_SIZE = re.compile("hidden_?size|d_model|n_embd|dim|layers?$|n_layer")
_WITHOUT: Final = "counting it needs transformers: pip install 'clearseek[hf]'"


def count_config(raw: dict[str, Any], where: Path, build: bool = True) -> Counted:
    """Count what a config.json describes.

    Args:
        raw: Its content.
        where: Its name, for errors.
        build: Whether a process may be started for what arithmetic does not give: it takes some seconds.

    Raises:
        UserError: it cannot be counted, and why.
    """
    model_type = raw.get("model_type")
    _bounded(raw, where)
    if model_type == "deepseek_v4":
        return _deepseek_v4(raw, where)
    if model_type == "deepseek_v32":
        return _deepseek_v32(raw, where)
    try:
        return of_count(count_parameters(parse_hf_config(raw, where)))
    except UserError:
        if (found := decoder(raw)) is not None:
            return found
    if not isinstance(model_type, str):
        raise UserError(f"{where}: states no model_type")
    if not any(_SIZE.search(name) and type(value) is int for name, value in _values(raw)):
        raise UserError(f"{where}: states no sizes of the model")
    if not build:
        raise UserError(f"{where}: parameters of model_type = {model_type[:60]!r} were not counted: none are stated")
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{where}: model_type = {model_type[:60]!r}: {_WITHOUT}")
    return _on_meta_device(raw, where)


def of_count(count: ParameterCount) -> Counted:
    """The count of one of our own configurations."""
    return Counted(count.total, count.embedding, count.head, count.activated, count.mtp)


def _bounded(raw: dict[str, Any], where: Path) -> None:
    """Refuse what would take time or memory without end."""
    for number, (name, value) in enumerate(_values(raw)):
        if number > MOST_VALUES:
            raise UserError(f"{where}: holds more than {MOST_VALUES:,} values, which no configuration does")
        if isinstance(value, int) and (value > MOST_SIZE or ("layer" in name and value > MOST_LAYERS)):
            raise UserError(f"{where}: {name[:60]} = {str(value)[:20]} is more than any model has")
        if isinstance(value, str) and len(value) > 10_000 and name != "chat_template":
            raise UserError(f"{where}: {name[:60]} is longer than a setting is")


def _values(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Plain values with their keys, from all levels."""
    inner = value.items() if isinstance(value, dict) else ((name, each) for each in value)
    for key, each in inner:
        if isinstance(each, dict | list) and depth < 20:
            yield from _values(each, key, depth + 1)
        else:
            yield key, each


def _on_meta_device(raw: dict[str, Any], where: Path) -> Counted:
    """Count by transformers, in a process that has a minute and no network."""
    program = Path(__file__).with_name("meta_device.py")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        environment["HF_HOME"] = folder
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(program)], input=json.dumps(raw).encode(), capture_output=True,
                timeout=SECONDS, cwd=folder, env=environment, check=False,
            )  # fmt: skip
            found = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise UserError(f"{where}: counting it took longer than {SECONDS} s") from None
        except (OSError, ValueError):
            raise UserError(f"{where}: counting it failed: it took too long or too much memory") from None
    kind = str(raw["model_type"])[:60]
    if "missing" in found:
        raise UserError(f"{where}: model_type = {kind!r}: {_WITHOUT}")
    if "error" in found:
        raise UserError(f"{where}: model_type = {kind!r}: transformers does not count it ({found['error']})")
    mtp = _nextn(raw)
    return Counted(
        found["total"], found["embedding"], found["head"], found["activated"],
        mtp * (found["layer"] + 2 * found["hidden"] ** 2), found["towers"], found["lookups"],
        f"transformers {found['version']} ({found['class']}, without weights)", tuple(found["defaults"]),
    )  # fmt: skip


def _nextn(raw: dict[str, Any]) -> int:
    """Layers of multi-token prediction."""
    names = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_hidden_layers")
    inner = raw.get("text_config")
    values = [raw.get(name) or (inner.get(name) if isinstance(inner, dict) else None) for name in names]
    return next((each for each in values if type(each) is int and 0 < each < 10), 0)


def _deepseek_v32(raw: dict[str, Any], where: Path) -> Counted:
    """DeepSeek-V3's tensors, and in each layer the indexer that chooses the tokens attended to (V3.2 report, 2.1)."""
    main = parse_hf_config({**raw, "model_type": "deepseek_v3"}, where)
    count = count_parameters(main)
    heads, width = (_size(raw, name, value, where) for name, value in (("index_n_heads", 64), ("index_head_dim", 128)))
    queries = main.q_lora_rank or main.hidden_size
    indexer = queries * heads * width + main.hidden_size * (width + heads) + 2 * width
    more = indexer * main.num_hidden_layers
    return Counted(
        count.total + more, count.embedding, count.head, count.activated + more,
        count.mtp + indexer * main.num_nextn_predict_layers, defaults=_left_out(raw, "index_n_heads", "index_head_dim"),
    )  # fmt: skip


_V4: Final = (
    "vocab_size", "hidden_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "q_lora_rank", "num_experts_per_tok", "n_routed_experts", "n_shared_experts", "hc_mult", "o_groups", "o_lora_rank",
    "index_n_heads", "index_head_dim",
)  # fmt: skip
_RATES: Final = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _deepseek_v4(raw: dict[str, Any], where: Path) -> Counted:
    """DeepSeek-V4: shared keys and values, compressed sparsely or heavily; experts; hyper-connections (report, 2).

    Experts in FP4 change what a parameter takes, not how many there are. Of hash routing the table of experts is fixed
    and counts no parameter, and no layer that routes by it has a balance bias.
    """
    V, H, I, L, heads, D, Q, k, E, shared, M, groups, O, index_heads, index_dim = (  # noqa: E741
        _size(raw, name, None, where) for name in _V4
    )
    rates = raw.get("compress_ratios") or [_RATES.get(str(each)) for each in raw.get("layer_types") or ()]
    hashed = raw.get("num_hash_layers", [*(raw.get("mlp_layer_types") or ())].count("hash_moe"))
    if len(rates) < L or any(rate not in _RATES.values() for rate in rates) or type(hashed) is not int:
        raise UserError(f"{where}: compress_ratios must give 0, 4 or 128 for each of the {L} layers")

    def compressor(rate: int, width: int) -> int:
        """Keys-and-values and gate, a bias for each place of a window, a norm; sparse ones overlap: twice as wide."""
        wide = width * (2 if rate == 4 else 1)
        return 2 * H * wide + rate * wide + width

    def layer(rate: int) -> int:
        attention = H * Q + Q + Q * heads * D + H * D + D + heads * D // groups * groups * O + groups * O * H + heads
        if rate:
            attention += compressor(rate, D)
        if rate == 4:
            attention += compressor(4, index_dim) + Q * index_heads * index_dim + H * index_heads
        streams = 2 * ((2 + M) * M * (M * H + 1) + 3)
        return attention + streams + 2 * H + E * H + 3 * H * I * (E + shared)

    ends = M * M * H + M + 1
    biases = E * max(0, L - hashed)
    total = 2 * V * H + sum(map(layer, rates[:L])) + H + ends + biases
    nextn = _nextn(raw)
    mtp = nextn * (layer(rates[L] if len(rates) > L else 0) + E + 2 * H * H + 3 * H + ends)
    unvisited = L * 3 * H * I * (E - k)
    return Counted(total, V * H, V * H, total - unvisited, mtp)


def _size(raw: dict[str, Any], name: str, otherwise: int | None, where: Path) -> int:
    value = raw.get(name, otherwise)
    if type(value) is not int or not 0 < value <= 10**7:
        raise UserError(f"{where}: {name} must be a positive number for this model_type, and is {str(value)[:40]!r}")
    return value


def _left_out(raw: dict[str, Any], *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in raw)
