"""Training speed of ClearSeek against transformers' own DeepSeek-V3, on the same work.

Both train the same shapes, batch, precision and optimiser in one process, step about. The peer gets its fastest
settings: every pair of attention and expert implementation is tried first and the best is kept. MTP is left out,
since the peer cannot train it. ``python benchmarks/train_speed.py`` prints a table and writes
``benchmarks/results/train_speed.json``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers

from clearseek.config import ModelConfig, OptimizerConfig
from clearseek.fusion import use_compiler
from clearseek.hub.layout import flops_per_token
from clearseek.machine import describe, measure_matmul_rates
from clearseek.model.transformer import DeepSeekModel
from clearseek.recipe import load_recipe
from clearseek.train.optimizer import MasterOptimizer, gradient_norm

RESULT = Path(__file__).parent / "results" / "train_speed.json"
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
HEAPS = {
    "kept": {-4: 0, -1: -1},  # what clearseek.machine.keep_heap sets
    "glibc": {-4: 65536, -3: 32 << 20, -1: 64 << 20},  # where glibc's self-adjusting defaults settle
}
"""mallopt settings: M_MMAP_MAX (-4), M_MMAP_THRESHOLD (-3), M_TRIM_THRESHOLD (-1)."""
Step = Callable[[torch.Tensor], float]


def stepper(model: torch.nn.Module, loss: Callable[[torch.Tensor], torch.Tensor], config: OptimizerConfig) -> Step:
    """One full training step: forward, backward, clip, update of FP32 masters."""
    optimizer = MasterOptimizer(model.named_parameters(), config)

    def step(tokens: torch.Tensor) -> float:
        value = loss(tokens)
        value.backward()
        gradients = [
            p.grad.float() if p.grad is not None else torch.zeros_like(p, dtype=torch.float32)
            for p in model.parameters()
        ]
        model.zero_grad()
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


def use_heap(policy: str) -> None:
    """Switch the process's allocator; where there is no glibc, nothing changes and both sides share one policy."""
    with suppress(AttributeError, OSError):
        for key, value in HEAPS[policy].items():
            ctypes.CDLL(None).mallopt(key, value)


def timed(step: Step, tokens: torch.Tensor) -> float:
    start = time.perf_counter()
    step(tokens)
    return time.perf_counter() - start


def best_peer(
    config: ModelConfig, dtype: torch.dtype, optimizer: OptimizerConfig, tokens: torch.Tensor
) -> tuple[str, Step]:
    """The peer's fastest settings on these shapes (the better of two steps each, after a first)."""
    tried: dict[str, float] = {}
    for attention in ("sdpa", "eager"):
        for experts in ("eager", "grouped_mm", "batched_mm"):
            if experts == "batched_mm" and tokens.numel() > 2048:
                continue  # copies three weight matrices per token and expert: tens of gigabytes here
            step = peer(config, dtype, optimizer, attention, experts)
            timed(step, tokens)
            tried[f"{attention}, {experts}"] = min(timed(step, tokens) for _ in range(2))
    best = min(tried, key=lambda name: tried[name])
    print("  peer settings tried:", {name: f"{seconds:.2f} s" for name, seconds in tried.items()})
    attention, experts = best.split(", ")
    return best, peer(config, dtype, optimizer, attention, experts)


def compare(name: str, config: ModelConfig, batch: int, length: int, rounds: int, optimizer: OptimizerConfig,
            dtype: torch.dtype, peak: float) -> dict[str, Any]:  # fmt: skip
    """Interleave both and report medians."""
    print(f"{name}: hidden {config.hidden_size}, {config.num_hidden_layers} layers, {config.n_routed_experts} experts, "
          f"batch {batch} x {length}, {optimizer.name}")  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, config.vocab_size, (batch, length + 1), generator=generator) for _ in range(rounds)]
    use_heap("glibc")
    settings, their_step = best_peer(config, dtype, optimizer, batches[0][:, :length])
    compiled_step = peer(config, dtype, optimizer, "sdpa", "grouped_mm", compiled=True)  # eager experts gain nothing
    our_step = ours(config, dtype, optimizer)
    sides = {
        "clearseek": ("kept", our_step),
        "clearseek, compiled": ("kept", our_step),
        "transformers": ("glibc", their_step),
        "transformers, heap kept": ("kept", their_step),
        "transformers, compiled": ("glibc", compiled_step),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number, tokens in enumerate([*batches[:3], *batches]):  # three rounds until heap and kernels are settled
        for side, (heap, step) in sides.items():
            use_heap(heap)
            use_compiler(side == "clearseek, compiled")
            seconds = timed(step, tokens if step is our_step else tokens[:, :length])
            if number >= 3:
                times[side].append(seconds)
    flops = flops_per_token(config, length, mtp=False)
    rates = {side: batch * length / statistics.median(seconds) for side, seconds in times.items()}
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
        "transformers_settings": settings,
        "flops_per_token": flops,
        "batch": batch,
        "sequence_length": length,
        "optimizer": optimizer.name,
        "model": config.model_dump(mode="json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("quickstart", "quickstart, muon", "large"))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    recipe = load_recipe("quickstart", ["model.num_nextn_predict_layers=0"])
    dtype = torch.bfloat16
    use_heap("kept")
    [peak] = measure_matmul_rates([dtype])
    report: dict[str, Any] = {"machine": describe(), "transformers": transformers.__version__,
                              "dtype": str(dtype), "matmul_peak_flops": peak, "results": {}}  # fmt: skip
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s in {dtype}")
    large = ModelConfig(**(recipe.model.model_dump() | LARGE))
    adamw = recipe.optimizer.model_copy(update={"name": "adamw"})
    runs = {
        "quickstart": (recipe.model, adamw),
        "quickstart, muon": (recipe.model, recipe.optimizer),
        "large": (large, adamw),
    }
    for name, (config, optimizer) in runs.items():
        if arguments.only is None or name == arguments.only:
            report["results"][name] = compare(
                name, config, 32, recipe.data.sequence_length, arguments.rounds, optimizer, dtype, peak
            )
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
