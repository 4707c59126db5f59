"""Cards, licences and config.json that DeepSeek published with V3 and R1.

They are DeepSeek's and are not in this repository. ``tests/fixtures/README.md`` says how to get them; without them the
tests that read them are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "CLEARSEEK_PUBLISHED"
"""Environment variable that names the folder with ``deepseek-v3`` and ``deepseek-r1``."""


def published(name: str) -> Path:
    """A published folder or file, such as ``deepseek-v3/LICENSE-MODEL``; skips the test where it is not here."""
    folder = os.environ.get(VARIABLE, "")
    path = Path(folder).absolute() / name
    if not folder or not path.exists():
        pytest.skip(f"needs {name}: set {VARIABLE} (tests/fixtures/README.md)")
    return path
