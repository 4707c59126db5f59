"""Expert-specialised tuning (ESFT): find the experts that a task uses, and train only those.

Experts specialise, and a task's tokens gather in few of them (Wang et al., 2024, arXiv 2407.01906, section 3). Over the
task's tokens each expert of a layer gets a score: the mean of its router weights (``gate``: equation 6), or its share
of the choices (``token``: equation 7). Scores are normalised *within the layer*, and of each layer those experts are
trained whose scores are highest and sum to p, as few as do. (The published script divides by sums over the layers,
which makes scores of a layer depend on the other layers.)

Shapes: B sequences, S inputs and X tokens of each, T = B * S tokens, K experts per token, L layers with experts, E
experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.errors import UserError, one_line
from clearseek.jsontext import strict_json
from clearseek.model.experts import Experts
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.task import Batch

Score = Literal["gate", "token"]
_FORMAT: Final = "clearseek-experts-1"


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
    """Tokens that were counted in every layer but the MTP layer."""

    def scores(self, score: Score) -> Tensor:
        """Scores of the experts, FP64 [L, E], with the sum 1 in each layer."""
        sums_LE = (self.gate_LE if score == "gate" else self.token_LE).double()
        return sums_LE / sums_LE.sum(1, keepdim=True)


@torch.no_grad()
def measure_usage(model: DeepSeekModel, batches: Iterable[Batch]) -> Usage:
    """Run a task's tokens through the model, and count which experts they visit.

    Prompts and answers count alike; padding (`valid_BX`) does not. In the MTP layer, which joins every token with the
    next, a token counts if the next is of the same document.

    Raises UserError where the model has no experts, the batches have no tokens, or a weight is not finite.
    """
    layers, device = experts_of(model), model.head_weight.device
    if not layers:
        raise UserError("this model has no layer with experts to choose from")
    experts, tokens = model.config.n_routed_experts, 0
    gate_LE = torch.zeros(len(layers), experts, dtype=torch.float64, device=device)
    token_LE = torch.zeros(len(layers), experts, dtype=torch.int64, device=device)
    for batch in (each.to(device) for each in batches):
        routings = model.states(batch.tokens_BX, start_BX=batch.start_BX, valid_BX=batch.valid_BX).routings
        counted = _counted(model.config, batch)
        tokens += int(counted[0].sum())
        for number, (routing, counted_T) in enumerate(zip(routings, counted, strict=True)):
            index_TK, weight_TK = routing.index_TK[counted_T], routing.weight_TK[counted_T].double()
            none_TE = torch.zeros(len(index_TK), experts, dtype=torch.float64, device=device)
            gate_LE[number] += none_TE.scatter(1, index_TK, weight_TK).sum(0)  # an index once in a row: order is free
            token_LE[number] += none_TE.scatter(1, index_TK, 1.0).sum(0).long()
    if not tokens:
        raise UserError("no tokens to choose experts by: all of the task's batches are empty or padding")
    if not gate_LE.isfinite().all():
        raise UserError("a router's weight is not finite: the model is damaged, or its training diverged")
    return Usage(layers, gate_LE.cpu(), token_LE.cpu(), tokens)


def experts_of(model: DeepSeekModel) -> tuple[str, ...]:
    """Names of all layers' experts, in the model's order, the MTP layer's last."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Experts))


def _counted(config: ModelConfig, batch: Batch) -> list[Tensor]:
    """Which of the tokens count in each layer with experts, bool [T]."""
    depth = config.num_nextn_predict_layers
    length = batch.tokens_BX.shape[1] - 1 - depth
    valid_BX = torch.ones_like(batch.tokens_BX, dtype=torch.bool) if batch.valid_BX is None else batch.valid_BX
    now, then = slice(length), slice(1, length + 1)
    joined_BS = valid_BX[:, now] & valid_BX[:, then]
    if batch.start_BX is not None:
        joined_BS &= batch.start_BX[:, now] == batch.start_BX[:, then]
    masks = [valid_BX[:, now]] * config.num_hidden_layers + [joined_BS] * depth
    return [mask.flatten() for layer, mask in enumerate(masks) if config.is_moe_layer(layer)]


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
