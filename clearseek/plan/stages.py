"""Where a pipeline is cut, and which tensors each of its processes holds.

Consecutive layers lie on consecutive stages: as many on each, but the first ones have one more where the number does
not divide. The embedding is on the first stage; final norm, output head and the multi-token-prediction (MTP) layer are
on the last, and the embeddings that the MTP layer needs are sent along with the hidden states. A folded pipeline (ZBV,
DualPipeV) has twice as many stages as processes and comes back in a V, so its first process has both ends: embedding
and head lie together, and nothing is sent for the MTP layer (DeepSeek-V3 report, section 3.2.3).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, pairwise

from clearseek.config import ModelConfig
from clearseek.plan.layout import ParallelLayout
from clearseek.tensors import TensorSpec, memory_tensors


def stage_layers(model: ModelConfig, layout: ParallelLayout) -> list[range]:
    """The decoder layers of every stage, in the order of the model, the MTP layer left out."""
    count = layout.pp * (1 + layout.folded)
    short, more = divmod(model.num_hidden_layers, count)
    first = [stage * short + min(stage, more) for stage in range(count + 1)]
    return [range(low, high) for low, high in pairwise(first)]


def layers_of(model: ModelConfig, layout: ParallelLayout, stage: int) -> list[int]:
    """The layers of a stage, the MTP layer with the last one."""
    cuts = stage_layers(model, layout)
    mtp = range(model.num_hidden_layers, model.num_hidden_layers + model.num_nextn_predict_layers)
    return [*cuts[stage], *(mtp if stage == len(cuts) - 1 else ())]


def stages_of(layout: ParallelLayout, process: int) -> tuple[int, ...]:
    """Numbers of the stages that the process at a place in the pipeline has, ascending."""
    return (process, 2 * layout.pp - 1 - process) if layout.folded else (process,)


def parameters(model: ModelConfig) -> list[TensorSpec]:
    """The tensors of the model in memory in the order of its modules, in which training deals them out."""
    first, layers, last = _in_order(model)
    return [*first, *chain.from_iterable(layers), *last]


def held_tensors(model: ModelConfig, layout: ParallelLayout, process: int) -> list[TensorSpec]:
    """The tensors of a process's stages, in the order of parameters."""
    first, layers, last = _in_order(model)
    found: list[TensorSpec] = []
    for stage in stages_of(layout, process):
        found += first if stage == 0 else ()
        numbers = layers_of(model, layout, stage)
        found += chain.from_iterable(layers[number] for number in numbers)
        found += last if numbers and numbers[-1] == len(layers) - 1 else ()
    return found


@lru_cache(maxsize=8)
def _in_order(model: ModelConfig) -> tuple[list[TensorSpec], list[list[TensorSpec]], list[TensorSpec]]:
    """Tensors before the layers, of each layer, the MTP layer last, and after the layers."""
    layers: list[list[TensorSpec]] = [[] for _ in range(model.num_hidden_layers + model.num_nextn_predict_layers)]
    first, joins, last = list[TensorSpec](), list[TensorSpec](), list[TensorSpec]()
    for spec in memory_tensors(model):
        if spec.layer is None:
            (first if spec.kind == "embedding" else last).append(spec)
        elif spec.mtp and spec.name.split(".")[3] in ("enorm", "hnorm", "eh_proj"):
            joins.append(spec)
        else:
            layers[spec.layer] += [*joins, spec] if spec.name.endswith("shared_head.norm.weight") else [spec]
    return first, layers, last
