"""What the pages of ideas show and no other result has: exact quantities with a seed, none of them a time.

* ``balance``: the ladder's base trained three times, with the bias that balances its experts, with the sequence-wise
  loss in its place, and with neither: tokens of the busiest expert over the mean, step by step.
* ``experts``: which experts the held-out bytes of the first of these runs visit, by kind of byte.
* ``fp8``: relative error of numbers beside an outlier, by what shares a scale with it.
* ``grades``: rows of an audit by grade, of an export, of the release of the same run, and of that release verified
  (``--run RUN --release RELEASE``: a run, and what ``clearseek release`` made of it).

``python benchmarks/ideas.py all --folder FOLDER`` writes ``benchmarks/results/idea_*.json``, which
``python benchmarks/pictures.py`` draws.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parent / "results"
ARMS = {"bias": (0.01, 0.0), "auxiliary loss": (0.0, 1e-2), "neither": (0.0, 0.0)}
"""Speed of the bias and weight of the sequence-wise loss."""
SEED = 0
LAST = 50
"""Steps at the end over which a load is averaged."""
KINDS: dict[str, Callable[[str], bool]] = {
    "lower case": str.islower, "upper case": str.isupper, "digit": str.isdigit, "space": " ".__eq__,
    "line end": "\n".__eq__, "underscore": "_".__eq__, "bracket": "()[]{}".__contains__, "quote": "'\"".__contains__,
    "other sign": ".,:;=+-*/<>#@\\%&|!?".__contains__,
}  # fmt: skip
HELD_OUT_BYTES = 65_536
OUTLIERS = (1.0, 10.0, 100.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)
SHAPE = (256, 2048)


def balance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens of the busiest expert over the mean, in the mean of the layers, and held-out bits per byte."""
    from clearseek.recipe import load_recipe
    from clearseek.train.run import Run
    from clearseek.train.session import train_recipe
    from clearseek.train.transcript import check_transcript

    arms: dict[str, Any] = {}
    for name, (speed, weight) in ARMS.items():
        run = Run(arguments.folder / name.replace(" ", "-"))
        recipe = load_recipe("ladder-base", [
            f"train.bias_update_speed={speed}", f"train.balance_loss_weight={weight}", f"train.seed={SEED}",
            "train.threads=1",
        ])  # fmt: skip
        if not (run.root / "transcript.jsonl").is_file():
            train_recipe(recipe, run)
        lines = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        busiest = {line["step"]: sum(line["balance"]) / len(line["balance"]) for line in lines}
        held_out = check_transcript(run.root / "transcript.jsonl").steps[-1].scalars["held_out_bpb"]
        arms[name] = {"speed": speed, "weight": weight, "held_out_bpb": round(held_out, 4),
                      "busiest_at_the_end": round(fmean(busiest[step] for step in sorted(busiest)[-LAST:]), 4),
                      "busiest": [round(busiest[step], 4) for step in sorted(busiest)]}  # fmt: skip
    return {"arms": arms}


