"""The transcript of a tiny run, kept: bits that change unnoticed are noticed here.

Where the environment is that of a kept transcript (PyTorch build, instruction set, libraries), the run must write the
same bytes. A change that means to change bits says so in docs/notebook.md and writes the transcript anew, with
``python -m tests.train.test_golden``, which keeps one for each environment that it is called in.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from clearseek.data.shards import prepare_data
from clearseek.train.preflight import preflight
from clearseek.train.transcript import read_header
from tests.tiny import tiny, trainer_of

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"
RECIPE = tiny(
    data={"paths": ["*.txt"]},
    train={"batch_size": 8, "micro_batch_size": 1, "lanes": 4, "kernels": "torch", "eval_every": 3, "hash_every": 2},
)


def corpus(folder: Path) -> None:
    """Texts that never change."""
    for number in range(30):
        lines = [f"line {i} of file {number}: {'the quick brown fox ' * (i % 5)}{i * number}" for i in range(40)]
        (folder / f"{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")


def transcript(folder: Path) -> Path:
    """Train in a folder, and give the transcript."""
    corpus(folder)
    prepare_data(RECIPE.data, RECIPE.model.vocab_size, folder / "data", base=folder)
    assert trainer_of(RECIPE, folder / "run", folder / "data").train().finished
    return folder / "run" / "transcript.jsonl"


def kept(environment: dict[str, Any]) -> Path | None:
    """The transcript of this environment, if one was kept."""
    files = sorted(FOLDER.glob("*.jsonl"))
    return next((file for file in files if read_header(file)["environment"] == environment), None)


def bits(line: str) -> str:
    """A line as it is written, without the hash of the code, which a comment changes, and that of the line before."""
    return re.sub(r'"(?:code_sha256|prev)":"[0-9a-f]{64}",', "", line)


def test_the_bits_are_those_that_were_kept(tmp_path: Path) -> None:
    golden = kept(preflight(RECIPE).environment())
    if golden is None:
        pytest.skip("no transcript of this environment was kept")
    found, expected = transcript(tmp_path).read_text().splitlines(), golden.read_text().splitlines()
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert bits(ours) == bits(theirs), f"line {number + 1}: bits changed: see this file's first lines"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        made = transcript(Path(name))
        here = read_header(made)["environment"]
        short = f"torch-{here['torch'].partition('+')[0]}-{here['cpu_capability'].lower()}"
        target = kept(here) or next(
            file
            for number in range(1, 100)
            if not (file := FOLDER / f"{short}{f'-{number}' * (number > 1)}.jsonl").exists()
        )
        target.write_bytes(made.read_bytes())
        print(target)
