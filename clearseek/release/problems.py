"""Problems of a run as data: what a generator made, in a folder like any other run's.

Nobody needs the folder to train: the problems are a function of the recipe. It is what people look at, what an audit
finds, and what a verification makes again.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

import clearseek
from clearseek.config import Recipe
from clearseek.data.manifest import FORMAT, SPLITS, DocumentEntry, FileEntry, Manifest, Split, SplitEntry
from clearseek.data.manifest import canonical_sha256 as canonical
from clearseek.data.tokenizer import Tokenizer
from clearseek.files import atomic_folder, sha256_file
from clearseek.posttrain.solved import PROBLEMS
from clearseek.problems.problems import Problem
from clearseek.problems.questions import Questions, questions_of

LICENCE: Final = "Apache-2.0"
"""Of what ClearSeek's generators make, and reasoning-gym's; programs to write have the licence of `data.licence`."""


def makes_problems(recipe: Recipe) -> bool:
    """Whether a run's data are problems that are made while it trains, and no folder."""
    return recipe.problems is not None and recipe.sft is None


def write_problems(recipe: Recipe, tokenizer: Tokenizer, out: Path) -> Manifest:
    """Make the data folder of a run whose problems are made: prompts as tokens, those of each split.

    Args:
        recipe: The run's.
        tokenizer: Whose ids they are.
        out: The folder to make, which appears whole or not at all.
    """
    assert recipe.problems is not None
    questions = questions_of(recipe, tokenizer)
    width = 2 if recipe.model.vocab_size <= 2**16 else 4
    listed: list[DocumentEntry] = []
    licence = recipe.data.licence if recipe.problems.tasks else LICENCE
    with atomic_folder(out) as folder:
        tokenizer.save(folder / "tokenizer.json")
        for split in SPLITS:
            with (folder / f"{split}-00000.bin").open("wb") as file:
                for name, problem in _asked(recipe, questions, split):
                    ids = questions.ids(problem)
                    file.write(np.array(ids, dtype=f"<u{width}").tobytes())
                    text = tokenizer.decode(ids).encode()
                    listed.append(DocumentEntry(
                        id=name, sha256=hashlib.sha256(text).hexdigest(), bytes=len(text), licence=licence,
                        source=recipe.problems.kind, split=split, tokens=len(ids), fim=False,
                    ))  # fmt: skip
        lines = "".join(entry.model_dump_json() + "\n" for entry in listed)
        (folder / "documents.jsonl").write_text(lines, encoding="utf-8")
        fingerprint = questions.fingerprint
        manifest = Manifest(
            format=FORMAT, fingerprint=canonical(["rollouts-1", fingerprint]) if recipe.grpo else fingerprint,
            inputs=fingerprint, source=f"problems: {recipe.problems.dataset or recipe.problems.kind}",
            licences=dict(Counter(entry.licence for entry in listed)), config=recipe.data,
            vocab_size=recipe.model.vocab_size, token_bytes=2 if width == 2 else 4, duplicates=0, skipped=(),
            train=_counts(listed, "train"), heldout=_counts(listed, "heldout"), tokenizer_sha256=tokenizer.sha256,
            files=tuple(
                FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
                for path in sorted(folder.iterdir())
            ),
            versions={"clearseek": clearseek.__version__, "python": platform.python_version()},
            problems=recipe.problems,
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _asked(recipe: Recipe, questions: Questions, split: Split) -> Iterator[tuple[str, Problem]]:
    """Names and problems of a split, in the order in which they are asked."""
    train, grpo, distil = recipe.train, recipe.grpo, recipe.distil
    kind = questions.problems.config.kind
    if split == "heldout":
        held_out = questions.held_out(grpo.evaluate_problems) if grpo is not None else _first(questions)
        yield from ((f"{kind}:held-out:{number}", problem) for number, problem in enumerate(held_out))
        return
    if grpo is not None:
        count = -(-train.steps // grpo.updates) * (train.batch_size // grpo.completions)
    else:
        assert distil is not None
        count = distil.texts if distil.form == "text" else train.steps * train.batch_size
    yield from ((f"{kind}:{number}", questions.problems.train(number)) for number in range(count))


def _first(questions: Questions) -> list[Problem]:
    """Different problems among the first that are held out."""
    every = (questions.problems.held_out(number) for number in range(PROBLEMS))
    return list({problem.prompt: problem for problem in every}.values())


def _counts(listed: list[DocumentEntry], split: Split) -> SplitEntry:
    mine = [entry for entry in listed if entry.split == split]
    return SplitEntry(
        documents=len(mine), bytes=sum(entry.bytes for entry in mine), tokens=sum(entry.tokens for entry in mine),
        shards=(f"{split}-00000.bin",),
    )  # fmt: skip
