"""The quickstart: bits per byte on files that its model has not seen, seconds, memory.

``python benchmarks/quickstart.py`` runs ``clearseek quickstart --recipe quickstart`` in a new folder, and writes
``benchmarks/results/quickstart.json``. ``--avx2`` takes the smaller recipe, held to AVX2 instructions, and writes
``quickstart-avx2.json``.
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

RESULTS = Path(__file__).parent / "results"
KEPT = ("held_out_bpb", "compressors_bits_per_byte", "seconds", "total_seconds", "peak_memory_bytes", "weights_sha256")


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
    parser.add_argument("--avx2", action="store_true", help="the smaller recipe, held to AVX2 instructions")
    arguments = parser.parse_args()
    narrow = arguments.avx2
    found = run("quickstart-small" if narrow else "quickstart", AVX2 if narrow else {})
    print(json.dumps(found, indent=1))
    write_result(RESULTS / ("quickstart-avx2.json" if narrow else "quickstart.json"), {"figures": found})


if __name__ == "__main__":
    main()
