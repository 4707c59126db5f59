"""The documents of a release: card, report, data card, summaries. Each figure is the run's; the words are templates."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clearseek.counts import count_parameters, flops_per_token
from clearseek.data.croissant import dataset
from clearseek.posttrain.solved import PASS
from clearseek.release import scores
from clearseek.signing.hashing import hash_files
from clearseek.signing.tree import walk
from clearseek.templates import render
from clearseek.train.record import HELD_OUT_NATS

if TYPE_CHECKING:
    from clearseek.release.gather import Made

TEMPLATES: Final = {
    "README.md": "model-card.md.jinja",
    "REPORT.md": "report.md.jinja",
    "data/README.md": "data-card.md.jinja",
    "data/training-content-summary.md": "content-summary.md.jinja",
}
"""Path in a release -> template of the document."""


def all_documents(made: Made, place: Path) -> dict[str, str]:
    """Path -> text of every document."""
    values = facts(made)
    texts = {path: render("clearseek.release", name, figure, band, cell, **values) for path, name in TEMPLATES.items()}
    texts["data/croissant.json"] = json.dumps(croissant(made, place / "data"), indent=1) + "\n"
    if made.evaluation:
        texts["evaluation/held_out.json"] = json.dumps(made.evaluation, indent=1) + "\n"
    return texts | scores.hub_results(made.carried)


def facts(made: Made) -> dict[str, Any]:
    """What the templates may name."""
    recipe, steps = made.recipe, made.transcript.steps
    environment = made.transcript.header["environment"]
    return {
        "made": made,
        "lineage": made.lineage,
        "measured": [
            (measure(name), float.fromhex(text)) for name, text in made.evaluation.get("measured", {}).items()
        ],
        "recipe": recipe,
        "data": made.data,
        "evaluation": made.evaluation,
        "scored": [(each.name, scores.table(each), scores.again(each, made.name)) for each in made.carried],
        "model_index": _metadata(made),
        "licences": sorted(made.data.licences.items()),
        "count": count_parameters(recipe.model),
        "flops": flops_per_token(recipe.model, recipe.data.sequence_length) * steps[-1].tokens,
        "last": steps[-1],
        "curve": [steps[n] for n in sorted({0, *(len(steps) * q // 8 for q in range(1, 8)), len(steps) - 1})],
        "machine": ", ".join(f"{key} {value}" for key, value in environment.items() if isinstance(value, str | int)),
        "settings": json.dumps(recipe.model_dump(mode="json"), indent=1),
        "today": datetime.now(UTC),
    }


def _metadata(made: Made) -> str:
    """Lines of the card's metadata with the scores of tasks; empty without any."""
    index = scores.model_index(made.name, made.carried)
    return scores.as_yaml({"model-index": index}) if index else ""


def measure(name: str) -> str:
    """Name of a scalar that was measured on held-out data, in words."""
    words = (
        (PASS, "pass@1"), (HELD_OUT_NATS, "nats per token of answers"), ("_low", ", 95 % interval, low end"),
        ("_high", ", 95 % interval, high end"), ("_before", ", of the base"),
    )  # fmt: skip
    for short, long in words:
        name = name.replace(short, long)
    return name


def figure(count: int) -> str:
    """A count as cards write it, exact enough to be told from its neighbours: ``12.40M``."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def band(tokens: int) -> str:
    """The band of size, in the template of the AI Act's summary, for text."""
    if tokens < 1e9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 1e13 else "more than 10 trillion tokens"


def cell(text: str) -> str:
    """Foreign text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "/")


def croissant(made: Made, folder: Path) -> dict[str, Any]:
    """Croissant metadata of the data, with true hashes."""
    name = f"{made.name} training data"
    return dataset(
        name,
        f"Tokens, tokenizer and list of documents that {made.name} was trained on.",
        hash_files(folder, walk(folder).files),
        licences=made.data.licences,
        citation=f"{name}, fingerprint {made.data.fingerprint}",
        creator=f"{made.name} authors",
        published=datetime.now(UTC).date().isoformat(),
    )
