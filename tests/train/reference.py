"""A second training step, written from the reports and sharing no code with the first.

A trainer that is tested against itself (two runs, a resumed run, other micro-batches) may be wrong in the same way
every time. Here is one step of DeepSeek-V2's and V3's training in FP64 and plain autograd: loops over experts and
heads' einsums instead of kernels, `torch.optim.AdamW`, Muon's formula, and no module of ClearSeek but the recipe's
settings. What changes with the step (learning rate, MTP weight, bias speed) is given by the test as numbers.

Shapes: B sequences, S positions, T tokens, D hidden, H heads, N channels without position, P rotary channels,
V value channels, R latent rank, E experts, K experts per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.config import ModelConfig, Recipe


def per_matrix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """FP64 copies under Hugging Face's names, one tensor a matrix: stacked experts are taken apart."""
    apart: dict[str, Tensor] = {}
    for name, weight in weights.items():
        prefix, _, last = name.rpartition(".experts.")
        if last == "gate_up_proj":
            width = weight.shape[1] // 2
            for e, matrix in enumerate(weight):
                apart[f"{prefix}.experts.{e}.gate_proj"] = matrix[:width]
                apart[f"{prefix}.experts.{e}.up_proj"] = matrix[width:]
        elif last == "down_proj":
            apart |= {f"{prefix}.experts.{e}.down_proj": matrix for e, matrix in enumerate(weight)}
        else:
            apart[name.removesuffix(".weight")] = weight
    return {name: weight.detach().double().clone() for name, weight in apart.items()}


@dataclass
class Tally:
    """What one pass leaves beside its loss."""

    loads: list[Tensor] = field(default_factory=list)
    """Tokens per expert of each layer with experts."""
    balance: list[Tensor] = field(default_factory=list)
    """Sequence-wise balance loss of each layer with experts."""


