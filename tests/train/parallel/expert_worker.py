"""A process of test_experts.py: ``python -m tests.train.parallel.expert_worker FOLDER RANK SIZE CASE...``."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from clearseek.config import Fp8Config, ModelConfig
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Fp8
from clearseek.model.experts import Experts
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import Kernels, use_kernels
from clearseek.ops.dispatch import Routing
from clearseek.ops.travel import ExpertGroup
from clearseek.plan.layout import ParallelLayout
from clearseek.train.accumulate import LaneSum
from clearseek.train.optimizer import Trained
from clearseek.train.parallel.experts import Sources, share_out_experts
from clearseek.train.preflight import settle_numerics
from tests.tiny import TINY

SIZE = 4
"""Processes."""
MODEL = TINY["model"] | {"num_hidden_layers": 3, "hidden_size": 128, "intermediate_size": 128}
MODEL |= {"moe_intermediate_size": 128, "n_routed_experts": 8, "num_experts_per_tok": 2}
KINDS: dict[str, tuple[torch.dtype, str | None, Kernels]] = {
    # type of the products, FP8 backend, kernels
    "fp32": (torch.float32, None, "torch"),
    "numba": (torch.float32, None, "numba"),
    "bf16": (torch.bfloat16, None, "torch"),
    "fp8": (torch.bfloat16, "dequantised", "torch"),
    "fp8-fp32": (torch.float32, "dequantised", "torch"),
    "fp8-reference": (torch.bfloat16, "reference", "torch"),
}
TOKENS = {
    "even": (256, 256, 256, 256),
    "uneven": (96, 41, 300, 0),  # the last source has nothing
    "few": (3, 1, 2, 5),  # blocks of a row or two, which a library multiplies otherwise
    "idle": (64, 64, 64, 64),  # nobody visits the experts of process 1
}
"""Of each source. In the middle two cases, sources 0 and 2 do not visit the experts of process 1."""
MICRO_BATCHES, LANES = 4, 2
"""Of each process."""


def fp8_of(kind: str) -> Fp8 | None:
    """How to compute in FP8."""
    dtype, backend, kernels = KINDS[kind]
    use_kernels(kernels)
    return None if backend is None else choose(Fp8Config(), torch.device("cpu"), dtype, backend)


# --- One layer --------------------------------------------------------------------------------------------------------


def layer_of(kind: str, group: ExpertGroup | None = None) -> Experts:
    """The experts of a layer, or those of one process."""
    fp8 = fp8_of(kind)
    layer = Experts(ModelConfig(**MODEL))
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    if group is not None:
        layer.share_out(group)
    layer.fp8 = fp8
    for parameter in layer.parameters():
        parameter.data = parameter.data.to(KINDS[kind][0])
        parameter.grad_dtype = None if fp8 is None else torch.float32
    return layer


def pass_through(layer: Experts, kind: str, tokens: str, source: int) -> dict[str, Tensor]:
    """Output and gradients of a source's tokens."""
    dtype, generator = KINDS[kind][0], torch.Generator().manual_seed(100 + source)
    count, experts, k = TOKENS[tokens][source], MODEL["n_routed_experts"], MODEL["num_experts_per_tok"]
    x_TD, g_TD = torch.randn(2, count, MODEL["hidden_size"], generator=generator).to(dtype)
    score_TE = torch.rand(count, experts, generator=generator)
    if tokens == "idle" or (tokens != "even" and source % 2 == 0):
        score_TE[:, 2:4] = -1.0
    weight_TK, x_TD = torch.rand(count, k, generator=generator).requires_grad_(), x_TD.requires_grad_()
    y_TD = layer(x_TD, Routing.of(score_TE.topk(k, 1).indices, weight_TK, experts))
    y_TD.backward(g_TD)
    assert x_TD.grad is not None and weight_TK.grad is not None
    return {"y": y_TD.detach(), "x": x_TD.grad, "weight": weight_TK.grad}


def gradient_of(leaf: Tensor) -> Tensor:
    """A leaf's gradient; zeros where no row of its experts came."""
    return torch.zeros(leaf.shape, dtype=leaf.grad_dtype or leaf.dtype) if leaf.grad is None else leaf.grad


