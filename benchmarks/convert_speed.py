"""Speed and memory of ``clearseek convert``, on a checkpoint with DeepSeek-V3's widths and random weights.

Makes an FP8 checkpoint as DeepSeek lays them out (several files, some scales in another file than their matrix, in
safetensors' own order), converts it to BF16 and back, and then both ways again with a SIGKILL in the middle. The time
is that of the whole command, Python's start included; input counts as every byte of the weight files. What comes back
must be the same bytes. ``python benchmarks/convert_speed.py --folder /tmp/convert`` prints a table and writes
``benchmarks/results/convert_speed.json``; it needs four times ``--gigabytes`` of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result

from clearseek.config import ModelConfig
from clearseek.files import sha256_file
from clearseek.hub.config_json import hf_config, quantization_config
from clearseek.hub.safetensors import DTYPE_BYTES, build_header
from clearseek.recipe import load_recipe
from clearseek.tensors import SCALE_SUFFIX, StoredTensor, fp8_tensors

RESULT = Path(__file__).parent / "results" / "convert_speed.json"
SHARD_BYTES = 1_000_000_000
ELSEWHERE = 9
"""Every so many matrices, the scales are in the next file."""


def model(gigabytes: float) -> ModelConfig:
    """DeepSeek-V3 with as many experts as the size asks for, fewer layers and a small vocabulary."""
    changes: dict[str, Any] = {"num_hidden_layers": 4, "first_k_dense_replace": 1, "vocab_size": 8192}
    base = load_recipe("v3-671b").model
    expert = 4 * 3 * base.hidden_size * base.moe_intermediate_size  # in the three layers and the MTP layer
    rest = sum(size(t) for t in fp8_tensors(base.model_copy(update=changes)) if ".experts." not in t.name)
    experts = max(16, round((gigabytes * 1e9 - rest) / expert / 8) * 8)
    return ModelConfig.model_validate(base.model_dump() | changes | {"n_routed_experts": experts})


def size(tensor: StoredTensor) -> int:
    """Bytes."""
    return prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]


def shards(config: ModelConfig) -> list[list[StoredTensor]]:
    """Tensors file by file, in the order that safetensors' writer gives them: wide types first, then by name."""
    made: list[list[StoredTensor]] = [[]]
    late: list[StoredTensor] = []
    matrices = 0
    for tensor in fp8_tensors(config):
        if sum(map(size, made[-1])) > SHARD_BYTES:
            made.append(late)
            late = []
        matrices += tensor.dtype == "F8_E4M3"
        scale = tensor.name.endswith(SCALE_SUFFIX)
        (late if scale and matrices % ELSEWHERE == 0 else made[-1]).append(tensor)
    made[-1] += late
    return [sorted(shard, key=lambda t: (-DTYPE_BYTES[t.dtype], t.name)) for shard in made]


def numbers(tensor: StoredTensor, draw: np.random.Generator) -> Iterator[bytes]:
    """Random bytes of a tensor: codes without NaN, scales such that weights are near 0.006, BF16 near 1."""
    total = prod(tensor.shape)
    for first in range(0, total, 1 << 24):
        count = min(1 << 24, total - first)
        if tensor.dtype == "F8_E4M3":
            codes = np.frombuffer(draw.bytes(count), np.uint8)
            yield (codes - ((codes & 0x7F) == 0x7F)).tobytes()
        elif tensor.dtype == "F32":
            yield (np.exp(draw.standard_normal(count)) * 1e-4).astype("<f4").tobytes()
        else:
            yield (draw.integers(0, 128, count, np.uint16) + 0x3F40).astype("<u2").tobytes()


def make(folder: Path, config: ModelConfig) -> None:
    """Write the FP8 checkpoint."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    split = shards(config)
    weight_map = {}
    for number, shard in enumerate(split, 1):
        name = f"model-{number:05d}-of-{len(split):06d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(build_header(shard, {"format": "pt"}).raw)
            for tensor in shard:
                for part in numbers(tensor, draw):
                    file.write(part)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    content = hf_config(config, "bfloat16", 0, 1, 2) | {"quantization_config": quantization_config("float")}
    (folder / "config.json").write_text(json.dumps(content, indent=2))


def convert(source: Path, out: Path, dtype: str, kill_after: int | None = None) -> dict[str, Any] | None:
    """Run the command; its figures, or None where it is killed once so many files are there."""
    command = [sys.executable, "-m", "clearseek", "convert", str(source), str(out), "--dtype", dtype, "--json"]
    weights = sum(file.stat().st_size for file in source.glob("model*.safetensors"))
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    if kill_after is not None:
        while len(list(out.glob("model*.safetensors"))) < kill_after:
            time.sleep(0.01)
        time.sleep(0.5)  # into the next file
        process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if kill_after is not None:
        assert process.returncode == -signal.SIGKILL, "ended before it was killed"
        return None
    assert process.returncode == 0, said
    ended = json.loads(said)
    return {
        "input_bytes": weights,
        "seconds": round(seconds, 2),
        "input_mb_per_second": round(weights / seconds / 1e6, 1),
        "peak_rss_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "written_bytes": ended["bytes_written"],
        "blocks": ended["blocks"],
        "blocks_with_their_old_scale": ended["kept"],
    }


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


def measure(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """All conversions; the folder is empty again afterwards."""
    fp8, bf16, back = folder / "fp8", folder / "bf16", folder / "back"
    make(fp8, config)
    files = len(list(fp8.glob("model*.safetensors")))
    source = hashes(fp8)
    results: dict[str, Any] = {"fp8_to_bf16": convert(fp8, bf16, "bf16"), "bf16_to_fp8": convert(bf16, back, "fp8")}
    results["back_is_identical"] = hashes(back) == source
    whole = hashes(bf16)
    shutil.rmtree(back)
    convert(bf16, back, "fp8", kill_after=files // 2)
    results["bf16_to_fp8_resumed"] = convert(bf16, back, "fp8")
    results["resumed_back_is_identical"] = hashes(back) == source
    shutil.rmtree(back)
    shutil.rmtree(bf16)
    convert(fp8, bf16, "bf16", kill_after=files // 2)
    results["fp8_to_bf16_resumed"] = convert(fp8, bf16, "bf16")
    results["resumed_bf16_is_identical"] = hashes(bf16) == whole
    return {"weight_files": files, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where to work; its content is deleted afterwards")
    parser.add_argument("--gigabytes", type=float, default=8.5, help="size of the FP8 checkpoint (default: 8.5)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder / "clearseek-convert-speed"
    folder.mkdir(parents=True)
    needed, free = 4.1e9 * arguments.gigabytes, shutil.disk_usage(folder).free
    if needed > free:
        parser.error(f"{folder}: {needed / 1e9:.0f} GB are needed and {free / 1e9:.0f} are free")
    try:
        results = measure(folder, model(arguments.gigabytes))
    finally:
        shutil.rmtree(folder)
    for name in ("fp8_to_bf16", "bf16_to_fp8"):
        each = results[name]
        print(
            f"{name}  {each['input_bytes'] / 1e9:6.2f} GB in {each['seconds']:6.1f} s  "
            f"{each['input_mb_per_second']:7.1f} MB/s (aim: at least 150)  "
            f"{each['peak_rss_bytes'] / 1e9:.2f} GB of memory (aim: at most 1.5)"
        )
    print({name: value for name, value in results.items() if isinstance(value, bool)})
    write_result(RESULT, results)


if __name__ == "__main__":
    main()
