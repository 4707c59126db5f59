"""Lanes of a tiny model, on one process and on the stages of a pipeline: what the tests of pipelines compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from clearseek.config import ModelConfig
from clearseek.fp8.linear import Fp8
from clearseek.model.layers import MoE
from clearseek.model.transformer import DeepSeekModel
from clearseek.plan.layout import ParallelLayout, parse_layout
from clearseek.train.accumulate import LaneSum
from clearseek.train.chunks import hash_tensors
from clearseek.train.parallel.pipeline import LaneResult, Pipeline, Weights, held_by
from clearseek.train.preflight import preflight
from clearseek.train.task import Batch
from tests.tiny import tiny

SEQUENCES, LENGTH = 2, 32
FIRST = 1
"""First layer with experts."""
WEIGHTS = Weights(balance=0.01, mtp=0.3)
MODEL: dict[str, Any] = {
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
}


def model_of(precision: str, layout: ParallelLayout | None = None, place: int = 0, **changes: Any) -> DeepSeekModel:
    """The tiny model, or the part of it that a process holds."""
    recipe = tiny(model=MODEL | changes, train={"precision": precision, "kernels": "torch"})
    setup = preflight(recipe, "cpu")
    config: ModelConfig = recipe.model
    model = DeepSeekModel(config, None if layout is None else held_by(config, layout, place))
    model.initialise(1)
    fp8: Fp8 | None = setup.fp8
    return model.set_dtype(setup.precision.dtype).use_fp8(fp8)


def micros_of(count: int, mtp: bool = True) -> list[Batch]:
    """Micro-batches of random tokens."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(count):
        tokens = torch.randint(0, 300, (SEQUENCES, LENGTH + 1 + mtp), generator=generator)
        weight = torch.full(tokens.shape, 1.0 / (SEQUENCES * LENGTH * count), dtype=torch.float32)
        found.append(Batch(1, tokens, weight, SEQUENCES * LENGTH))
    return found


def alone(model: DeepSeekModel, micros: list[Batch]) -> dict[str, Tensor]:
    """Gradients of a lane as one process computes them, with its scalars and loads."""
    sums, loads = LaneSum(len(micros), 1), list[Tensor]()
    for micro in micros:
        losses = model.loss(micro.tokens_BX, WEIGHTS.balance, WEIGHTS.mtp, micro.weight_BX)
        losses.total.backward()
        scalars = [losses.main] + ([] if losses.mtp is None else [losses.mtp])
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None for g in gradients)
        sums.push([*(g for g in gradients if g is not None), torch.stack(scalars)])
        model.zero_grad(set_to_none=True)
        loads.append(losses.load_LE)
    *totals, values = sums.result()
    return {n: g for (n, _), g in zip(model.named_parameters(), totals, strict=True)} | {
        "scalars": values,
        **{f"load of layer {i}": load for i, load in enumerate(torch.stack(loads).sum(0), FIRST)},
    }


def in_stages(
    text: str, precision: str, count: int, lanes: int = 1, **changes: Any
) -> tuple[DeepSeekModel, LaneResult]:
    """Run lanes of equal micro-batches on this process's stages, and return the last one's sums."""
    layout = parse_layout(text)
    groups = [dist.new_group(layout.pipeline(copy)) for copy in range(layout.copies)]
    rank = dist.get_rank()
    group, place = groups[layout.copy(rank)], layout.stage(rank)
    model = model_of(precision, layout, place, **changes)
    pipeline = Pipeline(model, list(model.named_parameters()), layout, place, group, count, (SEQUENCES, LENGTH))
    mtp = model.config.num_nextn_predict_layers > 0
    for _ in range(lanes - 1):
        pipeline.run(micros_of(count, mtp), WEIGHTS)
    return model, pipeline.run(micros_of(count, mtp), WEIGHTS)


def main(folder: str, rank: str, world: str, cases: str) -> None:
    """A process: run the cases, and write hashes of what it has."""
    torch.set_num_threads(1)
    store = FileStore(str(Path(folder) / "store"), int(world))
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(world))
    found = []
    for case in json.loads(cases):
        model, result = in_stages(**case)
        tensors = dict(zip((n for n, _ in model.named_parameters()), result.gradients, strict=True))
        if result.scalars is not None:
            tensors["scalars"] = result.scalars
        layers = [i for i, layer in enumerate(model.model.layers) if isinstance(getattr(layer, "mlp", None), MoE)]
        tensors |= {f"load of layer {i}": load for i, load in zip(layers, result.load_LE, strict=True)}
        found.append({name: hash_tensors([(name, tensor)]) for name, tensor in tensors.items()})
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
