"""Training steps of whole models, in BF16 and in FP8: tokens a second, share of the BF16 peak, memory, losses.

Steps are ClearSeek's: micro-batches summed in a tree, clip, FP32 masters, balance biases, multi-token prediction. Both
precisions start from the same weights and see the same tokens: half of them follow from the token before, drawn from
Zipf's distribution, so that there is something to learn and experts are loaded unevenly. Routing is learned, nothing
forces a balance. One model is held at a time, so that its memory can be told.

Two models: the recipe `gpu-2b`, and one of about the same size whose experts are as wide as DeepSeek-V3's.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from gpu_common import Bench
from gpu_layer import no_compiler
from torch import Tensor

WIDE = {
    "model.hidden_size": 3072, "model.num_hidden_layers": 7, "model.num_attention_heads": 24,
    "model.q_lora_rank": 1024, "model.kv_lora_rank": 512, "model.intermediate_size": 8192,
    "model.moe_intermediate_size": 2048, "model.n_routed_experts": 16, "model.num_experts_per_tok": 4,
    "model.n_group": 1, "model.topk_group": 1, "model.num_nextn_predict_layers": 0, "optimizer.name": "adamw",
}  # fmt: skip
"""2.4 billion parameters in few and wide experts: large products. AdamW, as DeepSeek had it: on matrices of this size
Muon's own products would be a fifth of a step, and are not the model's."""
TINY = {
    "model.vocab_size": 256, "model.hidden_size": 128, "model.num_hidden_layers": 2, "model.num_attention_heads": 2,
    "model.q_lora_rank": 128, "model.kv_lora_rank": 128, "model.qk_nope_head_dim": 32, "model.qk_rope_head_dim": 16,
    "model.v_head_dim": 32, "model.intermediate_size": 128, "model.moe_intermediate_size": 128,
    "model.n_routed_experts": 2, "model.num_experts_per_tok": 1, "model.n_group": 1, "model.topk_group": 1,
    "model.num_nextn_predict_layers": 0,
}  # fmt: skip
LENGTH, SEQUENCES, MICRO_BATCHES = 2048, 32, (16, 8, 4)
"""Tokens a sequence, sequences a step; micro-batches are tried from the largest until one fits."""


def training(bench: Bench) -> None:
    """Train each model in both precisions; the recipe's model once more without the compiler if time is left."""
    bench.report["training"] = {}
    why = no_compiler(bench)
    if why:
        bench.leave_out("training with compiled kernels", why)
    plan = [("gpu-2b", {}, not why), ("wide", WIDE, not why)]
    plan += [] if why else [("gpu-2b", {}, False)]
    if bench.smoke:
        plan = [("tiny", TINY, False)]
    for name, changes, compiled in plan:
        _pair(bench, name, changes, compiled)


def _recipe(bench: Bench, changes: dict[str, Any]) -> Any:
    from clearseek.recipe import load_recipe

    overrides = [f"{key}={value}" for key, value in changes.items()]
    return load_recipe("gpu-2b", [*overrides, f"data.sequence_length={bench.pick(LENGTH, 32)}"])


def _pair(bench: Bench, name: str, changes: dict[str, Any], compiled: bool) -> None:
    """BF16, then FP8, with the same micro-batch."""
    from clearseek.ops.compiled import use_kernels

    label = f"{name}{', compiled' if compiled else ''}"
    found: dict[str, dict[str, Any]] = {}
    micro = list(bench.pick(MICRO_BATCHES, (2,)))
    seconds = 40.0
    for precision in ("bf16", "fp8"):
        if not bench.has(seconds, f"training {label} in {precision}"):
            break
        began = bench.elapsed
        with bench.attempt(f"training {label} in {precision}"):
            use_kernels("compile" if compiled else "torch")
            found[precision] = _first_that_fits(bench, _recipe(bench, changes), precision, micro)
            _report(bench, {"model": name, "compiled": compiled, "precision": precision, **found[precision]})
        use_kernels("torch")
        bench.free()
        seconds = min(bench.elapsed - began, 45.0)  # the first one may have compiled
    if len(found) == 2:
        ratio = found["fp8"]["tokens_per_second"] / found["bf16"]["tokens_per_second"]
        same_work = found["fp8"]["micro_batch_size"] == found["bf16"]["micro_batch_size"]
        entry = {"model": name, "compiled": compiled, "fp8_over_bf16": ratio, "same_micro_batches": same_work}
        bench.record("ratios", entry)
        print(f"  {label}: FP8 is {ratio:.3f} x BF16{'' if same_work else ' (but their micro-batches differ)'}")


def _first_that_fits(bench: Bench, recipe: Any, precision: str, sizes: list[int]) -> dict[str, Any]:
    """The largest micro-batch that memory holds; those that it does not are dropped from `sizes`."""
    while True:
        try:
            return _train(bench, recipe, precision, sizes[0])
        except torch.OutOfMemoryError:
            if len(sizes) == 1:
                raise
            print(f"  {precision}: {sizes.pop(0)} sequences at once do not fit, trying {sizes[0]}")
        bench.free()


