"""Muon: momentum whose update is orthogonalised, for stacks of matrices at once.

Each update matrix is replaced by the nearest semi-orthogonal one, found by five Newton-Schulz steps, so that every
direction of a weight matrix learns at the same pace (Jordan et al., "Muon", 2024; the factor 0.2 * sqrt(max(rows,
columns)), which gives updates the size of AdamW's, is from Moonshot's "Muon is Scalable for LLM Training", section
2.2). The steps are taken in the type that the model computes in: five of them forgive BF16's rounding. Where a
processor emulates BF16, at a thirtieth of FP32's speed, they are in FP32 even if the model was asked to be in BF16.

This is ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`` with two differences: PyTorch's always takes the steps in
BF16; and a parameter may be a stack [..., rows, columns], as our experts are, and its matrices go through batched
products, or where numba's loops are in use all parameters' matrices through one of those. PyTorch's takes single
matrices only; fed one expert at a time it took 4x as long (docs/notebook.md). A test holds the two to the same result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from clearseek.kernels import operations
from clearseek.ops.compiled import loops_take

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic a x + b x^3 + c x^5 that one Newton-Schulz step applies to every singular value."""
STEPS = 5
TOGETHER = 1 << 24
"""Numbers whose updates are held at once, 64 MiB of FP32: enough matrices for all threads."""


def orthogonalise(update: Tensor, dtype: torch.dtype) -> Tensor:
    """Semi-orthogonal matrices (singular values about 0.7 to 1.2) near `update` [..., rows, columns], in `dtype`."""
    a, b, c = COEFFICIENTS
    wide = update.shape[-2] <= update.shape[-1]
    x = (update if wide else update.mT).to(dtype).reshape(-1, min(update.shape[-2:]), max(update.shape[-2:]))
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).reshape(update.shape)


def _bounded(params: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters in groups of at most :data:`TOGETHER` numbers, or one."""
    some, numbers = list[Tensor](), 0
    for p in params:
        if some and numbers + p.numel() > TOGETHER:
            yield some
            some, numbers = [], 0
        some.append(p)
        numbers += p.numel()
    if some:
        yield some


def _alike(params: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters whose matrices have one shape, together on a CPU, where a small product costs little more than a call.

    On a GPU each by itself: its library may choose another kernel, with other bits, by the number of matrices.
    """
    shapes: dict[object, list[Tensor]] = defaultdict(list)
    for p in params:
        shapes[p.shape[-2:] if p.device.type == "cpu" else p].append(p)
    for some in shapes.values():
        yield from _bounded(some)


def _orthogonalised(updates: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """:func:`orthogonalise` of several updates of one matrix shape, in one stack."""
    if len(updates) == 1:
        return [orthogonalise(updates[0], dtype)]
    stacks = [update.reshape(-1, *update.shape[-2:]) for update in updates]
    found = orthogonalise(torch.cat(stacks), dtype).split([len(stack) for stack in stacks])
    return [each.view(update.shape) for each, update in zip(found, updates, strict=True)]


class Groups:
    """Groups of parameters that share their settings, and a state for every parameter: what an optimiser is made of.

    PyTorch's own class loads PyTorch's compiler when it is first made, which takes as long again as PyTorch itself and
    serves nothing here. Its update rules are plain functions, and these are used.

    Args:
        groups: Each with ``params``, and settings that override the common ones.
        common: Settings of all groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **common: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [common | group for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)


class Muon(Groups):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        params: Matrices, or stacks of them with the matrix in the last two dimensions.
        lr: Learning rate on AdamW's scale.
        dtype: Type of the Newton-Schulz products.
        momentum: Decay of the momentum.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        dtype: torch.dtype,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__([{"params": list(params)}], lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            looped = self.dtype == torch.float32 and all(map(loops_take, params))
            for some in _bounded(params) if looped else _alike(params):
                updates = [self._update(p, group["momentum"]) for p in some]
                if looped:
                    operations.orthogonalise(updates, COEFFICIENTS, STEPS)
                else:
                    updates = _orthogonalised(updates, self.dtype)
                for p, update in zip(some, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)

    def _update(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum).contiguous()
