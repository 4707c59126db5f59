"""From gradients to new weights: FP32 master weights under AdamW or Muon.

The model computes in BF16 and the optimiser in FP32: it owns a master copy of every weight, takes FP32 gradients, and
rounds the result back into the model (DeepSeek-V3 report, section 3.3.1). A model that is already FP32 is its own
master. Matrices have weight decay, vectors have none. Under Muon, the matrices inside the layers (attention, dense
and expert projections) are Muon's; embedding, head, router and norms stay with AdamW.

Of stacked experts some may be trained and the others not. Masters, gradients and optimiser state are then of the chosen
ones alone, because weight decay and momentum move also what has no gradient.

AdamW's moments may be kept in BF16, as DeepSeek-V3's are (report, section 3.3.3, which saw no loss from it): they are
widened, updated by PyTorch's fused step, and rounded to nearest. With beta2 = 0.95 a second moment moves by up to 5 % a
step, well above BF16's half unit of 0.2 %.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from clearseek.config import OptimizerConfig
from clearseek.errors import UserError
from clearseek.train.muon import Groups, Muon


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter that is trained, or some rows of it.

    Raises ValueError: rows that are not ascending, or that the parameter does not have.
    """

    name: str
    """Its name in the model."""
    parameter: nn.Parameter
    """The tensor."""
    rows: tuple[int, ...] | None = None
    """Indices along the first dimension (experts of [E, ...]) that are trained, ascending; None for all."""

    def __post_init__(self) -> None:
        if self.rows is not None:
            limits = (-1, *self.rows, len(self.parameter))
            if not self.rows or any(low >= high for low, high in pairwise(limits)):
                raise ValueError(f"{self.name}: rows {self.rows} must be ascending numbers below {limits[-1]}")

    @property
    def index(self) -> Tensor:
        """The rows, int64, on the parameter's device."""
        return torch.tensor(self.rows, dtype=torch.int64, device=self.parameter.device)

    def of(self, tensor: Tensor) -> Tensor:
        """The trained part of a tensor of the parameter's shape: a copy of the rows, or the tensor itself."""
        return tensor if self.rows is None else tensor.index_select(0, self.index)

    def take_gradient(self) -> Tensor:
        """The trained part's gradient, FP32, which the parameter no longer has; zero if the step did not use it."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is None:
            like = self.parameter if self.rows is None else self.parameter[: len(self.rows)]
            return torch.zeros_like(like, dtype=torch.float32, requires_grad=False)
        return self.of(gradient).float()


class AdamW(Groups):
    """AdamW (Loshchilov and Hutter, 2019) on FP32 parameters.

    Args:
        groups: Each with ``params``, and settings that override the common ones.
        moments: Type of `exp_avg` and `exp_avg_sq` between steps, FP32 or BF16.
        common: ``lr``, ``betas``, ``eps`` and ``weight_decay``.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], moments: torch.dtype, **common: Any) -> None:
        super().__init__(groups, **common)
        self.moments = moments

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if self.moments == torch.float32:
                self._update(parameters, group)
            else:  # one by one: moments of one parameter at a time are wide
                for parameter in parameters:
                    self._update([parameter], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, dtype=self.moments)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=self.moments)
        first, second = ([state[slot].float() for state in states] for slot in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        adamw(
            parameters, gradients, first, second, [], [state["step"] for state in states], fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip
        for state, wide, wide_sq in zip(states, first, second, strict=True):
            state["exp_avg"].copy_(wide)  # nothing where they are FP32 and the same tensor
            state["exp_avg_sq"].copy_(wide_sq)


def matrix_of(name: str, shape: Sequence[int], config: OptimizerConfig) -> tuple[int, int] | None:
    """Rows and columns of a parameter's matrices where Muon has them, else None.

    Gate and up projections share a tensor [E, 2I, D] but are two matrices each.
    """
    outside = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight", ".lora_A", ".lora_B")
    if config.name != "muon" or len(shape) < 2 or name.endswith(outside):
        return None
    return (shape[-2] // 2 if name.endswith("experts.gate_up_proj") else shape[-2]), shape[-1]


class Updates:
    """AdamW or Muon over FP32 masters, each of a whole parameter or of a run of whole matrices or chunks of one.

    Args:
        names: Of the parameters.
        shapes: Of the parameters; matrices have weight decay, vectors have none.
        masters: FP32, contiguous.
        config: Which optimiser, and its settings.
        products: Type of Muon's products.
    """

    def __init__(
        self, names: Sequence[str], shapes: Sequence[Sequence[int]], masters: Sequence[Tensor], config: OptimizerConfig,
        products: torch.dtype,
    ) -> None:  # fmt: skip
        self.config, self.names, self.masters = config, list(names), list(masters)
        muon, embedding, decayed, plain = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        self._views: list[Tensor] = []
        for name, shape, master in zip(names, shapes, masters, strict=True):
            matrix = matrix_of(name, shape, config)
            one = matrix is None or (master.ndim == 2 and master.shape == matrix)
            view = master if matrix is None or one else master.view(-1, *matrix)
            apart = config.embedding_learning_rate is not None and name.endswith("embed_tokens.weight")
            others = embedding if apart else decayed if len(shape) > 1 else plain
            (others if matrix is None else muon).append(view)
            self._views.append(view)
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay, "peak": config.learning_rate},
            {"params": plain, "weight_decay": 0.0, "peak": config.learning_rate},
            {"params": embedding, "weight_decay": 0.0, "peak": config.embedding_learning_rate},
        ]
        self._muon_ids = {id(view) for view in muon}
        self._adamw = AdamW(
            [group for group in groups if group["params"]],
            torch.float32 if config.moments == "fp32" else torch.bfloat16,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
        )
        rates = config.muon_learning_rate, products, config.momentum, config.weight_decay
        self._muon = Muon(muon, *rates) if muon else None

    @torch.no_grad()
    def step(self, gradients: list[Tensor], norm: float, multiplier: float) -> None:
        """Clip, and update the masters.

        Args:
            gradients: FP32, of what is trained, in its order; they are scaled in place.
            norm: Their :func:`~clearseek.train.chunks.gradient_norm`.
            multiplier: The schedule's factor on the learning rates.
        """
        factor = self.config.grad_clip / (norm + 1e-6)
        if factor < 1.0 and gradients:  # a process may own nothing of a small model
            torch._foreach_mul_(gradients, factor)
        for view, gradient in zip(self._views, gradients, strict=True):
            view.grad = gradient.view(view.shape)
        for group in self._adamw.param_groups:
            group["lr"] = group["peak"] * multiplier
        self._adamw.step()
        if self._muon is not None:
            for group in self._muon.param_groups:
                group["lr"] = self.config.muon_learning_rate * multiplier
            self._muon.step()
        for view in self._views:
            view.grad = None

    def state(self) -> dict[str, Tensor]:
        """The optimisers' own tensors, by ``parameter.slot``; empty before the first step."""
        tensors: dict[str, Tensor] = {}
        for index, (name, master, view) in enumerate(zip(self.names, self.masters, self._views, strict=True)):
            for slot, value in self._owner(index).state[view].items():
                tensors[f"{name}.{slot}"] = value.view(master.shape) if value.ndim else value
        return tensors

    def slots(self, index: int) -> tuple[str, ...]:
        """Names of the state of a master that has been updated."""
        return ("momentum_buffer",) if self._owner(index) is self._muon else ("step", "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def load_state(self, index: int, values: Mapping[str, Tensor]) -> None:
        """Restore the state of a master, by slot; the tensors become the optimiser's own."""
        view = self._views[index]
        self._owner(index).state[view] = {slot: _placed(value, view) for slot, value in values.items()}

    def _owner(self, index: int) -> AdamW | Muon:
        view, muon = self._views[index], self._muon
        return muon if muon is not None and id(view) in self._muon_ids else self._adamw


class MasterOptimizer(Updates):
    """Optimiser over FP32 masters of a model's parameters.

    Args:
        trained: What to train, in a fixed order: all parameters of a model, or some, or rows of them.
        config: Which optimiser, and its settings.
        products: Type of Muon's products; None for the model's.
    """

    def __init__(
        self, trained: Iterable[Trained], config: OptimizerConfig, products: torch.dtype | None = None
    ) -> None:
        self.trained = list(trained)
        masters = [each.of(each.parameter.detach()).float() for each in self.trained]  # FP32: the model's own
        names, shapes = [each.name for each in self.trained], [each.parameter.shape for each in self.trained]
        super().__init__(names, shapes, masters, config, products or self.trained[0].parameter.dtype)

    @torch.no_grad()
    def step(self, gradients: list[Tensor], norm: float, multiplier: float) -> None:
        """Clip, update the masters, round them into the model; arguments as of :meth:`Updates.step`."""
        super().step(gradients, norm, multiplier)
        self.round_into_model()

    @torch.no_grad()
    def round_into_model(self) -> None:
        """Give the model the masters, in its own precision; no other byte of it is written."""
        whole = [(t.parameter, master) for t, master in zip(self.trained, self.masters, strict=True) if t.rows is None]
        if whole:
            torch._foreach_copy_([parameter for parameter, _ in whole], [master for _, master in whole])
        for each, master in zip(self.trained, self.masters, strict=True):
            if each.rows is not None:
                each.parameter.index_copy_(0, each.index, master.to(each.parameter.dtype))

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Whole parameters in FP32 by name: the masters, and around them the rows that are not trained."""
        found: dict[str, Tensor] = {}
        for each, master in zip(self.trained, self.masters, strict=True):
            whole = each.parameter.detach()
            if each.rows is None:
                whole = master
            elif whole.dtype != torch.float32:
                whole = whole.float().index_copy_(0, each.index, master)
            found[each.name] = whole
        return found

    @torch.no_grad()
    def adopt(self, weights: Mapping[str, Tensor], own: Collection[str] = ()) -> None:
        """Take other whole weights over, but of the parameters in `own`, and round the masters into the model.

        Raises KeyError or RuntimeError where one is missing or misshapen.
        """
        for each, master in zip(self.trained, self.masters, strict=True):
            if each.name not in own:
                master.copy_(each.of(weights[each.name].to(master.device)))
                if each.rows is not None:
                    each.parameter.copy_(weights[each.name])
        self.round_into_model()

    def take_gradients(self) -> list[Tensor]:
        """The FP32 gradients of what is trained, taken from the parameters."""
        return [each.take_gradient() for each in self.trained]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`weights` and :meth:`state` returned, and round the masters into the model.

        Raises UserError if they are of another model or optimiser.
        """
        for index, (each, master) in enumerate(zip(self.trained, self.masters, strict=True)):
            name, slots = each.name, self.slots(index)
            missing = [key for key in (name,) if key not in weights] + [
                key for slot in slots if (key := f"{name}.{slot}") not in state
            ]
            if missing or weights[name].shape != each.parameter.shape:
                raise UserError(
                    f"the checkpoint does not fit the recipe: {(missing or [name])[0]} is missing or misshapen"
                )
            master.copy_(each.of(weights[name].to(master.device)))
            if each.rows is not None:
                each.parameter.copy_(weights[name])
            self.load_state(index, {slot: state[f"{name}.{slot}"] for slot in slots})
        self.round_into_model()


def _placed(value: Tensor, view: Tensor) -> Tensor:
    """A state tensor where the parameter is, in its shape; AdamW's step count stays a scalar."""
    return value.to(view.device).view(view.shape if value.ndim else ())
