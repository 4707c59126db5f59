"""Expert-specialised tuning (ESFT): find the experts that a task uses, and train only those.

Experts specialise, and a task's tokens gather in few of them (Wang et al., 2024, arXiv 2407.01906, section 3). Over the
task's tokens each expert of a layer gets a score: the mean of its router weights (``gate``: equation 6), or its share
of the choices (``token``: equation 7). Scores are normalised *within the layer*, and of each layer those experts are
trained whose scores are highest and sum to p, as few as do. (The published script divides by sums over the layers,
which makes scores of a layer depend on the other layers.)

Shapes: B sequences, X tokens of each, T tokens, K experts per token, L layers with experts, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.errors import UserError, one_line
from clearseek.jsontext import strict_json
from clearseek.model.experts import Experts
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.dispatch import Routing

Score = Literal["gate", "token"]
_FORMAT: Final = "clearseek-experts-1"


class Tokens(NamedTuple):
    """Some of a task's tokens, as they are trained on."""

    tokens_BX: Tensor
    """Token ids, int64."""
    real_BX: Tensor
    """Which of them are prompts and answers, bool: not padding."""
    start_BX: Tensor | None = None
    """First position of each token's document (see :class:`clearseek.train.task.Batch`)."""


@dataclass(frozen=True)
class Usage:
    """How a task's tokens used the experts of each layer."""

    layers: tuple[str, ...]
    """Names of the layers' experts, such as ``model.layers.3.mlp.experts``; the MTP layer's last."""
    gate_LE: Tensor
    """Sum of each expert's router weights, FP64."""
    token_LE: Tensor
    """How often each expert was chosen, int64."""
    tokens: int
    """Tokens that were counted in each layer but the MTP layer."""

    def scores(self, score: Score) -> Tensor:
        """Scores of the experts, FP64 [L, E], with the sum 1 in each layer."""
        sums_LE = (self.gate_LE if score == "gate" else self.token_LE).double()
        return sums_LE / sums_LE.sum(1, keepdim=True)


@torch.no_grad()
def measure_usage(model: DeepSeekModel, batches: Iterable[Tokens]) -> Usage:
    """Run a task's tokens through the model, and count which experts they visit.

    Raises UserError where the model has no experts, the batches have no tokens, or a weight is not finite.
    """
    layers, device = experts_of(model), model.head_weight.device
    if not layers:
        raise UserError("this model has no layer with experts to choose from")
    experts, tokens = model.config.n_routed_experts, 0
    gate_LE = torch.zeros(len(layers), experts, dtype=torch.float64, device=device)
    token_LE = torch.zeros(len(layers), experts, dtype=torch.int64, device=device)
    for batch in batches:
        tokens_BX, real_BX, start_BX = (None if each is None else each.to(device) for each in batch)
        assert tokens_BX is not None and real_BX is not None
        with _watched(model) as routings:
            model.loss(tokens_BX, mtp_weight=1.0, start_BX=start_BX)
        real_layers = _real_of_layers(model.config, real_BX)
        tokens += int(real_layers[0].sum())
        for number, (routing, real_T) in enumerate(zip(routings, real_layers, strict=True)):
            index_TK, weight_TK = routing.index_TK[real_T], routing.weight_TK[real_T].double()
            gate_TE = torch.zeros(len(index_TK), experts, dtype=torch.float64, device=device)
            gate_LE[number] += gate_TE.scatter(1, index_TK, weight_TK).sum(0)  # an index once in a row: order is free
            token_LE[number] += gate_TE.scatter(1, index_TK, 1.0).sum(0).long()
    if not tokens:
        raise UserError("no tokens to choose experts by: all of the task's batches are empty or padding")
    if not gate_LE.isfinite().all():
        raise UserError("a router's weight is not finite: the model is damaged, or its training diverged")
    return Usage(layers, gate_LE.cpu(), token_LE.cpu(), tokens)


def experts_of(model: DeepSeekModel) -> tuple[str, ...]:
    """Names of all layers' experts, in the model's order, the MTP layer's last."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Experts))


@contextmanager
def _watched(model: DeepSeekModel) -> Iterator[list[Routing]]:
    """The routing of each layer with experts, in the order in which tokens visit them, once the block has run."""
    routings: list[Routing] = []
    handles = [
        layer.gate.register_forward_hook(lambda module, inputs, routing: routings.append(routing))
        for layer in model.moe_layers
    ]
    try:
        yield routings
    finally:
        for handle in handles:
            handle.remove()


def _real_of_layers(config: ModelConfig, real_BX: Tensor) -> list[Tensor]:
    """Which rows of each layer's routing are real tokens; the MTP layer joins every token with the one before."""
    depth = config.num_nextn_predict_layers
    length = real_BX.shape[1] - 1 - depth
    main = [real_BX[:, :length].flatten()] * sum(map(config.is_moe_layer, range(config.num_hidden_layers)))
    mtp = [(real_BX[:, :length] & real_BX[:, 1 : length + 1]).flatten()] * depth
    return [*main, *(mtp if config.is_moe_layer(config.num_hidden_layers) else [])]


