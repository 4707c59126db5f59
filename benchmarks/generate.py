"""A trained run in ClearSeek's engine: what storing weights narrowly costs, and what drafts gain.

* Bits per token of held-out text with weights in FP32, BF16 and int8, through the engine itself.
* CPU time of a token at batch 1 with and without drafts of the multi-token-prediction layer, by turns, and the share of
  drafts that were accepted, at several temperatures. Both answers must have the same tokens.

``python benchmarks/generate.py runs/quickstart`` prints the figures and writes ``benchmarks/results/generate.json``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import write_result

from clearseek.data.loader import Stream
from clearseek.data.tokenizer import Tokenizer
from clearseek.inference.engine import Engine
from clearseek.inference.model import Model
from clearseek.inference.request import Request, Settings
from clearseek.inference.storage import DTYPES, Kind
from clearseek.train.run import Run

RESULT = Path(__file__).parent / "results" / "generate.json"
WINDOW, LENGTH = 256, 128
TEMPERATURES = (0.0, 0.7, 1.0)


def opened(run: Run, kind: Kind) -> Model:
    model, _ = run.load_model()
    return Model.of("model", model.config, dict(model.state_dict()), Tokenizer.load(run.tokenizer), kind)


def bits(engine: Engine, stream: Stream, windows: int) -> float:
    """Bits per token of held-out windows."""
    starts = range(0, min(windows, len(stream) // WINDOW) * WINDOW, WINDOW)
    reading = Settings(max_tokens=0, prompt_logprobs=True)
    read = engine.run([Request(stream[start : start + WINDOW].tolist(), reading) for start in starts])
    chosen = [token.logprob for request in read for token in request.prompt_logprobs]
    return -sum(x for x in chosen if x is not None) / len(chosen) / math.log(2)


def drafts(model: Model, prompts: list[list[int]], temperature: float, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of a token without and with drafts: the median over rounds, each of all prompts one by one."""
    times: dict[bool, list[float]] = {False: [], True: []}
    answers: dict[bool, list[list[int]]] = {}
    accepted = drafted = 0
    for number in range(rounds + 1):
        for drafting in times:
            engine = model.engine(256, drafts=drafting)
            settings = Settings(max_tokens=LENGTH, temperature=temperature, seed=1)
            begun = time.process_time()
            done = [engine.run([Request(prompt, settings)])[0] for prompt in prompts]
            spent = time.process_time() - begun
            answers[drafting] = [[token.token for token in request.answer] for request in done]
            if number:  # the first round compiles and fills caches
                times[drafting].append(1e3 * spent / sum(map(len, answers[drafting])))
            if drafting:
                drafted, accepted = engine.counts.drafts, engine.counts.accepted
    plain, quick = (statistics.median(times[drafting]) for drafting in (False, True))
    return {
        "temperature": temperature, "accepted": accepted / drafted, "same tokens": answers[False] == answers[True],
        "ms a token": plain, "ms a token with drafts": quick, "gain": plain / quick,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a trained run")
    parser.add_argument("--data", type=Path, help="its data (default: RUN/data)")
    parser.add_argument("--windows", type=int, default=96, help="held-out windows of 256 tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run, stream = Run(options.run), Stream(options.data or options.run / "data", "heldout")
    found: dict[str, Any] = {"what": __doc__.splitlines()[0], "threads": 1}
    measured: dict[str, float] = {}
    for kind in DTYPES:
        measured[kind] = bits(opened(run, kind).engine(1024, drafts=False), stream, options.windows)
        print(f"{kind:5} {measured[kind]:.5f} bits per token ({measured[kind] / measured['F32'] - 1:+.3%})", flush=True)
    found["bits per token"] = measured
    model = opened(run, "BF16")
    found["model"] = model.config.model_dump()
    starts = stream.offsets[:6].tolist()
    prompts = [stream[start : start + 24].tolist() for start in starts]
    found["drafts"] = [drafts(model, prompts, temperature, options.rounds) for temperature in TEMPERATURES]
    for each in found["drafts"]:
        print({key: round(value, 3) for key, value in each.items()})
    write_result(options.out, found)


if __name__ == "__main__":
    main()
