"""Training speed of ClearSeek against transformers' own DeepSeek-V3, on the same work.

Both train the same shapes, batch, precision and optimiser. Each side is a process of its own, so neither lives with
the other's memory, and they take steps by turns: while one works, the others wait. The peer gets its fastest settings:
every pair of attention and expert implementation is tried first and the best is kept, and stands once more under
``torch.compile``. MTP is left out, since the peer cannot train it. The type is the one that this processor is fast in
(`--precision` chooses another). ``python benchmarks/train_speed.py`` prints a table and writes
``benchmarks/results/train_speed-TYPE.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from record import write_result

from clearseek.config import ModelConfig, OptimizerConfig
from clearseek.counts import flops_per_token
from clearseek.machine import keep_heap, pick_precision
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import choose_kernels, use_kernels
from clearseek.recipe import load_recipe
from clearseek.train.chunks import gradient_norm
from clearseek.train.optimizer import MasterOptimizer, Trained

RESULTS = Path(__file__).parent / "results"
LARGE: dict[str, Any] = {  # nine times the quickstart's parameters, five times its work per token
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "intermediate_size": 1536,
    "moe_intermediate_size": 256,
    "n_routed_experts": 32,
    "vocab_size": 8192,
    "first_k_dense_replace": 1,
}
Step = Callable[[torch.Tensor], float]


def stepper(model: torch.nn.Module, loss: Callable[[torch.Tensor], torch.Tensor], config: OptimizerConfig) -> Step:
    """One full training step: forward, backward, clip, update of FP32 masters."""
    optimizer = MasterOptimizer((Trained(*named) for named in model.named_parameters()), config)

    def step(tokens: torch.Tensor) -> float:
        value = loss(tokens)
        value.backward()
        gradients = optimizer.take_gradients()
        optimizer.step(gradients, gradient_norm(gradients), 1.0)
        return value.item()

    return step


def ours(config: ModelConfig, dtype: torch.dtype, optimizer: OptimizerConfig) -> Step:
    """ClearSeek's training step, balance loss and bias update included."""
    model = DeepSeekModel(config)
    model.initialise(0)
    model.set_dtype(dtype)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        losses = model.loss(tokens, balance_weight=1e-4)
        model.update_biases(losses.load_LE, 1e-3)
        return losses.total

    return stepper(model, loss, optimizer)


def peer(config: ModelConfig, dtype: torch.dtype, optimizer: OptimizerConfig, attention: str, experts: str,
         compiled: bool = False) -> Step:  # fmt: skip
    """transformers' training step: its model, its loss; no balancing, which it does not have."""
    fields = config.model_dump(exclude={"scoring_func", "topk_method", "rope_scaling", "num_nextn_predict_layers"})
    rope = {"rope_theta": config.rope_theta, "rope_type": "default"}
    theirs = transformers.DeepseekV3Config(
        **fields, num_key_value_heads=config.num_attention_heads, rope_parameters=rope, use_cache=False,
        experts_implementation=experts, attn_implementation=attention,
    )  # fmt: skip
    model = transformers.DeepseekV3ForCausalLM(theirs).to(dtype).train()
    call = torch.compile(model) if compiled else model

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = call(input_ids=tokens, labels=tokens).loss
        return value

    return stepper(model, loss, optimizer)


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    config: ModelConfig
    batch: int
    length: int
    optimizer: OptimizerConfig
    dtype: torch.dtype

    def tokens(self, number: int) -> torch.Tensor:
        """The batch of a round, with one token more than the peer takes."""
        generator = torch.Generator().manual_seed(number)
        return torch.randint(0, self.config.vocab_size, (self.batch, self.length + 1), generator=generator)


@dataclass(frozen=True)
class Side:
    """One way to do it."""

    name: str
    heap: bool = False
    """Whether the C library keeps freed memory, as ClearSeek has it."""
    compiled: bool = False
    attention: str = ""
    experts: str = ""

    def step(self, work: Work) -> Step:
        """Its training step."""
        if self.heap:
            keep_heap()
        if self.attention:
            theirs = peer(work.config, work.dtype, work.optimizer, self.attention, self.experts, self.compiled)
            return lambda tokens: theirs(tokens[:, : work.length])
        use_kernels(choose_kernels("compile" if self.compiled else "auto", work.dtype, "cpu"))
        return ours(work.config, work.dtype, work.optimizer)


