"""Speed of hashing a release's files, against coreutils' ``sha256sum``.

Writes files of random bytes (2 GB unless told otherwise) to a temporary folder, reads them once so that they lie in
memory, and then takes turns: ``sha256sum`` in one process, ``sha256sum`` in as many processes as there are cores, and
:func:`clearseek.signing.hashing.hash_files`. What is aimed at is 70 % of one ``sha256sum`` times the cores. The rate
of hashlib alone, on bytes in memory and on all cores, says how much of the rest is the library and not the reading.
``python benchmarks/hash_speed.py`` prints a table and writes ``benchmarks/results/hash_speed.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from record import write_result

from clearseek.signing.hashing import BUFFER, hash_files
from clearseek.signing.tree import Tree, walk

RESULT = Path(__file__).parent / "results" / "hash_speed.json"
AIM = 0.70
MEGABYTE = 10**6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < 2 * options.megabytes * MEGABYTE:
            parser.error(f"{folder}: less than {2 * options.megabytes} MB are free")
        for number in range(options.files):
            (folder / f"{number}.bin").write_bytes(os.urandom(options.megabytes * MEGABYTE // options.files))
        tree = walk(folder)
        rates = measure(folder, tree, options.turns)
    cores = len(os.sched_getaffinity(0))
    middle = {name: median(each) for name, each in rates.items()}
    ratio = middle["hash_files"] / (middle["sha256sum, one process"] * cores)
    for name, rate in middle.items():
        print(f"{name:30} {rate:8.0f} MB/s   ({min(rates[name]):.0f} to {max(rates[name]):.0f})")
    print(f"hash_files / (sha256sum x {cores} cores) = {ratio:.2f}; aim {AIM}")
    version = subprocess.run(["sha256sum", "--version"], capture_output=True, text=True, check=True).stdout
    result = {
        "what": "MB/s (10^6) of files in the page cache; medians of interleaved turns",
        "megabytes": options.megabytes, "files": options.files, "turns": options.turns, "cores": cores,
        "buffer": BUFFER, "sha256sum": version.splitlines()[0], "median": middle, "rates": rates,
        "ratio_to_sha256sum_times_cores": ratio,
        "ratio_to_sha256sum_in_parallel": middle["hash_files"] / middle["sha256sum, all cores"],
        "aim": AIM,
    }  # fmt: skip
    write_result(RESULT, result)


def measure(folder: Path, tree: Tree, turns: int) -> dict[str, list[float]]:
    """MB/s of every way, turn by turn; the first round warms up and must agree."""
    cores = len(os.sched_getaffinity(0))
    names = [file.path for file in tree.files]
    size = sum(file.size for file in tree.files)
    block = os.urandom(BUFFER)

    def sums(command: list[str]) -> dict[str, str]:
        out = subprocess.run(
            command, input="\n".join(names), capture_output=True, text=True, check=True, cwd=folder
        ).stdout
        return {line.split()[1]: line.split()[0] for line in out.splitlines()}

    def library() -> None:
        def one(_: int) -> None:
            digest = hashlib.sha256()
            for _ in range(size // cores // BUFFER):
                digest.update(block)

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(one, range(cores)))

    ways: dict[str, Callable[[], object]] = {
        "sha256sum, one process": lambda: sums(["sha256sum", *names]),
        "sha256sum, all cores": lambda: sums(["xargs", "-n1", f"-P{cores}", "sha256sum"]),
        "hash_files": lambda: hash_files(folder, tree.files),
        "hashlib in memory, all cores": library,
    }
    assert sums(["sha256sum", *names]) == hash_files(folder, tree.files)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(size / MEGABYTE / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
