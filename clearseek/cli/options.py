"""Options that several commands share: a recipe, its settings, numbers."""

from __future__ import annotations

import argparse
import re

RECIPE = "a TOML file or the name of a shipped recipe"


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, parsed as `overrides`."""
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="change a setting of the recipe, such as train.steps=100; may be repeated")  # fmt: skip


def number(text: str) -> float:
    """Parse a number such as ``14.8e12``, ``14.8T``, ``40%`` or ``2,048``; a type for argparse."""
    match = re.fullmatch(r"((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kKMBT%]?)", text.strip())
    try:
        value = float(match[1].replace(",", "")) if match else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 14.8e12, 14.8T or 40%") from None
    return value * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "%": 0.01}[match[2].lower() if match else ""]
