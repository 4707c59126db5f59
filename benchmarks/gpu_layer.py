"""The whole layer of experts as ClearSeek trains it: gather, both products, SwiGLU, combine, forward and backward.

FP8 with all its quantising, the weights' included although a step does that once for all its micro-batches, against
the same layer in BF16 on PyTorch's grouped product. Tokens choose experts as a learned router has them: with uneven
shares. PyTorch's compiler fuses the BF16 layer's SwiGLU; the faster of the two BF16 layers is what FP8 is held to.

Shapes: T tokens, K experts a token, E experts, D hidden, I width.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from gpu_common import Bench, Run, rate, summary
from gpu_kernels import SPREAD, sizes

TOLERANCE = 0.1
"""Allowed norm of a difference from the reference's layer, relative: sums that differ in BF16's last bit decide
roundings to eight bits, as in tests/fp8/backends/triton/test_model.py."""


def layer(bench: Bench) -> None:
    """Check the layer at a small size, then time it at DeepSeek's."""
    bench.report["layer"] = {}
    for name in bench.backends:
        if bench.has(15, f"checking the layer, {name}"):
            with bench.attempt(f"checking the layer, {name}"):
                _check(bench, name)
    if bench.has(20, "timing the layer"):
        with bench.attempt("timing the layer"):
            _time(bench)


def _experts(bench: Bench, hidden: int, width: int, experts: int, k: int) -> Any:
    """The routed experts of a layer, weights BF16."""
    from clearseek.config import ModelConfig
    from clearseek.model.experts import Experts

    config = ModelConfig(
        vocab_size=128, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=1, kv_lora_rank=128,
        qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=128,
        moe_intermediate_size=width, n_routed_experts=experts, num_experts_per_tok=k, max_position_embeddings=128,
    )  # fmt: skip
    with torch.device(bench.device):
        found = Experts(config)
    for parameter in found.parameters():
        parameter.data = bench.normal(*parameter.shape, name="weights") * 0.02
    return found


def _routing(bench: Bench, tokens: int, experts: int, k: int) -> Any:
    """Each token's `k` experts, drawn without repetition by uneven shares; their weights want gradients."""
    from clearseek.ops.dispatch import Routing

    logits_E = SPREAD * torch.randn(experts, generator=bench.generator("shares"))
    uniform_TE = torch.rand(tokens, experts, generator=bench.generator("choices")).clamp(1e-9, 1 - 1e-7)
    index_TK = (logits_E - (-uniform_TE.log()).log()).topk(k, dim=1).indices.to(bench.device)
    weight_TK = torch.rand(tokens, k, generator=bench.generator("weights")).to(bench.device).requires_grad_()
    return Routing.of(index_TK, weight_TK, experts)


def _use(experts: Any, fp8: Any) -> None:
    experts.fp8 = fp8
    for parameter in experts.parameters():
        parameter.grad = None
        parameter.grad_dtype = None if fp8 is None else torch.float32


def _fp8(name: str, backend: Any, scales: str = "power-of-two") -> Any:
    from clearseek.config import Fp8Config
    from clearseek.fp8.linear import Fp8

    return Fp8(Fp8Config(scales=scales, backend=name), backend)  # type: ignore[arg-type]


def _check(bench: Bench, name: str) -> None:
    """Output and gradients of a backend's layer against the reference's, the norm of the difference over the norm."""
    from clearseek.fp8.backends.reference import reference

    tokens, hidden, width, count, k = bench.pick((512, 1024, 512, 8, 2), (48, 128, 128, 2, 1))
    experts = _experts(bench, hidden, width, count, k)
    found = {}
    for side, backend in (("found", bench.backends[name]), ("expected", reference())):
        _use(experts, _fp8(name if side == "found" else "reference", backend))
        _fresh_weights(experts)
        routing = _routing(bench, tokens, count, k)
        x = bench.normal(tokens, hidden, name="x").requires_grad_()
        y = experts(x, routing)
        y.backward(bench.normal(tokens, hidden, name="g"))
        gradients = {"gate and up": experts.gate_up_proj.grad, "down": experts.down_proj.grad}
        found[side] = {"output": y.detach(), "input": x.grad, "router weight": routing.weight_TK.grad, **gradients}
    for what, expected in found["expected"].items():
        distance = float((found["found"][what].float() - expected.float()).norm() / expected.float().norm())
        entry = {"backend": name, "what": what, "distance": distance, "passed": distance <= TOLERANCE}
        bench.record("checks", entry)
        print(f"  {name}, {what}: differs from the reference's by {distance:.5f} {'' if entry['passed'] else 'WRONG'}")


