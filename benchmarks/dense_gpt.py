"""A dense GPT by nanochat's recipe, in our words: a contender of `time_to_loss.py`.

From github.com/karpathy/nanochat (nanochat/gpt.py, nanochat/muon.py, scripts/base_train.py): rotary positions, RMSNorm
without weights also after the embedding and on queries and keys, ReLU² with four times the width, an untied head whose
logits are capped at 15, output projections and head that begin at zero; Muon for the matrices of the layers with a
momentum that rises from 0.85 to 0.95 over 300 steps and no weight decay, AdamW for embedding and head with rates that
fall with the square root of the width, gradients clipped at 1, and rates that fall to a twentieth over the last 65 % of
the steps. Later additions of that project (value embeddings, scalars on the residual stream, sliding windows) are not
part of it. Matrices of one shape are orthogonalised together, by our function.

Shapes: B sequences, S tokens, H heads, D channels a head, W channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearseek.train.muon import orthogonalise

CAP = 15.0
RATES = {"matrices": 0.02, "embedding": 0.2, "head": 0.004}
"""Peak rates at a width of 768."""


@dataclass(frozen=True)
class Shape:
    """Dimensions."""

    vocabulary: int
    width: int
    layers: int
    heads: int

    @property
    def active(self) -> int:
        """Parameters that a token is multiplied with: all but the embedding."""
        return 12 * self.width**2 * self.layers + self.vocabulary * self.width


def shape_of(active: int, vocabulary: int, layers: int, head: int = 32) -> Shape:
    """The shape of so many layers whose active parameters are nearest to a number."""
    shapes = (Shape(vocabulary, heads * head, layers, heads) for heads in range(1, 65))
    return min(shapes, key=lambda shape: abs(shape.active - active))


def norm(x: Tensor) -> Tensor:
    """RMSNorm without weights."""
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x_BSHD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Rotary positions, the two numbers of a pair half a head apart."""
    first, second = x_BSHD.chunk(2, dim=-1)
    cos, sin = cos_SD[:, None], sin_SD[:, None]
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


class Layer(nn.Module):
    """Attention, then ReLU²."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, width = shape.heads, shape.width
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BSW: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
        """One layer."""
        h_BSW = norm(x_BSW)
        q, k, v = (each(h_BSW).unflatten(-1, (self.heads, -1)) for each in (self.q, self.k, self.v))
        q, k = norm(rotate(q, cos_SD, sin_SD)), norm(rotate(k, cos_SD, sin_SD))
        q, k = q.to(v.dtype), k.to(v.dtype)
        y_BHSD = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), is_causal=True)
        x_BSW = x_BSW + self.o(y_BHSD.transpose(1, 2).flatten(2))
        return x_BSW + self.down(F.relu(self.up(norm(x_BSW))).square())


class DenseGpt(nn.Module):
    """The model."""

    def __init__(self, shape: Shape, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        size = shape.width // shape.heads
        angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(0, size, 2) / size))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """First weights."""
        generator = torch.Generator().manual_seed(seed)
        self.embedding.weight.normal_(generator=generator)
        for layer in self.layers:
            for matrix in (layer.q, layer.k, layer.v, layer.up):
                rows, columns = matrix.weight.shape
                deviation = min(1.0, (rows / columns) ** 0.5) / columns**0.5
                matrix.weight.normal_(std=deviation, generator=generator)
            layer.o.weight.zero_()
            layer.down.weight.zero_()
        self.head.weight.zero_()

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Capped logits, FP32."""
        length = tokens_BS.shape[1]
        x_BSW = norm(self.embedding(tokens_BS))
        for layer in self.layers:
            x_BSW = layer(x_BSW, self.cos[:length], self.sin[:length])
        return CAP * torch.tanh(self.head(norm(x_BSW)).float() / CAP)

    def forward(self, tokens_BS: Tensor, target_BS: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self.logits(tokens_BS).flatten(0, 1), target_BS.flatten())


class Optimizer:
    """Muon for matrices of layers, AdamW for embedding and head, for a number of steps.

    Args:
        model: What it trains.
        factor: Factor on all peak rates.
        steps: Length of the run.
        products: Type of the Newton-Schulz products.
    """

    def __init__(self, model: DenseGpt, factor: float, steps: int, products: torch.dtype) -> None:
        self.model, self.factor, self.steps, self.products = model, factor, steps, products
        self.shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in model.layers.parameters():
            self.shapes[parameter.shape].append(parameter)
        self.momentum = {parameter: torch.zeros_like(parameter) for parameter in model.layers.parameters()}
        wide = (model.embedding.embedding_dim / 768) ** -0.5
        peaks = {name: factor * RATES[name] * wide for name in ("embedding", "head")}
        groups = [{"params": [getattr(model, name).weight], "lr": peak, "peak": peak} for name, peak in peaks.items()]
        self.adamw = torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Take a step, the first of which is 0."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        left = (self.steps - number) / max(1, round(0.65 * self.steps))
        multiplier = 1.0 if left >= 1 else left + (1 - left) * 0.05
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * multiplier
        self.adamw.step()
        kept = 0.85 + 0.1 * min(1.0, number / 300)
        for (rows, columns), parameters in self.shapes.items():
            updates = []
            for parameter in parameters:
                assert parameter.grad is not None
                buffer = self.momentum[parameter].lerp_(parameter.grad, 1 - kept)
                updates.append(parameter.grad.lerp(buffer, kept))
            found = orthogonalise(torch.stack(updates), self.products).float()
            rate = self.factor * RATES["matrices"] * multiplier * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(parameters, list(found.unbind()), alpha=-rate)
        self.model.zero_grad(set_to_none=True)
