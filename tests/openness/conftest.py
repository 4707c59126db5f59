from __future__ import annotations

from pathlib import Path

import pytest

from .releases import make_release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small, truthful release."""
    return make_release(tmp_path / "Tiny")
