"""One of the processes of test_fsdp.py: ``python -m tests.train.parallel.fsdp_worker FOLDER RANK SIZE``."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from clearseek.config import Fp8Config, ModelConfig
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Fp8
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.accumulate import LaneSum, TreeSum
from clearseek.train.preflight import settle_numerics
from tests.tiny import TINY

MODEL = TINY["model"] | {"vocab_size": 301, "num_hidden_layers": 3}  # rows that no number of processes divides
WIDE = {"intermediate_size": 128, "moe_intermediate_size": 128}
CASES: dict[str, tuple[dict[str, Any], torch.dtype, bool, int, int]] = {
    # model's settings, type of the products, whether in FP8, micro-batches, lanes
    "fp32": ({}, torch.float32, False, 8, 8),
    "bf16": ({}, torch.bfloat16, False, 24, 12),
    "fp8": (WIDE, torch.bfloat16, True, 4, 4),
    "tied": ({"tie_word_embeddings": True, "n_routed_experts": 6}, torch.bfloat16, False, 8, 4),
}
STEPS = 2


def model_of(case: str) -> tuple[ModelConfig, torch.dtype, Fp8 | None]:
    """Dimensions, type of the products, and how to compute in FP8."""
    changed, dtype, eight_bit, _, _ = CASES[case]
    fp8 = choose(Fp8Config(), torch.device("cpu"), dtype, "dequantised") if eight_bit else None
    return ModelConfig(**(MODEL | changed)), dtype, fp8


def micro_batches(case: str, step: int) -> list[Tensor]:
    """Token ids of each micro-batch of a step."""
    generator = torch.Generator().manual_seed(step)
    count = CASES[case][3]
    return list(torch.randint(0, MODEL["vocab_size"], (count, 2, 34), generator=generator))


def loss(model: DeepSeekModel, tokens: Tensor, step: int) -> Tensor:
    """A micro-batch's loss; the MTP module is left out in the second step of two."""
    weight = torch.full(tokens.shape, 1 / 512)
    return model.loss(tokens, 0.01, 0.3 if step == 0 else None, weight).total


def moved(weight: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """New weights after a step."""
    return (weight - 100 * gradient).to(dtype).float()


def alone(case: str) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Gradients of each step on one process, and hidden states after the last."""
    config, dtype, fp8 = model_of(case)
    _, _, _, count, lanes = CASES[case]
    model = DeepSeekModel(config)
    model.initialise(7, scaled=case == "tied")
    model.set_dtype(dtype).use_fp8(fp8)
    found = []
    for step in range(STEPS):
        sums = LaneSum(count, lanes)
        for tokens in micro_batches(case, step):
            loss(model, tokens, step).backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            sums.push([gradient.float() for gradient in gradients])
            model.zero_grad()
        names = [name for name, _ in model.named_parameters()]
        found.append(dict(zip(names, sums.result(), strict=True)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(moved(parameter.float(), found[-1][name], dtype))
    with torch.no_grad():
        return found, model.logits(micro_batches(case, 0)[0])


class Watch:
    """Bytes of whole parameters that a process holds: the most that was seen."""

    def __init__(self, model: DeepSeekModel) -> None:
        self.model, self.most, self._seen = model, 0, dict[int, torch.UntypedStorage]()
        for layer in model.model.layers:
            for module in (layer.self_attn, layer.mlp):
                module.register_forward_hook(self._look)
                module.register_full_backward_hook(self._look)

    def _look(self, *_: Any) -> None:
        for parameter in self.model.parameters():
            if not isinstance(parameter, DTensor):
                self._seen[id(parameter)] = parameter.untyped_storage()
        self.most = max(self.most, sum(storage.nbytes() for storage in self._seen.values()))


def together(case: str, group: dist.ProcessGroup, fault: str) -> tuple[list[dict[str, Tensor]], Tensor, int]:
    """What :func:`alone` returns, of this process's rows; the most bytes of whole parameters seen.

    Faults: ``stock`` adds as the library does, ``blocks`` gives a process lanes that are neighbours.
    """
    from clearseek.train.parallel import fsdp

    config, dtype, fp8 = model_of(case)
    _, _, _, count, lanes = CASES[case]
    sharded = fsdp.Sharded(config, group, torch.device("cpu"), dtype, fp8)
    sharded.initialise(7, scaled=case == "tied")
    attention, experts = sharded.model.model.layers[1].self_attn, sharded.model.moe_layers[0].experts
    assert not any(each.kept for each in (attention.o_proj.quantised, *experts.quantised))
    if fault == "stock":
        with_stock_reduction(sharded.model)
    sharded.model.use_recompute(case in ("bf16", "fp8"))  # which changes no bits
    watch, found = Watch(sharded.model), []
    own = range(sharded.rank, lanes, sharded.size)
    if fault == "blocks":
        own = range(sharded.rank * len(own), (sharded.rank + 1) * len(own))
    for step in range(STEPS):
        micros, run, sums = micro_batches(case, step), count // lanes, TreeSum()
        for lane in own:
            for i in range(run):
                sharded.last_of_lane(i == run - 1)
                loss(sharded.model, micros[lane * run + i], step).backward()
            sums.push(sharded.take_gradients())
        found.append(dict(zip(sharded.parameters, sums.result(), strict=True)))
        for rows, gradient in zip(sharded.rows(), found[-1].values(), strict=True):
            rows.copy_(moved(rows, gradient, dtype))
    with torch.no_grad():
        return found, sharded.model.logits(micro_batches(case, 0)[0]), watch.most


def with_stock_reduction(model: DeepSeekModel) -> None:
    """Put the library's own reduce-scatter back."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_reduce_scatter(DefaultReduceScatter())


def main() -> None:
    """Write what this process has of each case."""
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settle_numerics(1, "cpu")
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    assert group is not None
    for case in sys.argv[4:]:
        name, _, fault = case.partition("/")
        found, hidden, most = together(name, group, fault)
        tensors = {f"{step} {key}": value for step, each in enumerate(found) for key, value in each.items()}
        tensors |= {"logits": hidden, "most": torch.tensor(most)}
        save_file(tensors, folder / f"{case.replace('/', '-')} {rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
