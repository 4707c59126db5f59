"""The quickstart's two models: bits per byte on files that they have not seen, seconds, memory.

``python benchmarks/quickstart.py`` runs ``clearseek quickstart`` with the larger recipe as this machine computes, and
with the smaller one held to AVX2 instructions, each in a new folder, and writes
``benchmarks/results/quickstart.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_result
from rollout_check import AVX2

RESULT = Path(__file__).parent / "results" / "quickstart.json"
KEPT = ("held_out_bpb", "compressors_bits_per_byte", "seconds", "total_seconds", "peak_memory_bytes", "weights_sha256")
RUNS = {"quickstart": ("quickstart", {}), "quickstart-small, held to AVX2": ("quickstart-small", AVX2)}
"""What is reported -> recipe, and environment."""


def run(recipe: str, environment: dict[str, str]) -> dict[str, Any]:
    """The summary of one quickstart."""
    command = [sys.executable, "-m", "clearseek", "quickstart", "--json", "--recipe", recipe]
    with tempfile.TemporaryDirectory() as place:
        ended = subprocess.run(
            command, cwd=place, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(ended.stdout)
    return {name: found[name] for name in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = {}
    for name, (recipe, environment) in RUNS.items():
        found[name] = ended = run(recipe, environment)
        print(f"{name}: {ended['held_out_bpb']:.3f} bits per byte, {ended['total_seconds']:.0f} s", flush=True)
    write_result(arguments.out, {"runs": found})


if __name__ == "__main__":
    main()
