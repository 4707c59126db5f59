"""lm-evaluation-harness on ClearSeek's engine beside its own Hugging Face backend: samples a second, by turns, in FP32.

Five kinds of work, on the same exported model: multiple choice with four answers of some tokens, the same after five
examples that all questions share, letters as answers after shared examples (one token each), perplexity of documents
longer than the context, and greedy generation after shared examples. Tokenizing counts on both sides. The Hugging Face
backend gets, for each kind, its fastest batch size and expert implementation, found by trying. Numbers must agree to
1e-4 and a millionth, for the backend adds in FP32; flags must be the same.

``python benchmarks/harness_speed.py MODEL --peer-python PYTHON``, where MODEL is a run folder or an export (a random
model of the quickstart's size without it) and PYTHON has lm-eval with its ``hf`` extra, prints a table and writes
``benchmarks/results/harness_speed.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from record import write_result
from turns import Side, Turns, add_options, best, by_turns, rates, table

RESULT = Path(__file__).parent / "results" / "harness_speed.json"
AIMS = {"plain": 2.0, "shared examples": 4.0}
KINDS = {"choice": "plain", "choice, shared": "shared examples", "letters, shared": "shared examples",
         "perplexity": "plain", "generation, shared": "shared examples"}  # fmt: skip
TRIED = [{"batch": b, "experts": e} for b, e in itertools.product((1, 8, 32, 64), ("eager", "grouped_mm"))]
SOURCES = ("textwrap.py", "json/decoder.py", "heapq.py", "csv.py", "fractions.py", "shlex.py", "queue.py", "string.py")


def work(samples: int) -> dict[str, list[tuple[str, int, list[Any]]]]:
    """Requests of each kind: method, sample, arguments. All text is Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    text = "\n".join((library / name).read_text(encoding="utf-8") for name in SOURCES)
    lines, rng = [line for line in text.splitlines() if len(line.strip()) > 12], random.Random(1)

    def question(length: int) -> tuple[str, list[str]]:
        at = rng.randrange(len(lines) - 9)
        shown = "\n".join(lines[at : at + 8])[:length]
        return shown, [lines[at + 8].strip()[:60], *(rng.choice(lines).strip()[:60] for _ in range(3))]

    examples = [question(90) for _ in range(5)]
    shared = "".join(f"Code: {shown}\nNext: {answers[0]}\n\n" for shown, answers in examples)
    asked = [question(160) for _ in range(samples)]
    plain = [question(400) for _ in range(samples)]
    found: dict[str, list[tuple[str, int, list[Any]]]] = {}
    found["choice"] = [
        ("loglikelihood", n, [shown, "\n" + each]) for n, (shown, answers) in enumerate(plain) for each in answers
    ]
    prompts = [f"{shared}Code: {shown}\nNext:" for shown, _ in asked]
    found["choice, shared"] = [
        ("loglikelihood", n, [prompts[n], " " + each]) for n, (_, answers) in enumerate(asked) for each in answers
    ]
    found["letters, shared"] = [("loglikelihood", n, [prompts[n], f" {c}"]) for n in range(samples) for c in "ABCD"]
    found["perplexity"] = [
        ("loglikelihood_rolling", n, [text[at : at + 4000]])
        for n, at in enumerate(rng.randrange(len(text) - 4000) for _ in range(max(2, samples // 4)))
    ]
    settings = {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False}
    found["generation, shared"] = [("generate_until", n, [prompt, settings]) for n, prompt in enumerate(prompts)]
    return found


def side(name: str, folder: Path, threads: int) -> None:
    """One side: all requests of a kind for each request of the caller."""
    turns = Turns()
    import torch
    from lm_eval.api.instance import Instance

    torch.set_num_threads(threads)
    kinds = json.loads((folder / "work.json").read_text())
    lm: Any = _ours(folder) if name == "clearseek" else _theirs(folder)
    facts = {"parameters": sum(each.numel() for each in lm.model.parameters())} if name != "clearseek" else {}
    turns.hello(threads=torch.get_num_threads(), **facts)
    while (request := turns.wait()) is not None:
        if name != "clearseek":
            lm.batch_size_per_gpu = request["batch"]
            lm.model.set_experts_implementation(request["experts"])
            turns.restart()
        else:
            before = vars(lm.counts).copy()
        asked = kinds[request["kind"]]
        method = asked[0][0]
        instances = [Instance(method, {}, tuple(arguments), 0, ("task", n, 1)) for _, n, arguments in asked]
        results = getattr(lm, method)(instances, disable_tqdm=True)
        did = {} if name != "clearseek" else {key: value - before[key] for key, value in vars(lm.counts).items()}
        turns.done(samples=len({n for _, n, _ in asked}), results=results, **did)


def _ours(folder: Path) -> Any:
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.evaluate.harness.adapter import EngineLM
    from clearseek.hub.read import import_hf
    from clearseek.inference.model import Model

    config, tensors = import_hf(folder / "export", allow_missing_mtp=True)
    tokenizer = Tokenizer.load(folder / "export" / "tokenizer.json")
    return EngineLM(Model.of("model", config, tensors, tokenizer, "F32"))


def _theirs(folder: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(folder / "export"), device="cpu", dtype="float32", batch_size=1)


def prepare(folder: Path, model: Path | None, samples: int) -> None:
    """Export the model in FP32, and write the work down."""
    import torch

    from clearseek.data.tokenizer import train
    from clearseek.hub.read import import_hf
    from clearseek.hub.write import export_hf
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.recipe import load_recipe
    from clearseek.train.run import Run

    kinds = work(samples)
    (folder / "work.json").write_text(json.dumps(kinds))
    tokenizer = folder / "tokenizer.json"
    if model is None:
        config = load_recipe("quickstart").model
        train([arguments[0] for asked in kinds.values() for _, _, arguments in asked], config.vocab_size).save(
            tokenizer
        )
        network = DeepSeekModel(config.model_copy(update={"initializer_range": 0.05}))
        network.initialise(1)
        config, tensors = network.config, dict(network.state_dict())
    elif (model / "config.json").is_file():
        (config, tensors), tokenizer = import_hf(model, allow_missing_mtp=True), model / "tokenizer.json"
    else:
        run = Run(model)
        network, _ = run.load_model()
        config, tensors, tokenizer = network.config, dict(network.state_dict()), run.tokenizer
    export_hf(tensors, config, tokenizer, folder / "export", torch.float32)


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides by turns."""

    def started(name: str, python: str, kept_heap: bool = False) -> Side:
        command = [python, __file__, "--side", name, str(folder), str(arguments.threads)]
        return Side(name, command, arguments.threads, folder / f"{name}.log", kept_heap)

    own, peer = started("clearseek", sys.executable), started("HFLM", arguments.peer_python)
    sides = [own, peer]
    if arguments.kept_heap:
        sides.append(started("HFLM, heap kept", arguments.peer_python, True))
    for each in sides:
        each.ready()
    report: dict[str, Any] = {"kinds": {}}
    for kind, aim in KINDS.items():
        print(kind, flush=True)
        chosen = best(peer, [{"kind": kind} | each for each in TRIED])
        asked = {"clearseek": (own, {"kind": kind})} | {each.name: (each, chosen) for each in sides[1:]}
        turns = by_turns(asked, 1, arguments.repeat)
        agreement = agree(kind, *(turns[name][0]["results"] for name in ("clearseek", "HFLM")))
        for answer in itertools.chain(*turns.values()):
            del answer["results"]
        found = rates(turns, "samples")
        report["kinds"][kind] = {
            "peer_settings": chosen, "rates": found, "ratios": table(found, "clearseek"), "aim": AIMS[aim],
            "agreement": agreement, "turns": turns,
        }  # fmt: skip
    report["facts"] = {each.name: each.facts for each in sides}
    for each in sides:
        each.close()
    return report


def agree(kind: str, ours: list[Any], theirs: list[Any]) -> dict[str, float]:
    """How well results agree. Ends the measurement where they do not."""
    if kind.startswith("generation"):
        share = sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)
        if share < 1:
            print(f"  {share:.1%} of texts are the same: two logits were within rounding in the others")
        return {"same texts": share}
    pairs = [
        (one, other) if isinstance(one, list) else ([one], [other]) for one, other in zip(ours, theirs, strict=True)
    ]
    difference = max(abs(one[0] - other[0]) for one, other in pairs)
    far = any(abs(one[0] - other[0]) > 1e-4 + 1e-6 * abs(one[0]) for one, other in pairs)
    if far or any(one[1:] != other[1:] for one, other in pairs):
        raise SystemExit(f"not the same work: {kind}: numbers differ by {difference}, or flags do")
    return {"largest difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a run folder or an export (default: a random model)")
    parser.add_argument("--samples", type=int, default=48, help="questions of each kind")
    add_options(parser, "the backend", "lm-eval[hf]", RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), arguments.model, arguments.samples)
        report = compare(Path(place), arguments)
    report |= {
        "what": __doc__.splitlines()[0], "threads": arguments.threads,
        "samples": arguments.samples, "aims": AIMS,
    }  # fmt: skip
    write_result(arguments.out, report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
