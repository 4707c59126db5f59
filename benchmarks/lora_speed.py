"""LoRA on attention and 64 experts: ClearSeek beside PEFT with transformers, on the same model, adapters and tokens.

Three comparisons, by turns, in FP32:

* A training step (forward, backward, clip, AdamW) on the adapters, against PEFT's. Losses must agree step by step.
* The same against ClearSeek's own step on all parameters.
* Greedy decoding at batch 1 through a cache with adapters that are *not* merged, against PEFT's ``generate``. Both
  write the same tokens where no two logits are within rounding, and how many are the same is recorded.

The model is random, and its adapters are too: both matrices of each. PEFT gets its fastest pair of attention and expert
implementation for training, and another for decoding, found by trying. ``python benchmarks/lora_speed.py --peer-python
PYTHON``, where PYTHON has PEFT and transformers, prints a table and writes ``benchmarks/results/lora_speed.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import write_result
from turns import Side, Turns, add_options, best, by_turns, rates, table

RESULT = Path(__file__).parent / "results" / "lora_speed.json"
MODEL: dict[str, Any] = {
    "vocab_size": 275, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "q_lora_rank": 128,
    "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "intermediate_size": 512,
    "moe_intermediate_size": 64, "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 0,
    "max_position_embeddings": 512, "initializer_range": 0.05, "num_nextn_predict_layers": 0,
}  # fmt: skip
LORA: dict[str, Any] = {"rank": 8, "alpha": 16.0, "targets": ["attention", "experts"]}
OPTIMIZER = {"name": "adamw", "learning_rate": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0,
             "grad_clip": 1.0}  # fmt: skip
AIMS = {"step over PEFT's": 1.5, "share of the full step": 0.8, "decoding over PEFT's": 5.0}
BATCH, LENGTH, PROMPT, NEW = 4, 256, 8, 32
TRIED = [{"attention": a, "experts": e} for a, e in itertools.product(("sdpa", "eager"), ("eager", "grouped_mm"))]


def adapted(config: Any) -> Any:
    """The model with adapters as they might be after training."""
    import torch

    from clearseek.config import LoraConfig
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.posttrain.lora import add_lora

    model = DeepSeekModel(config)
    model.initialise(1)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in add_lora(model, LoraConfig(**LORA), seed=2):
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.02)
    return model


def prepare(folder: Path) -> dict[str, int]:
    """Export model and adapters; parameters of each."""
    import torch

    from clearseek.config import ModelConfig
    from clearseek.data.tokenizer import train
    from clearseek.hub.write import export_hf
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.posttrain.lora import adapter_parameters
    from clearseek.posttrain.peft import export_peft

    config = ModelConfig(**MODEL)
    base, model = DeepSeekModel(config), adapted(config)
    base.initialise(1)
    train([], config.vocab_size).save(folder / "tokenizer.json")
    export_hf(dict(base.state_dict()), config, folder / "tokenizer.json", folder / "export", torch.float32)
    export_peft(model, folder / "adapter")
    return {"model": sum(p.numel() for p in base.parameters()),
            "adapters": sum(p.numel() for _, p in adapter_parameters(model))}  # fmt: skip


def tokens_of(number: int) -> Any:
    """The batch of a step, one token longer than its inputs; the peer has the same function."""
    import torch

    draw = torch.Generator().manual_seed(number)
    return torch.randint(20, MODEL["vocab_size"], (BATCH, LENGTH + 1), generator=draw)


def stepper(model: Any, named: list[tuple[str, Any]]) -> Callable[[Any], float]:
    """A training step of some parameters."""
    from clearseek.config import OptimizerConfig
    from clearseek.train.chunks import gradient_norm
    from clearseek.train.optimizer import MasterOptimizer, Trained

    schedule = [{"shape": "constant", "until": 1.0, "to": 1.0}]
    optimizer = MasterOptimizer([Trained(*each) for each in named], OptimizerConfig(**OPTIMIZER, schedule=schedule))

    def step(tokens: Any) -> float:
        losses = model.loss(tokens)
        losses.total.backward()
        gradients = optimizer.take_gradients()
        optimizer.step(gradients, gradient_norm(gradients), 1.0)
        return float(losses.main)

    return step


def ours(threads: int) -> None:
    """ClearSeek's side."""
    turns = Turns()
    import torch

    from clearseek.config import ModelConfig
    from clearseek.inference.sampler import Sampling, generate
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.ops.compiled import choose_kernels, use_kernels
    from clearseek.posttrain.lora import adapter_parameters
    from clearseek.train.preflight import settle_numerics

    settle_numerics(threads, "cpu")
    kernels = choose_kernels("auto", torch.float32, "cpu")
    use_kernels(kernels)
    config = ModelConfig(**MODEL)
    whole, model, written = DeepSeekModel(config), adapted(config), adapted(config)
    whole.initialise(1)
    steps = {"lora": stepper(model, adapter_parameters(model)), "full": stepper(whole, list(whole.named_parameters()))}
    done = dict.fromkeys(steps, 0)
    turns.hello(kernels=kernels, parameters=sum(p.numel() for p in whole.parameters()))
    while (request := turns.wait()) is not None:
        what = request["what"]
        if what == "decode":
            prompt = tokens_of(0)[0, :PROMPT].tolist()
            found = list(generate(written, prompt, NEW, Sampling(temperature=0.0)))
            turns.done(tokens=len(found), written=found)
        else:
            tokens = tokens_of(done[what])
            turns.restart()
            loss = steps[what](tokens)
            turns.done(steps=1, loss=loss)
            done[what] += 1


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides by turns."""
    threads = arguments.threads
    settings = {"model": MODEL, "optimizer": OPTIMIZER, "batch": BATCH, "length": LENGTH, "prompt": PROMPT, "new": NEW}
    (folder / "settings.json").write_text(json.dumps(settings))
    peer = [arguments.peer_python, str(Path(__file__).parent / "peer_peft.py"), str(folder)]
    own = Side("clearseek", [sys.executable, __file__, "--side", str(threads)], threads, folder / "ours.log")
    theirs = {"PEFT": Side("PEFT", peer, threads, folder / "peft.log")}
    if arguments.kept_heap:
        theirs["PEFT, heap kept"] = Side("PEFT, heap kept", peer, threads, folder / "heap.log", True)
    every = [own, *theirs.values()]
    for side in every:
        side.ready()
    first = {side.name: side.ask(what="lora")["loss"] for side in every}
    if max(first.values()) - min(first.values()) > 1e-4:
        raise SystemExit(f"not the same work: losses of the first step: {first}")
    chosen = {what: best(theirs["PEFT"], [{"what": what} | each for each in TRIED]) for what in ("lora", "decode")}
    report: dict[str, Any] = {"peer_settings": chosen, "first_loss": first}
    asked = {"clearseek": (own, {"what": "lora"}), "clearseek, all parameters": (own, {"what": "full"})}
    turns = by_turns(asked | {name: (side, chosen["lora"]) for name, side in theirs.items()}, 1, arguments.repeat)
    found = rates(turns, "steps")
    report["training"] = {"rates": found, "ratios": table(found, "clearseek"), "turns": turns}
    report["share_of_full_step"] = {
        clock: found["clearseek, all parameters"][key] / found["clearseek"][key]
        for clock in ("cpu", "wall") for key in [f"steps per {clock} second"]
    }  # fmt: skip
    print(f"  share of the full step: {report['share_of_full_step']}")
    asked = {"clearseek": (own, {"what": "decode"})}
    turns = by_turns(asked | {name: (side, chosen["decode"]) for name, side in theirs.items()}, 1, arguments.repeat)
    written = {name: answers[0]["written"] for name, answers in turns.items()}
    same = [len(set(each)) == 1 for each in zip(*written.values(), strict=True)]
    agreed = same.index(False) if False in same else len(same)
    print(f"  {agreed} of {NEW} tokens are the same")
    for answer in itertools.chain(*turns.values()):
        del answer["written"]
    found = rates(turns, "tokens")
    report["decoding"] = {"rates": found, "ratios": table(found, "clearseek"), "turns": turns, "same_tokens": agreed}
    report["facts"] = {side.name: side.facts for side in every}
    for side in every:
        side.close()
    return report | {"aims": AIMS, "settings": settings | {"lora": LORA, "threads": threads}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "PEFT", "PEFT and transformers", RESULT)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as place:
        sizes = prepare(Path(place))
        print(
            f"{sizes['model']:,} parameters, {sizes['adapters']:,} in adapters, {arguments.threads} threads", flush=True
        )
        report = compare(Path(place), arguments) | {"parameters": sizes}
    report |= {"what": __doc__.splitlines()[0], "threads": arguments.threads}
    write_result(arguments.out, report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        ours(int(sys.argv[2]))
    else:
        main()
