"""Generation on the GPU: do graphs compute what the plain operations compute, and how fast is a step?

The recipe `gpu-2b` with random weights in BF16. Logits of graphs are compared with those of the same operations in
FP32, and bits of a sequence alone with its bits among others: how far an answer depends on its neighbours is measured,
not promised. Times are those of a step that gives each of some sequences one token, at a context of 512.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from gpu_common import Bench
from gpu_training import TINY

CONTEXT, BATCHES = 512, (1, 4, 16, 64)


def generate(bench: Bench) -> None:
    """Check, then time."""
    bench.report["generate"] = {}
    if not bench.has(20, "generation"):
        return
    with bench.attempt("generation"):
        forwards = _forwards(bench)
        _check(bench, forwards)
        del forwards["FP32"]
        bench.free()
        for batch in BATCHES if not bench.smoke else (2,):
            if bench.has(5, f"generation at batch {batch}"):
                _time(bench, forwards, batch)


def _forwards(bench: Bench) -> dict[str, Any]:
    """The same random weights with and without graphs in BF16, and without in FP32."""
    from clearseek.config import ModelConfig
    from clearseek.inference.graphs import Graphed
    from clearseek.inference.packed import pack
    from clearseek.inference.plain import Plain
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.recipe import load_recipe

    changes = [f"{key}={value}" for key, value in TINY.items()] if bench.smoke else []
    config: ModelConfig = load_recipe("gpu-2b", changes).model
    with torch.device(bench.device):
        model = DeepSeekModel(config).requires_grad_(False)
    generator = torch.Generator(bench.device).manual_seed(bench.seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, config.initializer_range, generator=generator).copy_(parameter.bfloat16())
        else:
            parameter.fill_(1.0)
    for buffer in model.buffers():
        buffer.zero_()
    state = dict(model.state_dict())
    kinds: dict[str, Any] = {"plain": (Plain, "BF16"), "FP32": (Plain, "F32")}
    if bench.cuda:
        kinds["graphs"] = (Graphed, "BF16")
    pages = max(BATCHES) * (CONTEXT // 16 + 2)
    return {
        name: which(pack(config, state.__getitem__, kind), pages, 512, 2 * CONTEXT)
        for name, (which, kind) in kinds.items()
    }


def _rows(bench: Bench, forward: Any, batch: int, context: int, seed: int) -> Any:
    from clearseek.inference.engine import Rows

    draw = np.random.default_rng(seed)
    each, at = CONTEXT // 16 + 2, np.arange(batch)
    tokens = draw.integers(0, forward.config.vocab_size, batch)
    return Rows(tokens, np.full(batch, context), at, np.arange(batch * each).reshape(batch, each), at)


def _check(bench: Bench, forwards: dict[str, Any]) -> None:
    """Eight sequences of 24 tokens: logits against FP32, and bits against each sequence alone."""
    found: dict[str, list[Any]] = {}
    for name, forward in forwards.items():
        found[name] = [forward.step(_rows(bench, forward, 8, at, at)).clone() for at in range(24)]
    spread = torch.stack(found["FP32"]).std().item()
    for name in forwards.keys() - {"FP32"}:
        pairs = list(zip(found[name], found["FP32"], strict=True))
        alone = []
        for at in range(24):
            rows = _rows(bench, forwards[name], 8, at, at)
            one = rows._replace(tokens=rows.tokens[:1], positions=rows.positions[:1], sequences=rows.sequences[:1],
                                pages=rows.pages[:1], wanted=rows.wanted[:1])  # fmt: skip
            alone.append(bool(torch.equal(forwards[name].step(one)[0], found[name][at][0])))
        entry = {
            "forward": name, "difference": max((a - b).abs().max().item() for a, b in pairs) / spread,
            "same best": statistics.mean((a.argmax(1) == b.argmax(1)).double().mean().item() for a, b in pairs),
            "same bits alone": statistics.mean(alone),
        }  # fmt: skip
        bench.record("checks", entry)
        print(f"  {name}: {entry}")


def _time(bench: Bench, forwards: dict[str, Any], batch: int) -> None:
    """Milliseconds of a step, by turns; the result is on the host when it ends."""
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(bench.pick(12, 2)):
        for name, forward in forwards.items():
            rows = _rows(bench, forward, batch, bench.pick(CONTEXT, 8) - 1, number)
            bench.synchronise()
            begun = time.perf_counter()
            forward.step(rows)
            if number:  # the first call captures
                times[name].append(1e3 * (time.perf_counter() - begun))
    entry = {"batch": batch} | {name: statistics.median(each) for name, each in times.items()}
    bench.record("times", entry)
    print(f"  batch {batch}: " + ", ".join(f"{name} {entry[name]:.2f} ms" for name in forwards))
