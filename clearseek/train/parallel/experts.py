"""A layer's experts on several processes, and the sums of their gradients.

Expert parallelism spreads the experts of a layer over neighbouring copies of the model: each process holds an equal run
of them, and computes everybody's tokens with them (:mod:`clearseek.ops.travel`). An owner's gradient is thus a sum over
the tokens of all copies in its group, its *sources*, and one process sums those in the order of its lanes. In exact
mode a process keeps a sum for each source, as if each were a copy with gradients of its own, and adds them last, which
are the next levels of the tree of :mod:`clearseek.train.accumulate`. That takes as much memory as one process needs for
all experts of the layer. In merged mode there is one sum, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from clearseek.model.experts import Experts
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.travel import ExpertGroup
from clearseek.parts import Part
from clearseek.plan.layout import ParallelLayout
from clearseek.train.accumulate import TreeSum
from clearseek.train.optimizer import Trained


def share_out_experts(model: DeepSeekModel, layout: ParallelLayout, rank: int, exact: bool) -> None:
    """Leave a process the experts that it holds of a model, or of some layers, before that is initialised or moved.

    Args:
        model: The model.
        layout: Who holds what; all its processes call this.
        rank: This process.
        exact: Whether gradients of every source are apart, or merged.
    """
    members = layout.expert_group(rank)
    everyone = members == list(range(dist.get_world_size()))
    processes = dist.group.WORLD if everyone else dist.new_group(members, use_local_synchronization=True)
    assert processes is not None
    group = ExpertGroup(processes, layout.expert_part(rank), layout.ep, exact)
    for module in model.modules():
        if isinstance(module, Experts):
            module.share_out(group)


def is_spread(name: str, layout: ParallelLayout) -> bool:
    """Whether a tensor of this name is a stack of routed experts, which a process has some of."""
    return layout.ep > 1 and ".mlp.experts." in name


def whole_shape(name: str, held: Sequence[int], layout: ParallelLayout) -> tuple[int, ...]:
    """Shape of a whole tensor, from that of what a process holds."""
    return (held[0] * layout.ep, *held[1:]) if is_spread(name, layout) else tuple(held)


def part_of_experts(whole: Part, layout: ParallelLayout, rank: int) -> Part:
    """What a process holds of a whole tensor: its own experts of a stack, and all of any other tensor."""
    if not is_spread(whole.name, layout):
        return whole
    count, number = whole.shape[0] // layout.ep, layout.expert_part(rank)
    return whole.rows(number * count, (number + 1) * count)


class Sources:
    """Gradients of what is trained, while a step sums them: of an expert stack in exact mode one for each source.

    Args:
        model: The model.
        trained: What is trained.
    """

    def __init__(self, model: DeepSeekModel, trained: Sequence[Trained]) -> None:
        leaves: dict[int, list[Tensor]] = {}
        for module in model.modules():
            if isinstance(module, Experts) and module.leaves:
                gate_up, down = map(list, zip(*module.leaves, strict=True))
                leaves |= {id(module.gate_up_proj): gate_up, id(module.down_proj): down}
        self._trained = [(each, leaves.get(id(each.parameter), [])) for each in trained]

    def leaves(self) -> list[tuple[str, Tensor]]:
        """Name and leaf of everything that has a gradient, in the order of :meth:`take`."""
        return [(each.name, leaf) for each, leaves in self._trained for leaf in leaves or [each.parameter]]

    def take(self) -> list[Tensor]:
        """FP32 gradients of a micro-batch, taken from the model: of each trained tensor one, or one for each source."""
        taken: list[Tensor] = []
        for each, leaves in self._trained:
            taken += [_take(leaf) for leaf in leaves] or [each.take_gradient()]
        return taken

    @torch.no_grad()
    def add(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """One gradient of each trained tensor, from the lanes' sums of what :meth:`take` gave."""
        rest, added = list(sums), list[Tensor]()
        for _, leaves in self._trained:
            tree, count = TreeSum(), max(1, len(leaves))
            for total in rest[:count]:
                tree.push([total])
            added += tree.result()
            del rest[:count]
        return added


def _take(leaf: Tensor) -> Tensor:
    gradient, leaf.grad = leaf.grad, None
    return torch.zeros_like(leaf, dtype=torch.float32, requires_grad=False) if gradient is None else gradient.float()