def experts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of each kind of byte, the share of its visits that each expert gets, layer by layer."""
    import torch

    from clearseek.data.tokenizer import Tokenizer
    from clearseek.train.run import Run

    run = Run(arguments.folder / "bias")
    model, _ = run.load_model()
    text = (run.root / "data" / "heldout.txt").read_bytes()[:HELD_OUT_BYTES].decode("utf-8", "ignore")
    tokenizer, window = Tokenizer.load(run.tokenizer), model.config.max_position_embeddings
    ids = tokenizer.encode(text)
    rows = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    visits: dict[str, Counter[tuple[int, int]]] = {name: Counter() for name in KINDS}
    tokens: Counter[str] = Counter()
    kinds = {one: _kind(tokenizer.decode([one])) for one in set(ids)}
    with torch.no_grad():
        for row in rows.split(16):
            routings = model.states(row).routings
            names = [kinds[one] for one in row[:, :-1].flatten().tolist()]  # the last of a row is only predicted
            tokens.update(name for name in names if name)
            for layer, routing in enumerate(routings):
                for name, chosen in zip(names, routing.index_TK.tolist(), strict=True):
                    if name:
                        visits[name].update((layer, expert) for expert in chosen)
    count, per_token = model.config.n_routed_experts, model.config.num_experts_per_tok
    layers = 1 + max(layer for counter in visits.values() for layer, _ in counter)
    shares = {
        name: [
            [round(counter[layer, expert] / (per_token * tokens[name]), 4) for expert in range(count)]
            for layer in range(layers)
        ]
        for name, counter in visits.items()
    }
    return {"tokens": dict(tokens), "visits a token": per_token, "shares": shares}


def _kind(text: str) -> str:
    return next((name for name, holds in KINDS.items() if len(text) == 1 and holds(text)), "")


def fp8(arguments: argparse.Namespace) -> dict[str, Any]:
    """Relative error of rounded numbers beside an outlier, by what shares a scale with it; the outliers do not count.

    Normal numbers; in each row of 2,048 one is that many times as large. Error is the norm of the difference over the
    norm of the numbers.
    """
    import torch

    from clearseek.fp8.formats import scale_of, to_e4m3
    from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_tiles

    torch.manual_seed(SEED)
    clean = torch.randn(SHAPE)
    here = torch.zeros(SHAPE, dtype=torch.bool)
    here[torch.arange(SHAPE[0]), torch.randint(SHAPE[1], (SHAPE[0],))] = True
    found: dict[str, list[float]] = {name: [] for name in ("tensor", "block", "tile", "BF16")}
    for size in OUTLIERS:
        x = torch.where(here, clean * size, clean)
        scale = scale_of(x.abs().amax(), False)
        rounded = {
            "tensor": to_e4m3(x / scale).float() * scale,
            "block": dequantise(quantise_blocks(x, power_of_two=False)),
            "tile": dequantise(quantise_tiles(x, power_of_two=False)),
            "BF16": x.bfloat16().float(),
        }
        for name, y in rounded.items():
            found[name].append(float((y - x)[~here].norm() / x[~here].norm()))
    return {"outliers": list(OUTLIERS), "error": found, "shape": list(SHAPE), "seed": SEED}


def grades(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows of an audit by grade, and whether they were answered with yes."""
    from clearseek import audit_release, export_hf, verify_release
    from clearseek.train.run import Run

    run = Run(arguments.run)
    model, _ = run.load_model()
    export = arguments.folder / "export"
    if not export.exists():
        export_hf(model.state_dict(), model.config, run.tokenizer, export)
    read = {row.id: row for row in audit_release(arguments.release)}
    verified = verify_release(arguments.release, levels=(0, 1, 2, 3, 4, 5), nonce="a picture for the page of evidence")
    again = {row.id: row for row in verified.rows}  # those that records bear on, and those of the verification
    rows = {"export": audit_release(export), "release": read.values(), "release, verified": (read | again).values()}
    return {"rows": {name: _by_grade(each) for name, each in rows.items()}}


def _by_grade(rows: Iterable[Any]) -> dict[str, int]:
    found = Counter(f"E{int(row.grade)}" for row in rows if row.answer == "yes")
    return {grade: found[grade] for grade in sorted(found)}


MEASURED: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "balance": balance, "experts": experts, "fp8": fp8, "grades": grades,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["all", *MEASURED])
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept, and found again")
    parser.add_argument("--run", type=Path, help="of grades: a run")
    parser.add_argument("--release", type=Path, help="of grades: that run's release")
    arguments = parser.parse_args()
    from record import write_result

    for name in MEASURED if arguments.what == "all" else [arguments.what]:
        found = MEASURED[name](arguments)
        write_result(RESULTS / f"idea_{name}.json", found)
        print(name, json.dumps(found)[:2000])


if __name__ == "__main__":
    main()
