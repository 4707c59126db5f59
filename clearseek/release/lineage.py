"""What a child's release says of the models that it was made from: names, licence, and that licence's text.

The parent's weights are named by their hash in the run's own records. Its licence stands in the parent's folder, as a
card's metadata say, or is Apache-2.0 where ClearSeek trained it from a seed. Where neither can be read, the release
says that it is not known: a modified model stays under the licence of the one that it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.licences.places import is_licence
from clearseek.licences.table import lookup
from clearseek.reading.card import Document
from clearseek.train.run import Run, is_imported

OURS: Final = "Apache-2.0"
"""Licence of weights that ClearSeek trained from a seed."""
_DEEPEST: Final = 20
"""Generations that are followed."""
METHODS: Final = {"sft": "supervised fine-tuning", "grpo": "reinforcement learning", "distil": "distillation"}
"""Name of a method -> in words."""


@dataclass(frozen=True)
class Lineage:
    """Where the weights of a release come from."""

    licence: str
    """SPDX id, or another name; an empty string where it is not known."""
    text: bytes | None = None
    """The licence's own text, where the parent's folder has one."""
    parent: Mapping[str, Any] | None = None
    """What the transcript says of the parent; None for a model from a seed."""
    base: str = ""
    """Name of the parent, with its owner where it has a repository."""
    method: str = ""
    """What was done to the parent, in words."""
    here: bool = True
    """Whether the release holds the parent's weights."""
    earlier: tuple[tuple[str, str], ...] = ()
    """What the parent was made from, and so on, as far as the folders here say: name and SHA-256 of the weights."""
    teacher: Mapping[str, Any] | None = None
    """What the transcript says of the model that it learnt from; None without one."""

    @property
    def tag(self) -> str:
        """The licence as the hub's metadata have it."""
        return self.licence.lower() if self.licence else "other"

    @property
    def title(self) -> str:
        """The licence's title, or its name."""
        known = lookup(self.licence) if self.licence else None
        return self.licence if known is None else known.name


def lineage_of(
    recipe: Recipe, header: Mapping[str, Any], licence: str = "", base: str = "", here: bool = True
) -> Lineage:
    """Where the weights of a run come from.

    Args:
        recipe: The run's.
        header: Its transcript's.
        licence: The parent's licence, where its folder does not say.
        base: The parent's name on the hub, ``owner/name``.
        here: Whether the release holds the parent's weights.

    Raises:
        UserError: `licence` or `base` for a model that has no parent.
    """
    if recipe.parent is None:
        if licence or base:
            raise UserError("--base and --base-licence are of models that were made from another: leave them out")
        return Lineage(OURS)
    found, text = _licence(Path(recipe.parent.path), 0)
    parent = header.get("parent")
    named = parent.get("name", "") if isinstance(parent, dict) else ""
    method = next(words for name, words in METHODS.items() if getattr(recipe, name) is not None)
    return Lineage(
        licence or found, text, parent, base or str(named), method, here, _earlier(Path(recipe.parent.path), 0),
        header.get("teacher"),
    )  # fmt: skip


def _earlier(folder: Path, depth: int) -> tuple[tuple[str, str], ...]:
    """Names and hashes of what the model in a run folder or a release was made from, the nearest first."""
    runs = (Run(place) for place in (folder, folder / "training"))
    run = next((each for each in runs if each.extends and each.recipe.is_file()), None)
    if run is None or depth == _DEEPEST:
        return ()
    record, recipe = run.read_parent() or {}, run.read_recipe(record=True)
    if recipe.parent is None:  # a longer run, which went on from its own kind
        return ()
    nearest = str(record.get("name", "")), str(record.get("weights_sha256", ""))
    return (nearest, *_earlier(Path(recipe.parent.path), depth + 1))


def _licence(folder: Path, depth: int) -> tuple[str, bytes | None]:
    """Licence of the model in a folder and its text, as far as the folder says."""
    texts = (
        sorted(path for path in folder.iterdir() if path.is_file() and is_licence(path.name)) if folder.is_dir() else []
    )
    text = texts[0].read_bytes() if texts else None
    card = folder / "README.md"
    if card.is_file():
        try:
            said = Document("README.md", card.read_text(encoding="utf-8", errors="replace")).metadata.get("license")
        except UserError:
            return "", text
        known = lookup(said) if isinstance(said, str) else None
        return ("" if known is None else known.id), text
    if not (folder / "recipe.json").is_file() or (folder / "config.json").is_file() or is_imported(Run(folder)):
        return "", text
    recipe = Run(folder).read_recipe(record=True)
    if recipe.parent is None:
        return OURS, None
    return _licence(Path(recipe.parent.path), depth + 1) if depth < _DEEPEST else ("", None)
