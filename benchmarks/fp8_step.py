"""What a training step in FP8 costs where there is no FP8: the quickstart's step here, against FP32 and BF16.

All models train in one process, step about, with everything a run does between two batches except evaluation and the
transcript. What is not FP8 computes in the type that a run would take here; BF16 is left out where this processor has
no instructions for it. ``python benchmarks/fp8_step.py`` prints medians and writes
``benchmarks/results/fp8_step-TYPE.json``, named after the type that is not FP8.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import write_result

from clearseek.config import Fp8Config
from clearseek.fp8.backends.choose import choose
from clearseek.machine import pick_precision
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import choose_kernels, kernels_environment, use_kernels
from clearseek.recipe import load_recipe
from clearseek.train.chunks import gradient_norm
from clearseek.train.optimizer import MasterOptimizer
from clearseek.train.preflight import settle_numerics
from clearseek.train.work import everything

RESULTS = Path(__file__).parent / "results"
VARIANTS = {
    "fp32": None,
    "bf16": None,
    "fp8": Fp8Config(),
    "fp8, reference": Fp8Config(backend="reference"),
    "fp8, reference, float scales": Fp8Config(scales="float", backend="reference"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants (default: all)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    settle_numerics(None, "cpu")
    recipe = load_recipe("quickstart")
    train, length = recipe.train, recipe.data.sequence_length
    sides: dict[str, tuple[DeepSeekModel, MasterOptimizer]] = {}
    precision = pick_precision("fp8")
    use_kernels(choose_kernels("auto", precision.dtype, "cpu"))
    print(f"otherwise {precision.dtype}; rates {precision.rates}; {kernels_environment() or 'PyTorch kernels'}")
    for name in arguments.only:
        settings = VARIANTS[name]
        if name == "bf16" and precision.emulated:
            continue
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(name, precision.dtype)
        model = DeepSeekModel(recipe.model)
        model.initialise(0)
        model.set_dtype(dtype)
        model.use_fp8(None if settings is None else choose(settings, torch.device("cpu"), dtype))
        sides[name] = model, MasterOptimizer(everything(model), recipe.optimizer)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    generator = torch.Generator().manual_seed(0)
    for number in range(arguments.rounds + 2):  # two rounds until heap and kernels are settled
        tokens = torch.randint(0, recipe.model.vocab_size, (train.batch_size, length + 2), generator=generator)
        for name, (model, optimizer) in sides.items():
            start = time.perf_counter()
            losses = model.loss(tokens, train.balance_loss_weight, train.mtp_loss_weight)
            losses.total.backward()
            gradients = optimizer.take_gradients()
            optimizer.step(gradients, gradient_norm(gradients), 0.1)
            model.update_biases(losses.load_LE, train.bias_update_speed)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: {base: median / medians[base] for base in ("fp32", "bf16") if base in medians}
              for name, median in medians.items()}  # fmt: skip
    for name, median in medians.items():
        print(f"{name:30} {median:6.3f} s   {', '.join(f'{v:.2f} x {base}' for base, v in ratios[name].items())}")
    report: dict[str, Any] = {
        "seconds": seconds,
        "kernels": kernels_environment(),
        "otherwise": str(precision.dtype).removeprefix("torch."),
        "flops_per_second": precision.rates,
        "ratios": ratios,
    }
    out = arguments.out or RESULTS / f"fp8_step-{'bf16' if precision.dtype == torch.bfloat16 else 'fp32'}.json"
    write_result(out, report)


if __name__ == "__main__":
    main()
