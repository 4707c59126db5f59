"""From gradients to new weights: FP32 master weights under AdamW or Muon.

The model computes in BF16 and the optimiser in FP32: it owns a master copy of every weight, takes FP32 gradients, and
rounds the result back into the model (DeepSeek-V3 report, section 3.3.1). A model that is already FP32 is its own
master. Matrices have weight decay, vectors have none. Under Muon, the matrices inside the layers (attention, dense
and expert projections) are Muon's; embedding, head, router and norms stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clearseek.config import OptimizerConfig
from clearseek.errors import UserError
from clearseek.train.adamw import AdamW
from clearseek.train.muon import Muon


def _is_muon_matrix(name: str, parameter: Tensor) -> bool:
    outside = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")
    return parameter.ndim >= 2 and not name.endswith(outside)


def _as_matrices(name: str, stacked: Tensor) -> Tensor:
    """Gate and up projections share a tensor [E, 2I, D] but are two matrices each: [2E, I, D]."""
    if not name.endswith("experts.gate_up_proj"):
        return stacked
    experts, rows, columns = stacked.shape
    return stacked.view(2 * experts, rows // 2, columns)


class MasterOptimizer:
    """Optimiser over FP32 masters of a model's parameters.

    Args:
        parameters: Names and parameters of the model, in a fixed order.
        config: Which optimiser, and its settings.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> None:
        self.config = config
        self.names, self.parameters = map(list, zip(*parameters, strict=True))
        self.masters = [p.detach() if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
        muon: list[Tensor] = []
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        self._views: list[Tensor] = []
        for name, master in zip(self.names, self.masters, strict=True):
            use_muon = config.name == "muon" and _is_muon_matrix(name, master)
            view = _as_matrices(name, master) if use_muon else master
            (muon if use_muon else decayed if master.ndim > 1 else plain).append(view)
            self._views.append(view)
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._muon_ids = {id(view) for view in muon}
        self._adamw = AdamW(
            [group for group in groups if group["params"]],
            torch.float32 if config.moments == "fp32" else torch.bfloat16,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
        )
        computes_in = self.parameters[0].dtype
        rates = config.muon_learning_rate, computes_in, config.momentum, config.weight_decay
        self._muon = Muon(muon, *rates) if muon else None

    @torch.no_grad()
    def step(self, gradients: list[Tensor], norm: Tensor, multiplier: float) -> None:
        """Clip, update the masters, round them into the model.

        Args:
            gradients: FP32, in the order of the parameters; they are scaled in place.
            norm: Their :func:`gradient_norm`.
            multiplier: The schedule's factor on the learning rates.
        """
        torch._foreach_mul_(gradients, (self.config.grad_clip / (norm + 1e-6)).clamp(max=1.0))
        for view, gradient in zip(self._views, gradients, strict=True):
            view.grad = gradient.view(view.shape)
        for optimizer, rate in ((self._adamw, self.config.learning_rate), (self._muon, self.config.muon_learning_rate)):
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate * multiplier
                optimizer.step()
        for view in self._views:
            view.grad = None
        self.round_into_model()

    @torch.no_grad()
    def round_into_model(self) -> None:
        """Give the model the masters, in its own precision."""
        torch._foreach_copy_(self.parameters, self.masters)

    def weights(self) -> dict[str, Tensor]:
        """The FP32 masters by parameter name."""
        return dict(zip(self.names, self.masters, strict=True))

    def state(self) -> dict[str, Tensor]:
        """The optimisers' own tensors, by ``parameter.slot``; empty before the first step."""
        tensors: dict[str, Tensor] = {}
        for name, master, view in zip(self.names, self.masters, self._views, strict=True):
            for slot, value in self._owner(view).state[view].items():
                tensors[f"{name}.{slot}"] = value.view(master.shape) if value.ndim else value
        return tensors

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Restore what :meth:`weights` and :meth:`state` returned, and round the masters into the model.

        Raises UserError if they are of another model or optimiser.
        """
        for name, master, view in zip(self.names, self.masters, self._views, strict=True):
            owner = self._owner(view)
            slots = ("momentum_buffer",) if owner is self._muon else ("step", "exp_avg", "exp_avg_sq")
            missing = [key for key in (name,) if key not in weights] + [
                key for slot in slots if (key := f"{name}.{slot}") not in state
            ]
            if missing or weights[name].shape != master.shape:
                raise UserError(
                    f"the checkpoint does not fit the recipe: {(missing or [name])[0]} is missing or misshapen"
                )
            master.copy_(weights[name])
            values = {slot: state[f"{name}.{slot}"] for slot in slots}
            owner.state[view] = {slot: _placed(v, view) for slot, v in values.items()}
        self.round_into_model()

    def _owner(self, view: Tensor) -> AdamW | Muon:
        muon = self._muon
        return muon if muon is not None and id(view) in self._muon_ids else self._adamw


def _placed(value: Tensor, view: Tensor) -> Tensor:
    """A state tensor where the parameter is, in its shape; AdamW's step count stays a scalar."""
    return value.to(view.device).view(view.shape if value.ndim else ())


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Global L2 norm of FP32 gradients, summed in the order of the list."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