def _model(bench: Bench, recipe: Any, precision: str) -> tuple[Any, str | None]:
    """A model with weights drawn on the device (a CPU takes half a minute for them), and FP8's backend."""
    from clearseek.config import Fp8Config
    from clearseek.fp8.backends.choose import choose
    from clearseek.model.transformer import DeepSeekModel

    with torch.device(bench.device):
        model = DeepSeekModel(recipe.model)
    generator = torch.Generator(bench.device).manual_seed(bench.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, recipe.model.initializer_range, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    model.set_dtype(torch.bfloat16)
    fp8 = None
    if precision == "fp8":
        fp8 = choose(Fp8Config(backend=bench.pick("auto", "triton")), bench.device)
    model.use_fp8(fp8)
    return model, None if fp8 is None else fp8.backend.name


def _tokens(bench: Bench, recipe: Any, sequences: int, step: int) -> Tensor:
    """A batch [B, S + 1 + MTP]: every second token on average follows from the one before it."""
    vocabulary = recipe.model.vocab_size
    length = recipe.data.sequence_length + 1 + recipe.model.num_nextn_predict_layers
    generator = bench.generator("tokens", step)
    zipf = 1.0 / torch.arange(1, vocabulary + 1)
    drawn = torch.multinomial(zipf, sequences * length, replacement=True, generator=generator).view(sequences, length)
    follows = torch.rand(sequences, length, generator=generator) < 0.5
    for position in range(1, length):
        after = (drawn[:, position - 1] * 31 + 7) % vocabulary
        drawn[:, position] = torch.where(follows[:, position], after, drawn[:, position])
    return drawn


def _train(bench: Bench, recipe: Any, precision: str, micro: int) -> dict[str, Any]:
    """Some steps; the first ones, in which kernels are built, do not count."""
    from clearseek.counts import flops_per_token
    from clearseek.train.optimizer import MasterOptimizer
    from clearseek.train.work import everything

    held = 0
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
        held = torch.cuda.memory_allocated(bench.device)
    began = bench.elapsed
    model, backend = _model(bench, recipe, precision)
    optimizer = MasterOptimizer(everything(model), recipe.optimizer)
    sequences, warm_up, most = bench.pick((SEQUENCES, 3, 12), (2, 1, 1))
    seconds: list[float] = []
    losses: list[float] = []
    balances: list[float] = []
    prepared = 0.0
    for step in range(warm_up + most):
        batch = _tokens(bench, recipe, sequences, step).to(bench.device)
        bench.synchronise()
        if step == warm_up:
            prepared = bench.elapsed - began
        started = time.perf_counter()
        loss, balance = _step(model, optimizer, recipe, batch, sequences // micro, min(1.0, (step + 1) / 10))
        bench.synchronise()
        losses.append(loss)
        balances.append(balance)
        if step >= warm_up:
            seconds.append(time.perf_counter() - started)
        late = bench.elapsed + (time.perf_counter() - started) > bench.until
        if late and seconds:
            break
    rate = sequences * recipe.data.sequence_length / statistics.median(seconds)
    flops = flops_per_token(recipe.model, recipe.data.sequence_length)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "backend": backend,
        "micro_batch_size": micro,
        "tokens_per_step": sequences * recipe.data.sequence_length,
        "tokens_per_second": rate,
        "model_flops_per_second": rate * flops,
        "flops_per_token": flops,
        "seconds_per_step": seconds,
        "seconds_to_prepare": prepared,
        "losses": losses,
        "most_loaded_expert_over_mean": balances,
        "peak_memory": torch.cuda.max_memory_allocated(bench.device) - held if bench.cuda else None,
        "optimizer": recipe.optimizer.name,
        "model_config": recipe.model.model_dump(mode="json"),
    }


def _step(
    model: Any, optimizer: Any, recipe: Any, batch: Tensor, micro_batches: int, factor: float
) -> tuple[float, float]:
    """One step as the trainer takes it: (loss in nats a token, the most loaded expert's load over the mean)."""
    from clearseek.train.accumulate import TreeSum
    from clearseek.train.chunks import gradient_norm

    train, sums, loads = recipe.train, TreeSum(), []
    for micro in batch.chunk(micro_batches):
        losses = model.loss(micro, train.balance_loss_weight, train.mtp_loss_weight)
        (losses.total / micro_batches).backward()
        gradients = optimizer.take_gradients()
        sums.push([*gradients, losses.main / micro_batches])
        loads.append(losses.load_LE.cpu())
        del losses, gradients
    *gradients, loss = sums.result()
    optimizer.step(gradients, gradient_norm(gradients), factor)
    load_LE = torch.stack(loads).sum(0)
    model.update_biases(load_LE, train.bias_update_speed)
    return loss.item(), float((load_LE.amax(1) / load_LE.double().mean(1)).max())


def _report(bench: Bench, entry: dict[str, Any]) -> None:
    peaks = bench.report.get("machine", {}).get("peaks", {}).get("flops_per_second", {})
    peak: float | None = peaks.get("bf16")
    entry["percent_of_bf16_peak"] = 100 * entry["model_flops_per_second"] / peak if peak else None
    bench.record("runs", entry)
    memory = f", {entry['peak_memory'] / 2**30:.1f} GiB" if entry["peak_memory"] else ""
    share = f", {entry['percent_of_bf16_peak']:.1f} % of the BF16 peak" if peak else ""
    label = f"{entry['model']}{', compiled' if entry['compiled'] else ''}, {entry['precision']}"
    print(f"  {label} ({entry['parameters'] / 1e9:.2f} billion parameters, {entry['backend'] or 'PyTorch'}): "
          f"{entry['tokens_per_second']:,.0f} tokens/s{share}{memory}, "
          f"loss {entry['losses'][0]:.3f} to {entry['losses'][-1]:.3f}, "
          f"largest load {entry['most_loaded_expert_over_mean'][-1]:.2f} x the mean")  # fmt: skip
