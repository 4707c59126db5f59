"""Speed of the data path: tokenising in MB/s, and the loader in tokens/s.

Takes the standard library of the running interpreter, the corpus of the quickstart, so there is nothing to download.
Each rate is the median of five repetitions. ``python benchmarks/data_speed.py`` prints a table and writes
``benchmarks/results/data_speed.json``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from record import write_result

from clearseek.config import DataConfig
from clearseek.data.loader import Loader
from clearseek.data.shards import BATCH_BYTES, prepare_data
from clearseek.data.sources import open_source
from clearseek.data.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "data_speed.json"
VOCAB_SIZE, SEQUENCE_LENGTH, BATCH_SIZE, STEPS, REPETITIONS = 4096, 256, 32, 300, 5


def seconds(work: Callable[[], object]) -> float:
    """Median wall time of `work`."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def batches(texts: list[str]) -> list[list[str]]:
    """Texts in the batches that `prepare` makes."""
    made: list[list[str]] = [[]]
    size = 0
    for text in texts:
        made[-1].append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            made.append([])
            size = 0
    return made


def main() -> None:
    found = list(open_source(DataConfig(), Path.cwd()).documents())
    texts, size = [document.text for document in found], sum(document.bytes for document in found)
    work = batches(texts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        start = time.perf_counter()
        prepare_data(DataConfig(), VOCAB_SIZE, out)
        prepare_seconds = time.perf_counter() - start
        tokenizer = Tokenizer.load(out / "tokenizer.json")
        loader = Loader(out, "train", SEQUENCE_LENGTH, BATCH_SIZE, seed=0, lookahead=2)
        tokenise = seconds(lambda: [tokenizer.encode_batch(batch) for batch in work])
        load = seconds(lambda: [loader.batch(step) for step in range(STEPS)])
    measured = {
        "tokenise_mb_per_second": round(size / tokenise / 1e6, 2),
        "loader_tokens_per_second": round(STEPS * BATCH_SIZE * SEQUENCE_LENGTH / load),
        "prepare_seconds": round(prepare_seconds, 2),
    }
    print(f"text: {size / 1e6:.1f} MB in {len(texts)} documents; vocabulary {VOCAB_SIZE}")
    print(f"tokenise  {measured['tokenise_mb_per_second']:>12,.1f} MB/s      (aim: at least 5)")
    print(f"loader    {measured['loader_tokens_per_second'] / 1e6:>12,.1f} M tokens/s (aim: at least 2)")
    print(f"prepare   {prepare_seconds:>12,.1f} s         (once: read, train the tokenizer, tokenise, write)")
    shape = {"vocab_size": VOCAB_SIZE, "sequence_length": SEQUENCE_LENGTH, "batch_size": BATCH_SIZE}
    report = {**measured, "bytes": size, "documents": len(texts), **shape}
    write_result(RESULT, report)


if __name__ == "__main__":
    main()
