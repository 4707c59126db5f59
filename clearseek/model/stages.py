"""A model cut into stages: what one process of a pipeline computes of a micro-batch.

Every stage knows the whole micro-batch, which any process can make; only hidden states travel. The first stage looks up
the embeddings of tokens i+1 too, which the multi-token-prediction module on the last stage joins (DeepSeek-V3 report,
section 2.2). Balance losses arise in every stage, and are differentiated there.

Shapes: B sequences, S positions, A look-ahead (1, or 2 with multi-token prediction), X = S + A, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from clearseek.model.layers import MTPLayer
from clearseek.model.transformer import DeepSeekModel, Losses, States
from clearseek.ops.dispatch import Routing
from clearseek.ops.rope import Places, places


class Made(NamedTuple):
    """What a stage makes of a micro-batch."""

    hidden_BSD: Tensor
    """The residual stream behind the stage's layers."""
    ahead_BSD: Tensor | None
    """Embeddings of tokens i+1 for the MTP module; None without one, or where they were not given."""
    balance: Tensor | None
    """Balance losses of the stage's layers times their factor, FP32 scalar; None in the last stage, whose loss has
    them, and where there are none."""
    losses: Losses | None
    """Of the last stage, without the other stages' balance losses."""
    routings: list[Routing]
    """Of each of the stage's layers with experts."""


class Stage(nn.Module):
    """Consecutive layers of a model.

    Args:
        model: The part of a model that this process holds.
        layers: The stage's decoder layers, without the MTP module's, which the last stage has besides.
        first: Whether the stage begins with token ids.
        last: Whether it ends with the loss.
    """

    def __init__(self, model: DeepSeekModel, layers: range, first: bool, last: bool) -> None:
        super().__init__()
        self.of, self.layers, self.first, self.last = model, layers, first, last
        main, depth = model.config.num_hidden_layers, model.config.num_nextn_predict_layers
        self._all = [*layers, *(range(main, main + depth) if last else ())]

    @property
    def expert_layers(self) -> list[int]:
        """The stage's layers with experts."""
        return [layer for layer in self._all if self.of.config.is_moe_layer(layer)]

    def own(self) -> set[str]:
        """Names of the parameters that the stage has."""
        starts = [f"model.layers.{layer}." for layer in self._all]
        starts += ["model.embed_tokens."] * self.first + ["model.norm.", "lm_head."] * self.last
        return {name for name, _ in self.of.named_parameters() if name.startswith(tuple(starts))}

    def forward(
        self, tokens_BX: Tensor, weight_BX: Tensor, hidden_BSD: Tensor | None, ahead_BSD: Tensor | None,
        balance_weight: float, mtp_weight: float,
    ) -> Made:  # fmt: skip
        """Run the stage.

        Args:
            tokens_BX: Token ids of the micro-batch.
            weight_BX: Weight of predicting each token, FP32.
            hidden_BSD: The stage before's; None in the first stage.
            ahead_BSD: Embeddings of tokens i+1; None in the first stage.
            balance_weight: As for :meth:`DeepSeekModel.loss`.
            mtp_weight: As for :meth:`DeepSeekModel.loss`.
        """
        config, net = self.of.config, self.of.model
        depth = config.num_nextn_predict_layers
        length = tokens_BX.shape[1] - 1 - depth
        at = places(config, 0, length, tokens_BX.device)
        weight_B = weight_BX[:, 1 : length + 1].sum(1) if balance_weight > 0 else None
        if self.first:
            hidden_BSD = net.embed_tokens(tokens_BX[:, :length])
            ahead_BSD = net.embed_tokens(tokens_BX[:, 1 : length + 1]) if depth else None
        assert hidden_BSD is not None
        hidden_BSD, routings = self._through(hidden_BSD, at, weight_B)
        if not self.last:
            return Made(hidden_BSD, ahead_BSD, _balance(routings, balance_weight), None, routings)
        main_BSD, mtp_BSD = net.norm(hidden_BSD), None
        if depth:
            layer: MTPLayer = net.layers[config.num_hidden_layers]  # type: ignore[assignment]
            assert ahead_BSD is not None
            mtp_BSD, routing = layer(ahead_BSD, main_BSD, at, weight_B)
            routings += [] if routing is None else [routing]
        states = States(main_BSD, mtp_BSD, routings)
        losses = self.of.losses(states, tokens_BX, weight_BX, balance_weight, mtp_weight)
        return Made(main_BSD, None, None, losses, routings)

    def predict(self, tokens_BS: Tensor, hidden_BSD: Tensor | None) -> Tensor:
        """Hidden states behind the stage's layers, in the last stage behind the norm too, as the model alone has."""
        at = places(self.of.config, 0, tokens_BS.shape[1], tokens_BS.device)
        hidden_BSD = self.of.model.embed_tokens(tokens_BS) if hidden_BSD is None else hidden_BSD
        hidden_BSD, _ = self._through(hidden_BSD, at, None)
        return self.of.model.norm(hidden_BSD) if self.last else hidden_BSD

    def _through(self, hidden_BSD: Tensor, at: Places, weight_B: Tensor | None) -> tuple[Tensor, list[Routing]]:
        routings: list[Routing] = []
        for number in self.layers:
            hidden_BSD, routing = self.of.model.layers[number](hidden_BSD, at, None, weight_B)
            routings += [] if routing is None else [routing]
        return hidden_BSD, routings


def _balance(routings: list[Routing], weight: float) -> Tensor | None:
    total: Tensor | None = None
    for routing in routings:
        if routing.balance_loss is not None:
            part = weight * routing.balance_loss
            total = part if total is None else total + part
    return total
