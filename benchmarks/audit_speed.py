"""How long an audit of the largest checkpoints takes: 163 files and 91,991 tensors of DeepSeek-V3's layout.

Headers and index are real, the numbers are holes in sparse files, and nothing is hashed. ``python
benchmarks/audit_speed.py`` audits in a process of its own, five times, and writes seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

from record import write_result

from clearseek.hub.config_json import hf_config, quantization_config
from clearseek.hub.safetensors import DTYPE_BYTES, build_header
from clearseek.recipe import load_recipe
from clearseek.tensors import StoredTensor, fp8_tensors

RESULT = Path(__file__).parent / "results" / "audit_speed.json"
FILES = 163
SCRIPT = """
import json, resource, sys, time
begun = time.perf_counter()
from pathlib import Path
from clearseek.audit.audit import audit_release
from clearseek.reading.source import Folder
found = audit_release(Folder(Path(sys.argv[1])), "DeepSeek-V3")
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "torch": "torch" in sys.modules,
    "rows": {row.id: row.answer for row in found if row.id.startswith("weights.")},
}))
"""


def write_checkpoint(folder: Path) -> None:
    """The layout of DeepSeek-V3's release, without its numbers."""
    config = load_recipe("v3-671b").model
    stored = list(fp8_tensors(config))
    raw = hf_config(config, "bfloat16", 0, 1, 1) | {"quantization_config": quantization_config("float")}
    (folder / "config.json").write_text(json.dumps(raw))
    size = sum(prod(tensor.shape) * DTYPE_BYTES[tensor.dtype] for tensor in stored)
    shards: list[list[StoredTensor]] = [[]]
    room = limit = size // FILES
    for tensor in stored:
        if room <= 0 and len(shards) < FILES:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):06d}.safetensors"
        header = build_header(shard, {"format": "pt"})
        with (folder / name).open("wb") as file:
            file.write(header.raw)
            file.truncate(header.file_bytes)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_checkpoint(folder)
        runs = []
        for _ in range(arguments.rounds):
            ended = subprocess.run([sys.executable, "-c", SCRIPT, place], capture_output=True, text=True, check=True)
            runs.append(json.loads(ended.stdout))
        files = len(list(folder.glob("*.safetensors")))
    report = {
        "files": files,
        "runs": runs,
        "median_seconds": statistics.median(run["seconds"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
    }
    write_result(arguments.out, report)
    print(f"{files} files: {report['median_seconds']:.2f} s, {report['peak_bytes'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
