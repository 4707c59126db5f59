"""Small random models, packed for the engine."""

from __future__ import annotations

from typing import Any

import torch

from clearseek.config import ModelConfig
from clearseek.inference.graphs import Captured, Graphed
from clearseek.inference.loops import Loops
from clearseek.inference.packed import Packed, pack
from clearseek.inference.plain import Plain
from clearseek.inference.storage import Kind
from clearseek.model.transformer import DeepSeekModel
from tests.model.test_parity import BASE

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "max_position_embeddings": 160,
    "initializer_range": 0.2,
    "num_nextn_predict_layers": 1,
}


def model_of(**changes: Any) -> DeepSeekModel:
    """A model with norms and balance biases that differ from channel to channel."""
    model = DeepSeekModel(ModelConfig(**(BASE | changes))).requires_grad_(False)
    model.initialise(seed=1)
    generator = torch.Generator().manual_seed(2)
    for buffer in model.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def packed(model: DeepSeekModel, kind: Kind = "F32") -> Packed:
    """The model's weights, packed."""
    return pack(model.config, dict(model.state_dict()).__getitem__, kind)


class OnACPU(Graphed):
    """The GPU's operations and rounded sizes; each replay computes anew."""

    def __init__(self, model: Packed, pages: int, rows: int, longest: int) -> None:
        super().__init__(model, pages, rows, longest)
        self.grouped = model.kind == "F32"

    def _capture(self, graph: Captured, drafting: bool) -> None:
        graph.replay = lambda: self._run(graph, drafting)


FORWARDS: dict[str, type[Loops] | type[Plain]] = {"loops": Loops, "plain": Plain, "graphs": OnACPU}