@dataclass(frozen=True)
class Chosen:
    """The experts of each layer that a task trains."""

    layers: Mapping[str, tuple[int, ...]]
    """Numbers of the chosen experts, ascending, by the name of the layer's experts."""
    score: Score
    """What they were chosen by."""
    p: float
    """Sum that the scores of a layer's chosen experts reach."""
    tokens: int
    """Tokens that were counted."""

    def rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names of the stacked parameters, each with the experts that are trained: indices of its first dimension."""
        stacks = ("gate_up_proj", "down_proj")
        return [(f"{layer}.{stack}", experts) for layer, experts in self.layers.items() for stack in stacks]

    def to_json(self) -> str:
        """As JSON, the same text for the same choice."""
        layers = {name: list(experts) for name, experts in self.layers.items()}
        content = {"format": _FORMAT, "score": self.score, "p": self.p, "tokens": self.tokens, "layers": layers}
        return json.dumps(content, indent=2) + "\n"

    @staticmethod
    def from_json(raw: bytes, where: str, config: ModelConfig) -> Chosen:
        """Read what :meth:`to_json` wrote, for a model of these dimensions.

        Raises UserError, which begins with `where` and names the key that is wrong.
        """
        content = strict_json(raw, where)

        def refuse(key: str, should: str) -> UserError:
            return UserError(f"{where}: {key} = {one_line(json.dumps(content.get(key)))[:60]}: it must be {should}")

        if content.get("format") != _FORMAT:
            raise refuse("format", f"{_FORMAT!r}")
        if content.get("score") not in get_args(Score):
            raise refuse("score", "gate or token")
        if type(content.get("p")) not in (int, float) or not 0 < content["p"] <= 1:
            raise refuse("p", "above 0 and at most 1")
        if type(content.get("tokens")) is not int or content["tokens"] < 1:
            raise refuse("tokens", "a whole number from 1 up")
        if not isinstance(layers := content.get("layers"), dict):
            raise refuse("layers", "an object of lists of experts by layer")
        depth = config.num_hidden_layers + config.num_nextn_predict_layers
        names = [f"model.layers.{i}.mlp.experts" for i in range(depth) if config.is_moe_layer(i)]
        for name, experts in layers.items():
            if name not in names:
                raise UserError(f"{where}: layers: {one_line(name)[:60]}: this model has no such layer with experts")
            if not _are_experts(experts, config.n_routed_experts):
                most = config.n_routed_experts - 1
                raise UserError(f"{where}: layers: {name}: must list experts from 0 to {most}, ascending, each once")
        ordered = {name: tuple(layers[name]) for name in names if name in layers}
        return Chosen(ordered, content["score"], content["p"], content["tokens"])


def _are_experts(value: Any, count: int) -> bool:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < count for each in value):
        return False
    return value == sorted(set(value)) and len(value) > 0


def choose_experts(usage: Usage, score: Score, p: float) -> Chosen:
    """Of each layer, the fewest experts whose scores sum to at least `p`.

    Sums and comparisons are exact, and `p` is the decimal number as written. Of experts with equal scores the lowest
    numbers are taken.

    Args:
        usage: What the task's tokens visited.
        score: What to choose by.
        p: Above 0 and at most 1; 1 takes every expert that was visited.

    Raises:
        UserError: `p` is out of range, or a layer saw no tokens.
    """
    if not 0 < p <= 1:
        raise UserError(f"experts.p = {p}: use a number above 0 and up to 1")
    sums_LE = usage.gate_LE if score == "gate" else usage.token_LE
    layers = {name: _fewest(name, sums_E, p) for name, sums_E in zip(usage.layers, sums_LE.tolist(), strict=True)}
    return Chosen(layers, score, p, usage.tokens)


def _fewest(layer: str, sums_E: Sequence[float], p: float) -> tuple[int, ...]:
    exact = [Fraction(each) for each in sums_E]
    missing = Fraction(str(p)) * sum(exact)
    if missing <= 0:
        raise UserError(f"{layer}: no tokens to choose experts by")
    taken: list[int] = []
    for expert in sorted(range(len(exact)), key=lambda each: (-exact[each], each)):
        if missing <= 0:
            break
        taken.append(expert)
        missing -= exact[expert]
    return tuple(sorted(taken))
