"""AdamW in FP32, by PyTorch's fused step, whose moments may be kept in BF16.

DeepSeek-V3 stores both moments in BF16 and saw no loss from it (report, section 3.3.3). Each parameter's moments are
widened to FP32, updated, and rounded back to nearest: four bytes a weight instead of eight. With beta2 = 0.95 a second
moment moves by up to 5 % a step, well above BF16's half unit of 0.2 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from clearseek.train.groups import Groups


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