def layer_alone(kind: str, tokens: str) -> list[dict[str, Tensor]]:
    """What one process computes of each source."""
    found, layer = [], layer_of(kind)
    for source, count in enumerate(TOKENS[tokens]):
        each = pass_through(layer, kind, tokens, source) if count else {}
        gradients = map(gradient_of, (layer.gate_up_proj, layer.down_proj))
        found.append(each | dict(zip(("gate_up", "down"), gradients, strict=True)))
        layer.zero_grad()
    return found


def layer_together(kind: str, tokens: str, exact: bool, rank: int, processes: dist.ProcessGroup) -> dict[str, Tensor]:
    """What a process computes of its tokens, and of each source's with its experts."""
    layer = layer_of(kind, ExpertGroup(processes, rank, SIZE, exact))
    found = pass_through(layer, kind, tokens, rank)
    given = layer.leaves if exact else [(layer.gate_up_proj, layer.down_proj)]
    for source, pair in enumerate(given):
        for name, leaf in zip(("gate_up", "down"), pair, strict=True):
            found[f"{source} {name}"] = gradient_of(leaf)
    return found


# --- A whole model ----------------------------------------------------------------------------------------------------


def model_of(kind: str, layout: ParallelLayout | None = None, rank: int = 0, exact: bool = True) -> DeepSeekModel:
    """The model, or what a process has of it."""
    fp8, model = fp8_of(kind), DeepSeekModel(ModelConfig(**MODEL))
    if layout is not None:
        share_out_experts(model, layout, rank, exact)
    model.initialise(5)
    return model.set_dtype(KINDS[kind][0]).use_fp8(fp8)


def lane_sums(kind: str, model: DeepSeekModel, sources: range) -> dict[str, Tensor]:
    """Gradients of the micro-batches of some sources, and their loads."""
    trained = [Trained(name, parameter) for name, parameter in model.named_parameters()]
    taker, sums = Sources(model, trained), LaneSum(len(sources) * MICRO_BATCHES, len(sources) * LANES)
    load_LE = torch.zeros((), dtype=torch.int64)
    for number in range(sources.start * MICRO_BATCHES, sources.stop * MICRO_BATCHES):
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, MODEL["vocab_size"], (2, 34), generator=generator)
        losses = model.loss(tokens, 0.01, 0.3, torch.full(tokens.shape, 1 / 512))
        losses.total.backward()
        sums.push(taker.take())
        load_LE = load_LE + losses.load_LE
    gradients = taker.add(sums.result())
    return {each.name: total for each, total in zip(trained, gradients, strict=True)} | {"load": load_LE}


def logits(model: DeepSeekModel, rank: int) -> Tensor:
    """Logits of sequences whose number and length are a process's own."""
    tokens = torch.randint(0, 300, (1 + rank % 2, 7 * rank + 1), generator=torch.Generator().manual_seed(rank))
    with torch.no_grad():
        return model.logits(tokens)


def model_together(kind: str, ep: int, exact: bool, rank: int) -> dict[str, Tensor]:
    """What a process computes, with its initial experts and logits."""
    model = model_of(kind, ParallelLayout(dp=SIZE, ep=ep), rank, exact)
    begun = {f"initial {name}": each.detach().clone() for name, each in model.named_parameters()}
    return lane_sums(kind, model, range(rank, rank + 1)) | begun | {"logits": logits(model, rank)}


def main() -> None:
    """Write what this process has of each case."""
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settle_numerics(1, "cpu")
    store = dist.FileStore(str(folder / "store"), size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    everyone = dist.group.WORLD
    assert everyone is not None
    for case in sys.argv[4:]:
        kind, what, mode = case.split("/")
        if what in TOKENS:
            found = layer_together(kind, what, mode == "exact", rank, everyone)
        else:
            found = model_together(kind, int(what), mode == "exact", rank)
        save_file(
            {name: each.contiguous() for name, each in found.items()},
            folder / f"{case.replace('/', '-')} {rank}.safetensors",
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
