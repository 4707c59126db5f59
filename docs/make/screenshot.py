"""The picture of an audit's page, taken in Chromium: ``python -m docs.make.screenshot``.

The page is the audit of DeepSeek-V3's published folder, which ``tests/fixtures/README.md`` says how to get; ``make
browser`` installs what takes pictures.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from clearseek.cli import main
from docs.make.parts import ROOT
from tests.published import published


def draw(picture: Path) -> None:
    """Audit the folder, open the page, and take its top."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), sync_playwright() as p:
        shutil.copytree(published("deepseek-v3/LICENSE-MODEL").parent, "deepseek-v3")
        if main(["audit", "deepseek-v3", "--format", "html", "--out", "audit.html"]):
            raise SystemExit("the audit failed")
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1100, "height": 720})
        window.goto(Path("audit.html").absolute().as_uri())
        window.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    draw(ROOT / "docs" / "pictures" / "audit.png")
