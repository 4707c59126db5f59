"""Learnt tokens per second of supervised fine-tuning: ClearSeek beside TRL's SFTTrainer, on the same conversations.

Both begin from the weights of one run and take turns of some optimiser steps in FP32 with the same AdamW. ClearSeek
trains on packs. TRL trains at the setting that is its best on a CPU: a conversation a row, eight rows a step, and the
loss on the assistant's tokens; once in the order of the data, and once with rows of like length together
(``group_by_length``), which pads less. It gets its fastest pair of attention and expert implementation, found by
trying. That both learn the same tokens of the same conversations is checked first. What counts is next tokens with
loss, in a second. The multi-token-prediction layer, which TRL cannot train, is left out; ClearSeek's balance loss is
not.

``python benchmarks/sft_speed.py RUN LINES --peer-python PYTHON``, where RUN is a trained run, LINES a file of JSON
lines such as gsm8k's and PYTHON has TRL, prints a table and writes ``benchmarks/results/sft_speed.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_result
from turns import Side, Turns, add_options, best, by_turns, check_equal, rates, table

RESULT = Path(__file__).parent / "results" / "sft_speed.json"
OPTIMIZER = {"name": "adamw", "learning_rate": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0,
             "grad_clip": 1.0, "schedule": [{"shape": "constant", "until": 1.0, "to": 1.0}]}  # fmt: skip
MOST_STEPS = 100_000
COMPARED = 32
AIM = 1.8
"""How many times TRL's learnt tokens per second we aim for."""


def recipe_of(settings: dict[str, Any]) -> Any:
    """The recipe of fine-tuning."""
    from clearseek.config.posttraining import with_defaults
    from clearseek.posttrain.parent import dimensions
    from clearseek.recipe import parse_recipe

    raw = {
        "name": "sft", "parent": {"path": settings["run"]}, "model": dimensions({"path": settings["run"]}),
        "sft": settings["sft"], "optimizer": OPTIMIZER,
        "data": {"source": "jsonl", "paths": [settings["lines"]], "licence": "unknown",
                 "sequence_length": settings["length"], "held_out_fraction": 0.0},
        "train": {"steps": MOST_STEPS, "batch_size": settings["rows"], "precision": "fp32", "mtp_loss_weight": 0.0,
                  "mtp_loss_weight_final": 0.0, "threads": settings["threads"], "hash_every": MOST_STEPS},
    }  # fmt: skip
    return parse_recipe(with_defaults(raw), "sft")


