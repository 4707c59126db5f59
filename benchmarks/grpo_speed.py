"""Samples per second of policy optimisation: ClearSeek beside TRL's GRPOTrainer, on the same work.

Both begin from one random model, in a run folder and exported for transformers, and take steps by turns: read the same
prompts, write as many completions of the same length, reward them, and update once. FP32, AdamW with the same settings,
loss "dapo", no divergence from a reference, temperature 1, no recomputation. The model never writes the token that ends
a completion, so all have the greatest length on both sides; a completion's reward is the parity of its tokens' sum,
since with no spread there would be nothing to learn. TRL gets its fastest pair of attention and expert implementation,
found by trying. ClearSeek's step includes the record of the round, which is written to disk.

``python benchmarks/grpo_speed.py --peer-python PYTHON``, where PYTHON has TRL, prints a table and writes
``benchmarks/results/grpo_speed.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_result
from turns import Side, Turns, add_options, best, by_turns, check_equal, rates, table

RESULT = Path(__file__).parent / "results" / "grpo_speed.json"
MODEL: dict[str, Any] = {
    "vocab_size": 275, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "q_lora_rank": None,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16, "intermediate_size": 128,
    "moe_intermediate_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "max_position_embeddings": 256, "initializer_range": 0.1, "num_nextn_predict_layers": 0,
}  # fmt: skip
GROUP = 16
CASES = {"8 tokens": (16, 8, 2.0), "16 tokens": (16, 16, 2.0), "64 tokens": (8, 64, 3.0)}
"""Prompts of a step, tokens of a completion, and how many times TRL's samples per second we aim for."""
OPTIMIZER = {"name": "adamw", "learning_rate": 1e-5, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0,
             "grad_clip": 1.0, "schedule": [{"shape": "constant", "until": 1.0, "to": 1.0}]}  # fmt: skip
MOST_STEPS = 1000


def prepare(folder: Path) -> int:
    """Write the model as a run folder and as an export, and the prompts; its number of parameters."""
    import torch

    from clearseek.data.tokenizer import train
    from clearseek.hub.write import export_hf
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.recipe import parse_recipe
    from clearseek.train.checkpoints import checkpoint
    from clearseek.train.run import Run

    recipe = parse_recipe(
        {"name": "parent", "model": MODEL, "data": {"source": "files", "paths": ["none"], "licence": "CC0-1.0"},
         "train": {"steps": 1, "batch_size": 1}}, "parent",
    )  # fmt: skip
    model, tokenizer = DeepSeekModel(recipe.model).requires_grad_(False), train([], MODEL["vocab_size"])
    model.initialise(1)
    for name, weight in model.named_parameters():  # one channel is the same for all tokens, and speaks against the end
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
            weight[..., 0, :] = 0.0
    model.get_parameter("model.embed_tokens.weight")[:, 0] = 1.0
    model.head_weight[tokenizer.eos_id] = 0.0
    model.head_weight[tokenizer.eos_id, 0] = -1000.0
    run = Run(folder / "base")
    run.root.mkdir()
    run.write_recipe(recipe)
    tokenizer.save(run.tokenizer)
    tensors = {"weights": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}
    checkpoint.save(run.checkpoints, 0, tensors, {"imported": True}, keep=1)
    export_hf(dict(model.state_dict()), recipe.model, run.tokenizer, folder / "export", torch.float32)
    return sum(weight.numel() for weight in model.parameters())


def ours(folder: Path) -> None:
    """ClearSeek's side: a training step for each request."""
    turns, settings = Turns(), json.loads((folder / "settings.json").read_text())
    from clearseek.posttrain.grpo import Grpo, PolicyOptimisation
    from clearseek.train.origin import origin_of
    from clearseek.train.preflight import preflight
    from clearseek.train.run import Run
    from clearseek.train.step import Training

    recipe, questions = recipe_of(folder, settings)
    setup, run, method = preflight(recipe), Run(folder / "run"), Grpo()
    method.data(recipe, run, None, False, None, print)
    task = PolicyOptimisation(recipe, run, questions)
    training = Training(recipe, task, setup, method.trainable(recipe, run))
    origin_of(run).begin(training)
    turns.hello(kernels=setup.kernels)
    while turns.wait() is not None:
        record, _ = training.advance()
        assert task._round is not None
        rollouts = task._round.rollouts
        turns.done(
            samples=len(rollouts), tokens=int(rollouts.drawn_n.sum()), entropy=record.scalars["entropy"],
            prompts=list(dict.fromkeys(map(tuple, prompt_ids(rollouts)))),
        )  # fmt: skip


