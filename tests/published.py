"""Cards, licences and config.json that DeepSeek published with V3 and R1.

The cards and what is under MIT are in ``tests/fixtures``, with a config.json of the same model that ClearSeek wrote.
DeepSeek's model licence and its own config.json are not: the tests that read them are skipped unless
``CLEARSEEK_PUBLISHED`` names a folder with all of them (``tests/fixtures/README.md`` says how to get them).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "CLEARSEEK_PUBLISHED"
"""Environment variable that names a folder with ``deepseek-v3`` and ``deepseek-r1``."""
HERE = Path(__file__).parent / "fixtures"


def published(name: str, original: bool = False) -> Path:
    """A published folder or file, such as ``deepseek-v3/LICENSE-MODEL``; skips the test where it is not here.

    Args:
        name: Path below the folder.
        original: Whether it must be DeepSeek's own file, not the one that ClearSeek wrote in its place.
    """
    folder = os.environ.get(VARIABLE)
    path = (Path(folder).absolute() if folder else HERE) / name
    if not path.exists() or (original and not folder):
        pytest.skip(f"needs {name}: set {VARIABLE} (tests/fixtures/README.md)")
    return path