def prepare(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Pack the conversations, export the model, and write down for the peer what is in the first packs, in order."""
    import torch

    from clearseek.data.packs import Reading
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.hub.write import export_hf
    from clearseek.posttrain.conversations import prepare as pack
    from clearseek.posttrain.conversations import read_conversations
    from clearseek.posttrain.sft import FineTuning
    from clearseek.train.run import Run

    recipe, run = recipe_of(settings), Run(settings["run"])
    tokenizer = Tokenizer.load(run.tokenizer)
    model, _ = run.load_model()
    export_hf(dict(model.state_dict()), model.config, run.tokenizer, folder / "export", torch.float32)
    manifest = pack(recipe, tokenizer, folder / "packs")
    for line in manifest.pack_lines():
        print(f"  {line}")
    rendered = {
        example.id: example for example in read_conversations(recipe.data, recipe.sft, tokenizer, Reading(), Path.cwd())
    }
    task, names = FineTuning(recipe, folder / "packs"), list[str]()
    for step in itertools.count(1):
        names += task.contents(step)
        if len(names) >= 800 or step * settings["rows"] >= task.packs.windows_per_epoch:
            break
    lines = Path(settings["lines"]).read_text(encoding="utf-8").splitlines()
    conversations = [messages(json.loads(lines[int(name.rpartition(":")[2]) - 1]), settings["sft"]) for name in names]
    (folder / "conversations.json").write_text(json.dumps(conversations))
    first = [rendered[name] for name in names[:COMPARED]]
    return {"ours": [[[*pair] for pair in zip(each.ids, each.written, strict=True)] for each in first],
            "model": model.config.model_dump(mode="json")}  # fmt: skip


def messages(row: dict[str, Any], sft: dict[str, Any]) -> list[dict[str, str]]:
    """A line's conversation, as ClearSeek's recipe reads it."""
    answer = re.sub(sft["strip"], "", row[sft["answer"]]) if sft["strip"] else row[sft["answer"]]
    return [{"role": "user", "content": row[sft["prompt"]]}, {"role": "assistant", "content": answer}]


def ours(folder: Path) -> None:
    """ClearSeek's side: some training steps for each request."""
    turns, settings = Turns(), json.loads((folder / "settings.json").read_text())
    from clearseek.posttrain.sft import Sft
    from clearseek.train.origin import origin_of
    from clearseek.train.preflight import preflight
    from clearseek.train.run import Run
    from clearseek.train.step import Training

    recipe = recipe_of(settings)
    setup, run, method = preflight(recipe), Run(folder / "run"), Sft()
    data = method.data(recipe, run, folder / "packs", False, None, print)
    training = Training(recipe, method.task(recipe, run, data), setup, method.trainable(recipe, run))
    origin_of(run).begin(training)
    turns.hello(kernels=setup.kernels)
    while turns.wait() is not None:
        before = training.tokens
        for _ in range(settings["steps"]):
            record, _ = training.advance()
        turns.done(learnt=training.tokens - before, loss=record.scalars["loss"],
                   padded=settings["steps"] * settings["rows"] * settings["length"])  # fmt: skip


def compare(folder: Path, settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides by turns."""
    prepared = prepare(folder, settings)
    sides: dict[str, Side] = {}
    peer = [arguments.peer_python, str(Path(__file__).parent / "peer_trl.py"), "sft"]
    for name, grouped, kept in (
        ("TRL", False, False), ("TRL, grouped", True, False), ("TRL, heap kept", False, True),
        ("TRL, grouped, heap kept", True, True),
    ):  # fmt: skip
        if kept <= arguments.kept_heap:
            own = folder / name
            own.mkdir()
            (own / "settings.json").write_text(json.dumps(settings | {"grouped": grouped}))
            for shared in ("export", "conversations.json"):
                (own / shared).symlink_to(folder / shared)
            sides[name] = Side(name, [*peer, str(own)], arguments.threads, own / "log", kept)
            sides[name].ready()
            theirs = json.loads((own / "theirs.json").read_text())
            check_equal("ids and what is learnt", {"clearseek": prepared["ours"], name: theirs})
    (folder / "settings.json").write_text(json.dumps(settings))
    sides["clearseek"] = Side(
        "clearseek", [sys.executable, __file__, "--side", str(folder)], arguments.threads, folder / "log"
    )
    sides["clearseek"].ready()
    tried = itertools.product(("sdpa", "eager"), ("eager", "grouped_mm"))  # batched_mm copies three matrices a token
    chosen = best(sides["TRL"], [{"attention": a, "experts": e} for a, e in tried])
    turns = by_turns(
        {each: (side, {} if each == "clearseek" else chosen) for each, side in sides.items()}, 1, arguments.repeat
    )
    facts = {each: side.facts for each, side in sides.items()}
    for side in sides.values():
        side.close()
    found = rates(turns, "learnt")
    shares = {each: sum(a["learnt"] for a in answers) / sum(a["padded"] for a in answers)
              for each, answers in turns.items()}  # fmt: skip
    print("  learnt share of all places: " + ", ".join(f"{each} {share:.2f}" for each, share in shares.items()))
    return {"peer_settings": chosen, "facts": facts, "rates": found, "ratios": table(found, "clearseek"), "aim": AIM,
            "learnt_share": shares, "turns": turns, "model": prepared["model"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a trained run")
    parser.add_argument("lines", type=Path, help="JSON lines with a question and an answer each")
    parser.add_argument("--prompt", default="question", help="key of the question")
    parser.add_argument("--answer", default="answer", help="key of the answer")
    parser.add_argument("--strip", default="<<[^>]*>>", help="expression of what is taken out of answers; '' for none")
    add_options(parser, "TRL", "TRL", RESULT)
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps of a turn")
    parser.add_argument("--length", type=int, default=512, help="tokens of a pack")
    parser.add_argument("--rows", type=int, default=4, help="packs of a step (4 x 512 tokens hold about 8 of gsm8k)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    sft = {"prompt": arguments.prompt, "answer": arguments.answer, "strip": arguments.strip or None,
           "too_long": "skip"}  # fmt: skip
    settings = {
        "run": str(arguments.run.absolute()), "lines": str(arguments.lines.absolute()), "sft": sft, "batch": 8,
        "rows": arguments.rows, "length": arguments.length, "steps": arguments.steps, "threads": arguments.threads,
        "optimizer": OPTIMIZER, "compared": COMPARED,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        report = compare(Path(place), settings, arguments)
    del settings["run"], settings["lines"]
    report |= {
        "what": __doc__.splitlines()[0],
        "threads": arguments.threads,
        "settings": settings,
    }
    write_result(arguments.out, report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        ours(Path(sys.argv[2]))
    else:
        main()