class Model:
    """The forward pass of the reports, in FP64."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor]) -> None:
        self.config = config
        self.weights = {name: weight.requires_grad_() for name, weight in per_matrix(weights).items()}
        depth = config.num_hidden_layers + config.num_nextn_predict_layers
        self.moe = [i for i in range(depth) if i >= config.first_k_dense_replace]
        self.biases = {i: torch.zeros(config.n_routed_experts, dtype=torch.float64) for i in self.moe}

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return self.weights[name] * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    def _rotated(self, x_BSXP: Tensor) -> Tensor:
        """Turn channel pairs (0, 1), (2, 3), ... by position times frequency; with YaRN slow ones are stretched."""
        c = self.config
        half = c.qk_rope_head_dim // 2
        angles = []
        for i in range(half):
            frequency = c.rope_theta ** (-2 * i / c.qk_rope_head_dim)
            if c.rope_scaling is not None:
                y = c.rope_scaling
                low, high = (
                    c.qk_rope_head_dim * math.log(y.original_max_position_embeddings / (turns * 2 * math.pi))
                    / (2 * math.log(c.rope_theta)) for turns in (y.beta_fast, y.beta_slow)
                )  # fmt: skip
                low, high = max(math.floor(low), 0), min(math.ceil(high), c.qk_rope_head_dim - 1)
                stretched = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
                frequency = frequency / y.factor * stretched + frequency * (1 - stretched)
            angles.append(frequency)
        position_S = torch.arange(x_BSXP.shape[1], dtype=torch.float64)
        angle = position_S[:, None, None] * torch.tensor(angles, dtype=torch.float64)
        even, odd = x_BSXP[..., 0::2], x_BSXP[..., 1::2]
        turned = even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()
        return torch.stack(turned, dim=-1).flatten(-2)

    def _attention(self, layer: str, x_BSD: Tensor) -> Tensor:
        c, w = self.config, self.weights
        at = f"{layer}.self_attn"
        batch, length, _ = x_BSD.shape
        if c.q_lora_rank is None:
            q = x_BSD @ w[f"{at}.q_proj"].T
        else:
            q = self._norm(f"{at}.q_a_layernorm", x_BSD @ w[f"{at}.q_a_proj"].T, 1e-6) @ w[f"{at}.q_b_proj"].T
        q = q.view(batch, length, c.num_attention_heads, -1)
        q = torch.cat([q[..., : c.qk_nope_head_dim], self._rotated(q[..., c.qk_nope_head_dim :])], dim=-1)
        joint = x_BSD @ w[f"{at}.kv_a_proj_with_mqa"].T
        latent = self._norm(f"{at}.kv_a_layernorm", joint[..., : c.kv_lora_rank], 1e-6)
        shared = self._rotated(joint[..., c.kv_lora_rank :].unsqueeze(2))
        kv = (latent @ w[f"{at}.kv_b_proj"].T).view(batch, length, c.num_attention_heads, -1)
        k = torch.cat([kv[..., : c.qk_nope_head_dim], shared.expand(-1, -1, c.num_attention_heads, -1)], dim=-1)
        scale = (c.qk_nope_head_dim + c.qk_rope_head_dim) ** -0.5
        if c.rope_scaling is not None:
            scale *= (0.1 * c.rope_scaling.mscale_all_dim * math.log(c.rope_scaling.factor) + 1) ** 2
        scores = torch.einsum("bqhc,bkhc->bhqk", q, k) * scale
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        p = scores.masked_fill(future, -math.inf).softmax(-1)
        return torch.einsum("bhqk,bkhv->bqhv", p, kv[..., c.qk_nope_head_dim :]).flatten(2) @ w[f"{at}.o_proj"].T

    def _swiglu(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        suffix = "_proj"
        gate, up, down = (w[f"{name}.{part}{suffix}"] for part in ("gate", "up", "down"))
        return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def _chosen(self, layer: int, scores_E: Tensor) -> list[int]:
        """Experts of one token."""
        c = self.config
        v3 = c.topk_method == "noaux_tc"
        choice = (scores_E + self.biases[layer] if v3 else scores_E).tolist()
        size = c.n_routed_experts // c.n_group
        groups = [choice[g * size : (g + 1) * size] for g in range(c.n_group)]
        value = [sum(sorted(group)[-2:]) if v3 else max(group) for group in groups] if c.n_group > 1 else [0.0]
        kept = sorted(range(c.n_group), key=lambda g: -value[g])[: c.topk_group]
        allowed = [e for e in range(c.n_routed_experts) if e // size in kept]
        return sorted(allowed, key=lambda e: -choice[e])[: c.num_experts_per_tok]

    def _experts(self, layer: int, x_BSD: Tensor, tally: Tally) -> Tensor:
        c = self.config
        name = f"model.layers.{layer}.mlp"
        x_TD = x_BSD.flatten(0, 1)
        logits = x_TD @ self.weights[f"{name}.gate"].T
        scores = logits.sigmoid() if c.scoring_func == "sigmoid" else logits.softmax(-1)
        chosen = torch.tensor([self._chosen(layer, row) for row in scores.detach()])
        weight = scores.gather(1, chosen)
        if c.norm_topk_prob:
            weight = weight / weight.sum(-1, keepdim=True)
        if c.topk_method == "noaux_tc" or not c.norm_topk_prob:
            weight = weight * c.routed_scaling_factor
        y_TD = self._swiglu(f"{name}.shared_experts", x_TD)
        for e in range(c.n_routed_experts):
            token, place = (chosen == e).nonzero(as_tuple=True)
            out = self._swiglu(f"{name}.experts.{e}", x_TD[token]) * weight[token, place, None]
            y_TD = y_TD.index_add(0, token, out)
        tally.loads.append(torch.bincount(chosen.flatten(), minlength=c.n_routed_experts))
        tally.balance.append(self._balance(scores.view(*x_BSD.shape[:2], -1)))
        return y_TD.view(x_BSD.shape)

    def _balance(self, scores_BSE: Tensor) -> Tensor:
        """Equations 17-20, one sequence at a time."""
        c = self.config
        total = torch.zeros((), dtype=torch.float64)
        for scores_SE in scores_BSE:
            best = scores_SE.detach().topk(c.num_experts_per_tok, dim=-1).indices
            count = torch.bincount(best.flatten(), minlength=c.n_routed_experts).double()
            f = c.n_routed_experts / (c.num_experts_per_tok * len(scores_SE)) * count
            p = (scores_SE / scores_SE.sum(-1, keepdim=True)).mean(0)
            total = total + (f * p).sum()
        return total / len(scores_BSE)

    def _layer(self, i: int, x_BSD: Tensor, tally: Tally) -> Tensor:
        name, eps = f"model.layers.{i}", self.config.rms_norm_eps
        x_BSD = x_BSD + self._attention(name, self._norm(f"{name}.input_layernorm", x_BSD, eps))
        h_BSD = self._norm(f"{name}.post_attention_layernorm", x_BSD, eps)
        return x_BSD + (self._experts(i, h_BSD, tally) if i in self.moe else self._swiglu(f"{name}.mlp", h_BSD))

    def _head(self) -> Tensor:
        return self.weights["model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"]

    def hidden(self, tokens_BS: Tensor, tally: Tally) -> Tensor:
        """Final hidden states [B, S, D]."""
        x_BSD = self.weights["model.embed_tokens"][tokens_BS]
        for i in range(self.config.num_hidden_layers):
            x_BSD = self._layer(i, x_BSD, tally)
        return self._norm("model.norm", x_BSD, self.config.rms_norm_eps)

    def nats(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy((hidden @ self._head().T).flatten(0, -2), target.flatten())

    def losses(self, tokens_BX: Tensor, tally: Tally) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of the next token, and of the one after it."""
        c = self.config
        length = tokens_BX.shape[1] - 1 - c.num_nextn_predict_layers
        hidden = self.hidden(tokens_BX[:, :length], tally)
        main = self.nats(hidden, tokens_BX[:, 1 : length + 1])
        if not c.num_nextn_predict_layers:
            return main, None
        name = f"model.layers.{c.num_hidden_layers}"
        ahead = self._norm(
            f"{name}.enorm", self.weights["model.embed_tokens"][tokens_BX[:, 1 : length + 1]], c.rms_norm_eps
        )
        seen = self._norm(f"{name}.hnorm", hidden, c.rms_norm_eps)
        x = self._layer(
            c.num_hidden_layers, torch.cat([ahead, seen], dim=-1) @ self.weights[f"{name}.eh_proj"].T, tally
        )
        last = self._norm(f"{name}.shared_head.norm", x, c.rms_norm_eps)
        return main, self.nats(last, tokens_BX[:, 2 : length + 2])