def serve(side: Side, work: Work, connection: Connection) -> None:
    """Take the steps that are asked for, by their number, and answer with their seconds; None ends it."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    step = side.step(work)
    while (number := connection.recv()) is not None:
        tokens = work.tokens(number)
        start = time.perf_counter()
        step(tokens)
        connection.send(time.perf_counter() - start)


def by_turns(sides: Sequence[Side], work: Work, settle: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side's steps, the first `settle` of each left out."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side in sides:
        pipes[side.name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(side, work, theirs), daemon=True))
        processes[-1].start()
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(settle + rounds):
        for name, pipe in pipes.items():
            pipe.send(number)
            seconds = pipe.recv()
            if number >= settle:
                times[name].append(seconds)
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()
    return times


def best_peer(work: Work) -> tuple[str, str]:
    """The peer's fastest attention and experts on these shapes (the better of two steps each, after a first)."""
    tried: dict[tuple[str, str], float] = {}
    for attention in ("sdpa", "eager"):
        for experts in ("eager", "grouped_mm"):  # batched_mm copies three matrices a token: tens of gigabytes here
            side = Side("peer", attention=attention, experts=experts)
            tried[attention, experts] = min(by_turns([side], work, 1, 2)["peer"])
    print("  peer settings tried:", {", ".join(pair): f"{seconds:.2f} s" for pair, seconds in tried.items()})
    return min(tried, key=lambda pair: tried[pair])


def compare(name: str, work: Work, rounds: int, peak: float) -> dict[str, Any]:
    """Interleave all sides and report medians."""
    config = work.config
    print(f"{name}: hidden {config.hidden_size}, {config.num_hidden_layers} layers, {config.n_routed_experts} experts, "
          f"batch {work.batch} x {work.length}, {work.optimizer.name}")  # fmt: skip
    attention, experts = best_peer(work)
    sides = (
        Side("clearseek", heap=True),
        Side("clearseek, compiled", heap=True, compiled=True),
        Side("transformers", attention=attention, experts=experts),
        Side("transformers, heap kept", heap=True, attention=attention, experts=experts),
        # Eager experts gain nothing from the compiler.
        Side("transformers, compiled", compiled=True, attention="sdpa", experts="grouped_mm"),
    )
    times = by_turns(sides, work, 3, rounds)
    flops = flops_per_token(config, work.length, mtp=False)
    rates = {side: work.batch * work.length / statistics.median(seconds) for side, seconds in times.items()}
    percent = {side: 100 * rate * flops / peak for side, rate in rates.items()}
    ratios = {
        f"{side} / {other}": rates[side] / rates[other]
        for side in ("clearseek", "clearseek, compiled")
        for other in ("transformers", "transformers, heap kept", "transformers, compiled")
    }
    for side, rate in rates.items():
        print(f"  {side:24} {rate:8,.0f} tokens/s  {percent[side]:3.0f} % of matmul peak")
    for pair, ratio in ratios.items():
        print(f"  {pair:52} {ratio:.2f}x")
    return {
        "tokens_per_second": rates,
        "ratios": ratios,
        "percent_of_matmul_peak": percent,
        "seconds": times,
        "transformers_settings": f"{attention}, {experts}",
        "flops_per_token": flops,
        "batch": work.batch,
        "sequence_length": work.length,
        "optimizer": work.optimizer.name,
        "model": config.model_dump(mode="json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("quickstart", "quickstart, muon", "large"))
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--out", type=Path, help="JSON to write (default: results/train_speed-TYPE.json)")
    arguments = parser.parse_args()
    recipe = load_recipe("quickstart", ["model.num_nextn_predict_layers=0"])
    dtype, rates = pick_precision(arguments.precision)
    name_of_type = "bf16" if dtype == torch.bfloat16 else "fp32"
    peak = rates[name_of_type]
    report: dict[str, Any] = {"transformers": transformers.__version__,
                              "dtype": str(dtype), "matmul_peak_flops": peak,
                              "kernels": choose_kernels("auto", dtype, "cpu"), "results": {}}  # fmt: skip
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s in {dtype}; kernels {report['kernels']}")
    large = ModelConfig(**(recipe.model.model_dump() | LARGE))
    adamw = recipe.optimizer.model_copy(update={"name": "adamw"})
    runs = {
        "quickstart": (recipe.model, adamw),
        "quickstart, muon": (recipe.model, recipe.optimizer),
        "large": (large, adamw),
    }
    for name, (config, optimizer) in runs.items():
        if arguments.only is None or name == arguments.only:
            work = Work(config, 32, recipe.data.sequence_length, optimizer, dtype)
            report["results"][name] = compare(name, work, arguments.rounds, peak)
    out = arguments.out or RESULTS / f"train_speed-{name_of_type}.json"
    write_result(out, report)


if __name__ == "__main__":
    main()
