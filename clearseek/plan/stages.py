"""Where a pipeline is cut, and which tensors each of its processes holds.

Consecutive layers lie on consecutive stages: as many on each, but the first ones have one more where the number does
not divide. The embedding is on the first stage; final norm, output head and the multi-token-prediction (MTP) layer are
on the last, and the embeddings that the MTP layer needs are sent along with the hidden states. A folded pipeline (ZBV,
DualPipeV) has twice as many stages as processes and comes back in a V, so its first process has both ends: embedding
and head lie together, and nothing is sent for the MTP layer (DeepSeek-V3 report, section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from clearseek.config import ModelConfig
from clearseek.plan.layout import ParallelLayout
from clearseek.tensors import TensorSpec, memory_tensors


def stage_layers(model: ModelConfig, layout: ParallelLayout) -> list[range]:
    """The decoder layers of every stage, in the order of the model, the MTP layer left out."""
    count = layout.pp * (1 + layout.folded)
    short, more = divmod(model.num_hidden_layers, count)
    first = [stage * short + min(stage, more) for stage in range(count + 1)]
    return [range(low, high) for low, high in pairwise(first)]


def stages_of(layout: ParallelLayout, process: int) -> tuple[int, ...]:
    """Numbers of the stages that the process at a place in the pipeline has, ascending."""
    return (process, 2 * layout.pp - 1 - process) if layout.folded else (process,)


def parameters(model: ModelConfig) -> Iterator[TensorSpec]:
    """The tensors of the model in memory in the order of its modules, in which training deals them out."""

    def place(spec: TensorSpec) -> tuple[int, int, bool]:
        if spec.layer is None:
            return {"embedding": 0, "norm": 2, "head": 3}[spec.kind], 0, False
        joins = spec.mtp and spec.name.split(".")[3] in ("enorm", "hnorm", "eh_proj", "shared_head")
        return 1, spec.layer, joins

    yield from sorted(memory_tensors(model), key=place)


def held_tensors(model: ModelConfig, layout: ParallelLayout, process: int) -> list[TensorSpec]:
    """The tensors of a process's stages, in the order of parameters."""
    cuts, own = stage_layers(model, layout), stages_of(layout, process)
    layers = {layer for stage in own for layer in cuts[stage]}
    last = len(cuts) - 1 in own

    def holds(spec: TensorSpec) -> bool:
        if spec.kind == "embedding":
            return 0 in own
        return last if spec.layer is None or spec.mtp else spec.layer in layers

    return [spec for spec in parameters(model) if holds(spec)]
