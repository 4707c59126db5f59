"""The quickstart: bits per byte on files that its model has not seen, seconds, memory.

``python benchmarks/quickstart.py`` runs ``clearseek quickstart --recipe quickstart`` in a new folder, and writes
``benchmarks/results/quickstart.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from record import write_result

RESULT = Path(__file__).parent / "results" / "quickstart.json"
KEPT = ("held_out_bpb", "compressors_bits_per_byte", "seconds", "total_seconds", "peak_memory_bytes", "weights_sha256")


def main() -> None:
    command = [sys.executable, "-m", "clearseek", "quickstart", "--json", "--recipe", "quickstart"]
    with tempfile.TemporaryDirectory() as place:
        ended = subprocess.run(command, cwd=place, check=True, stdout=subprocess.PIPE, text=True)
    summary = json.loads(ended.stdout)
    found = {name: summary[name] for name in KEPT}
    print(json.dumps(found, indent=1))
    write_result(RESULT, {"figures": found})


if __name__ == "__main__":
    main()