@dataclass
class StepValues:
    """What a step showed."""

    loss: float
    mtp_loss: float | None
    norm: float
    """Of the gradient, before clipping."""
    loads: Tensor
    """Tokens per expert [L, E]."""


class Training:
    """Steps of a recipe, with the numbers that change from step to step given from outside."""

    def __init__(self, recipe: Recipe, weights: dict[str, Tensor]) -> None:
        self.recipe = recipe
        self.model = Model(recipe.model, weights)
        o = recipe.optimizer
        outside = ("embed_tokens", "lm_head", "mlp.gate")
        named = self.model.weights.items()
        self.muon = {
            name: torch.zeros_like(w)
            for name, w in named
            if o.name == "muon" and w.ndim == 2 and not name.endswith(outside)
        }
        apart = [name for name in self.model.weights if name.endswith("embed_tokens") and o.embedding_learning_rate]
        rest = {name: w for name, w in named if name not in self.muon and name not in apart}
        self.adamw = torch.optim.AdamW(
            [
                {"params": [self.model.weights[name] for name in apart], "weight_decay": 0.0},
                {"params": [w for w in rest.values() if w.ndim == 2], "weight_decay": o.weight_decay},
                {"params": [w for w in rest.values() if w.ndim == 1], "weight_decay": 0.0},
            ],
            lr=o.learning_rate, betas=o.betas, eps=o.eps,
        )  # fmt: skip

    def step(self, tokens_BX: Tensor, factor: float, mtp_weight: float, bias_speed: float) -> StepValues:
        """One optimiser step on a batch."""
        train, model = self.recipe.train, self.model
        size = train.micro_batch_size or train.batch_size
        count = train.batch_size // size
        shown, loads = [0.0, 0.0], torch.zeros(len(model.moe), self.recipe.model.n_routed_experts, dtype=torch.int64)
        for weight in model.weights.values():
            weight.grad = None
        for first in range(0, train.batch_size, size):
            tally = Tally()
            main, mtp = model.losses(tokens_BX[first : first + size], tally)
            total = main + train.balance_loss_weight * sum(tally.balance)
            if mtp is not None:
                total = total + mtp_weight * mtp
                shown[1] += mtp.item() / count
            (total / count).backward()
            shown[0] += main.item() / count
            loads += torch.stack(tally.loads)
        norm = self._clip()
        self._update(factor)
        if self.recipe.model.topk_method == "noaux_tc":
            for layer, load in zip(model.moe, loads.double(), strict=True):
                model.biases[layer] += bias_speed * torch.sign(load.mean() - load)
        mtp_loss = shown[1] if self.recipe.model.num_nextn_predict_layers else None
        return StepValues(shown[0], mtp_loss, norm, loads)

    def _clip(self) -> float:
        gradients = [weight.grad for weight in self.model.weights.values()]
        for name, weight in self.model.weights.items():
            if weight.grad is None:  # an expert that no token visited
                assert ".experts." in name
                weight.grad = torch.zeros_like(weight)
        norm = math.sqrt(sum(gradient.pow(2).sum().item() for gradient in gradients if gradient is not None))
        if norm > self.recipe.optimizer.grad_clip:
            for weight in self.model.weights.values():
                weight.grad *= self.recipe.optimizer.grad_clip / norm
        return norm

    @torch.no_grad()
    def _update(self, factor: float) -> None:
        o = self.recipe.optimizer
        for group in self.adamw.param_groups:
            group["lr"] = o.learning_rate * factor
        if o.embedding_learning_rate:
            self.adamw.param_groups[0]["lr"] = o.embedding_learning_rate * factor
        self.adamw.step()
        for name, momentum in self.muon.items():
            weight = self.model.weights[name]
            assert weight.grad is not None
            momentum.mul_(o.momentum).add_(weight.grad * (1 - o.momentum))
            direction = newton_schulz((1 - o.momentum) * weight.grad + o.momentum * momentum)
            rate = o.muon_learning_rate * factor
            weight -= rate * o.weight_decay * weight
            weight -= rate * 0.2 * math.sqrt(max(weight.shape)) * direction


def newton_schulz(x: Tensor) -> Tensor:
    """Five steps of Muon's quintic on a matrix, in its own type."""
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / x.norm().clamp(min=1e-7)  # an expert that no token visited has a gradient of zero
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x.T if tall else x