def _fresh_weights(experts: Any) -> None:
    """Have the weights quantised anew at the next call, as after an optimiser's step."""
    from clearseek.fp8.linear import QuantisedWeight

    experts.quantised = QuantisedWeight(), QuantisedWeight()


def no_compiler(bench: Bench) -> str | None:
    """Why ``train.kernels = "compile"`` cannot be tried; None if it can."""
    from clearseek.errors import UserError
    from clearseek.ops.compiled import choose_kernels

    if bench.smoke:
        return "compiling takes a minute on a small machine"
    try:
        choose_kernels("compile", torch.bfloat16, str(bench.device))
    except UserError as error:
        return str(error)
    return None


def _time(bench: Bench) -> None:
    from clearseek.ops.compiled import use_kernels

    tokens, hidden, width, count, k = bench.pick((16384, 7168, 2048, 8, 2), (48, 128, 128, 2, 1))
    experts, routing = _experts(bench, hidden, width, count, k), _routing(bench, tokens, count, k)
    x, g = bench.normal(tokens, hidden, name="x").requires_grad_(), bench.normal(tokens, hidden, name="g")
    load = routing.load_E.tolist()
    bench.report["layer"] |= {"tokens": tokens, "experts_per_token": k, "load": load}

    def prepare(fp8: Any, compiled: bool, fresh: bool) -> None:
        use_kernels("compile" if compiled else "torch")
        _use(experts, fp8)
        if fresh:
            _fresh_weights(experts)
        x.grad = routing.weight_TK.grad = None

    def call() -> None:
        experts(x, routing).backward(g)

    runs = {"bf16": Run(call, lambda: prepare(None, False, False))}
    if why := no_compiler(bench):
        bench.leave_out("the compiled BF16 layer", why)
    else:
        runs["bf16, compiled"] = Run(call, lambda: prepare(None, True, False))
    for name, backend in bench.backends.items():
        fp8 = _fp8(name, backend)
        runs[name] = Run(call, lambda fp8=fp8: prepare(fp8, False, True))
        if name == "triton":
            runs["triton, weights kept"] = Run(call, lambda fp8=fp8: prepare(fp8, False, False))
    try:
        times = bench.time(runs)
    finally:
        use_kernels("torch")
    _report(bench, times, 3 * 2 * tokens * k * 3 * width * hidden)


def _bare_products(bench: Bench) -> float | None:
    """Microseconds of forward and both gradients of both shapes, as timed one by one: what no BF16 layer goes below."""
    products = bench.report.get("kernels", {}).get("products", [])
    mine = [entry["microseconds"] for entry in products if (entry["backend"], entry["split"]) == ("bf16", "learned")]
    return sum(mine) if len(mine) == 3 * len(sizes(bench)[2]) else None


def _report(bench: Bench, times: dict[str, list[float]], flops: int) -> None:
    baseline = min((statistics.median(times[name]) for name in times if name.startswith("bf16")), default=None)
    if (bare := _bare_products(bench)) is not None:
        bench.report["layer"]["bf16_products_alone_microseconds"] = bare
        print(f"  {'the six BF16 products alone':28} {bare / 1e3:9.3f} ms (no gather, SwiGLU or combine)")
    for name, seconds in times.items():
        ratio = baseline / statistics.median(seconds) if baseline else None
        entry = {"layer": name, "flops_per_second": rate(seconds, flops), "times_bf16": ratio, **summary(seconds)}
        bench.record("times", entry)
        print(f"  {name:28} {statistics.median(seconds) * 1e3:9.3f} ms {rate(seconds, flops) / 1e12:8.1f} TFLOP/s "
              f"{ratio or 0:5.2f} x the faster BF16")  # fmt: skip