def prompt_ids(rollouts: Any) -> list[list[int]]:
    """Tokens of the prompts of a round's completions."""
    pieces = rollouts.token_T.split(rollouts.length_N.tolist())
    return [piece[:prompt].tolist() for piece, prompt in zip(pieces, rollouts.prompt_N.tolist(), strict=True)]


def recipe_of(folder: Path, settings: dict[str, Any]) -> Any:
    """Recipe and questions of a case, whose rewards have a spread."""
    from clearseek.config.posttraining import with_defaults
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.problems.problems import Problem, Problems
    from clearseek.problems.questions import Questions
    from clearseek.problems.rewards import Scored, scored
    from clearseek.recipe import parse_recipe

    class Parity(Questions):
        """A reward that half of all completions earn."""

        def score(self, problem: Problem, tokens: Any, ended: bool) -> Scored:
            return scored("right" if sum(map(int, tokens)) % 2 else "wrong")

    raw = {
        "name": "grpo", "parent": {"path": str(folder / "base")}, "model": MODEL, "optimizer": OPTIMIZER,
        "grpo": {"completions": GROUP, "max_tokens": settings["tokens"], "patience": MOST_STEPS},
        "problems": {"kind": "addition", "digits": 3},
        "train": {"steps": MOST_STEPS, "batch_size": GROUP * settings["prompts"], "precision": "fp32",
                  "threads": settings["threads"], "hash_every": MOST_STEPS},
    }  # fmt: skip
    recipe = parse_recipe(with_defaults(raw), "grpo")
    assert recipe.problems is not None
    tokenizer = Tokenizer.load(folder / "base" / "tokenizer.json")
    return recipe, Parity(tokenizer, Problems(recipe.problems), recipe.problems.template)


def compare(folder: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case, by turns."""
    from clearseek.data.tokenizer import BOS

    prompts, tokens, aim = CASES[name]
    settings = {
        "prompts": prompts, "group": GROUP, "tokens": tokens, "threads": arguments.threads, "optimizer": OPTIMIZER,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    _, questions = recipe_of(folder, settings)
    # ClearSeek begins a prompt with this token, and TRL where the text says so
    texts = [BOS + questions.problems.train(index).prompt for index in range(64 * prompts)]
    (folder / "prompts.json").write_text(json.dumps(texts))
    peer = [arguments.peer_python, str(Path(__file__).parent / "peer_trl.py"), "grpo", str(folder)]
    sides = {"clearseek": Side("clearseek", [sys.executable, __file__, "--side", str(folder)], arguments.threads,
                               folder / "clearseek.log")}  # fmt: skip
    sides["TRL"] = Side("TRL", peer, arguments.threads, folder / "trl.log")
    if arguments.kept_heap:
        sides["TRL, heap kept"] = Side("TRL, heap kept", peer, arguments.threads, folder / "trl-heap.log", True)
    for side in sides.values():
        side.ready()
    first = {each: side.ask() for each, side in sides.items()}
    for what in ("samples", "tokens", "prompts"):
        check_equal(what, {each: answer[what] for each, answer in first.items()})
    entropies = {each: answer["entropy"] for each, answer in first.items()}
    print(f"  {first['clearseek']['samples']} completions of {tokens} tokens; entropies "
          f"{', '.join(f'{value:.3f}' for value in entropies.values())}")  # fmt: skip
    tried = itertools.product(("sdpa", "eager"), ("eager", "grouped_mm"))  # batched_mm copies matrices: 4 times as slow
    chosen = best(sides["TRL"], [{"attention": a, "experts": e} for a, e in tried])
    asked = {each: (side, {} if each == "clearseek" else chosen) for each, side in sides.items()}
    turns = by_turns(asked, 1, arguments.repeat)
    facts = {each: side.facts for each, side in sides.items()}
    for side in sides.values():
        side.close()
    found = rates(turns, "samples")
    for answer in itertools.chain(*turns.values()):
        del answer["prompts"]
        check_equal("tokens", {"asked": GROUP * prompts * tokens, "done": answer["tokens"]})
    return {"settings": settings, "peer_settings": chosen, "facts": facts, "rates": found,
            "ratios": table(found, "clearseek"), "aim": aim, "entropies": entropies, "turns": turns}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "TRL", "TRL", RESULT)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    report: dict[str, Any] = {"what": __doc__.splitlines()[0], "threads": arguments.threads,
                              "model": MODEL, "results": {}}  # fmt: skip
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as place:
            report["parameters"] = prepare(Path(place))
            print(f"{name}: {report['parameters']:,} parameters, {arguments.threads} threads", flush=True)
            report["results"][name] = compare(Path(place), name, arguments)
    write_result(arguments.out, report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        ours(Path(sys.argv[2]))
    else:
        main()
