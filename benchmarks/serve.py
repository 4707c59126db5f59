"""Decoding speed of ClearSeek's engine beside transformers and llama.cpp: one thread, the same model, by turns.

Each candidate is a process of its own with one thread. They take steps by turns, a step being one token for each of 1,
4 or 16 sequences at a context of 40 tokens; the CPU time of a step counts, because other programs may need the cores.
The model has about 370 million parameters, 94 million of which a token activates; its weights are random.
``python benchmarks/serve.py`` prints a table and writes ``benchmarks/results/serve.json``; ``--llama`` adds llama.cpp
where llama-cpp-python is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from clearseek.config import ModelConfig
from clearseek.counts import count_parameters
from clearseek.inference.engine import Rows
from clearseek.inference.loops import Loops
from clearseek.inference.packed import pack
from clearseek.kernels import PAGE
from clearseek.model.transformer import DeepSeekModel

RESULTS = Path(__file__).parent / "results"
MODEL: dict[str, Any] = {
    "vocab_size": 24576, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "q_lora_rank": 384,
    "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64, "intermediate_size": 2048,
    "moe_intermediate_size": 352, "n_routed_experts": 32, "num_experts_per_tok": 4, "max_position_embeddings": 4096,
    "initializer_range": 0.02,
}  # fmt: skip
CONTEXT = 40
BATCHES = (1, 4, 16)
PROMPT = 512
OURS = {"clearseek BF16": "BF16", "clearseek int8": "I8", "clearseek FP32": "F32"}
THEIRS = {"transformers FP32": torch.float32, "transformers BF16": torch.bfloat16}
LLAMA = {"llama.cpp F32": "f32", "llama.cpp F16": "f16", "llama.cpp BF16": "bf16", "llama.cpp Q8_0": "q8_0"}
Step = Callable[[int, int], None]
"""Decode one token of so many sequences, at a context length."""


def trained() -> DeepSeekModel:
    """The model, random and the same in every process."""
    model = DeepSeekModel(ModelConfig(**MODEL)).requires_grad_(False).eval()
    model.initialise(1)
    return model


def ours(kind: Any) -> tuple[Step, Step]:
    """Steps of the engine's forward: decoding, and reading a prompt."""
    model = trained()
    state = dict(model.state_dict())
    loops = Loops(pack(model.config, state.pop, kind), 16 * 64 // PAGE * 2 + PROMPT // PAGE, 256, 1024)
    del model
    draw = np.random.default_rng(1)

    def decode(batch: int, context: int) -> None:
        tokens, at = draw.integers(0, MODEL["vocab_size"], batch), np.arange(batch)
        loops.step(Rows(tokens, np.full(batch, context), at, np.arange(batch * 8).reshape(batch, 8), at))

    def read(batch: int, length: int) -> None:
        tokens, pages = draw.integers(0, MODEL["vocab_size"], length), np.arange(length // PAGE)[None]
        for start in range(0, length, 256):
            at = np.arange(start, start + 256)
            loops.step(Rows(tokens[at], at, np.zeros(256, dtype=np.int64), pages, np.array([255])))

    for batch in BATCHES:
        for context in range(CONTEXT):
            decode(batch, context)
    return decode, read


def theirs(dtype: torch.dtype) -> tuple[Step, Step]:
    """Steps of transformers' own implementation, through its cache."""
    import transformers

    from tests.model.test_parity import peer_config

    source = trained()
    model = transformers.DeepseekV3ForCausalLM(peer_config(source.config)).eval().requires_grad_(False)
    model.load_state_dict(source.state_dict(), strict=False)
    del source
    model = model.to(dtype)
    caches: dict[int, Any] = {}

    @torch.no_grad()
    def decode(batch: int, context: int) -> None:
        if batch not in caches or caches[batch].get_seq_length() > context + 8:
            caches[batch] = transformers.DynamicCache()
            model(torch.zeros(batch, context, dtype=torch.int64), past_key_values=caches[batch], use_cache=True)
        model(torch.randint(0, 1000, (batch, 1)), past_key_values=caches[batch], use_cache=True)

    @torch.no_grad()
    def read(batch: int, length: int) -> None:
        model(torch.randint(0, 1000, (1, length)), use_cache=True, logits_to_keep=1)

    return decode, read


def llama(kind: str, threads: int) -> tuple[Step, Step]:
    """Steps of llama.cpp over the exported file."""
    import llama_cpp

    from clearseek.data.tokenizer import train
    from clearseek.hub.gguf import export_gguf

    folder = Path(tempfile.mkdtemp())
    model = trained()
    words = train([f"word{i} " * 3 for i in range(2000)], 1024)
    export_gguf(dict(model.state_dict()), model.config, words, folder / "model.gguf", kind)  # type: ignore[arg-type]
    del model
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and "amx_tile" in cpuinfo.read_text():
        settings.use_extra_bufts = False  # with AMX, version 0.3.36 aborts on 16-bit and 8-bit files that it repacks
    loaded = llama_cpp.llama_model_load_from_file(str(folder / "model.gguf").encode(), settings)
    asked = llama_cpp.llama_context_default_params()
    asked.n_ctx, asked.n_batch, asked.n_ubatch, asked.n_seq_max = 16 * 2 * PROMPT, PROMPT, PROMPT, 16
    asked.n_threads = asked.n_threads_batch = threads
    context_ = llama_cpp.llama_init_from_model(loaded, asked)
    shutil.rmtree(folder)
    memory = llama_cpp.llama_get_memory(context_)
    batch_ = llama_cpp.llama_batch_init(512, 0, 16)
    reached: dict[int, int] = {}

    def fill(rows: list[tuple[int, int, int]]) -> None:
        batch_.n_tokens = len(rows)
        for i, (token, place, sequence) in enumerate(rows):
            batch_.token[i], batch_.pos[i], batch_.n_seq_id[i] = token, place, 1
            batch_.seq_id[i][0], batch_.logits[i] = sequence, place >= CONTEXT or i == len(rows) - 1
        if llama_cpp.llama_decode(context_, batch_) != 0:
            raise RuntimeError("llama_decode failed")

    rng = np.random.default_rng(1)

    def decode(batch: int, context: int) -> None:
        if reached.get(batch) != context:
            llama_cpp.llama_memory_clear(memory, True)
            for sequence in range(batch):
                fill([(int(rng.integers(1000)), place, sequence) for place in range(context)])
        fill([(int(rng.integers(1000)), context, sequence) for sequence in range(batch)])
        reached.clear()
        reached[batch] = context + 1

    def read(batch: int, length: int) -> None:
        llama_cpp.llama_memory_clear(memory, True)
        reached.clear()
        fill([(int(rng.integers(1000)), place, 0) for place in range(length)])

    return decode, read


def build(name: str, threads: int) -> tuple[Step, Step]:
    """A candidate's steps."""
    if name in OURS:
        return ours(OURS[name])
    return theirs(THEIRS[name]) if name in THEIRS else llama(LLAMA[name], threads)


def work(name: str, threads: int, pipe: Connection) -> None:
    """Serve steps to the parent: CPU and wall seconds of each."""
    torch.set_num_threads(threads)
    decode, read = build(name, threads)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        what, batch, context = asked
        if what == "decode":
            decode(batch, context)  # the caches' pages are touched, and llama.cpp has its prompt
        cpu, wall = time.process_time(), time.perf_counter()
        if what == "decode":
            decode(batch, context + 1)
        else:
            read(batch, context)
        pipe.send((time.process_time() - cpu, time.perf_counter() - wall))
    import resource

    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


def read_rate() -> float:
    """Bytes a second that one thread reads: a sum over 256 MB, the best of nine."""
    numbers = np.ones(64 << 20, dtype=np.float32)
    best = float("inf")
    for _ in range(9):
        begun = time.process_time()
        numbers.sum()
        best = min(best, time.process_time() - begun)
    return numbers.nbytes / best


def measure(names: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a step of each candidate: median and least, CPU and wall."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in names:
        mine, other = context.Pipe()
        context.Process(target=work, args=(name, threads, other), daemon=True).start()
        other.close()  # a process that fails ends the measurement
        mine.recv()
        pipes[name] = mine
        print(f"{name} is ready", flush=True)
    asked = [("decode", batch, CONTEXT) for batch in BATCHES] + [("read", 1, PROMPT)]
    times: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in names}
    for number in range(rounds):
        for what, batch, length in asked:
            for name, pipe in pipes.items():
                pipe.send((what, batch, length + (2 * number if what == "decode" else 0)))
                key = f"batch {batch}" if what == "decode" else f"prompt of {PROMPT}"
                times[name].setdefault(key, []).append(pipe.recv())
    found: dict[str, Any] = {}
    for name, pipe in pipes.items():
        pipe.send(None)
        found[name] = {"peak_bytes": pipe.recv()}
        for key, pairs in times[name].items():
            cpu, wall = ([1e3 * pair[i] for pair in pairs] for i in (0, 1))
            found[name][key] = {
                "cpu_ms": round(statistics.median(cpu), 2), "least_cpu_ms": round(min(cpu), 2),
                "wall_ms": round(statistics.median(wall), 2),
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="steps of each candidate")
    parser.add_argument("--threads", type=int, default=1, help="threads of each candidate")
    parser.add_argument("--llama", action="store_true", help="add llama.cpp")
    parser.add_argument("--only", nargs="*", help="candidates")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.json")
    arguments = parser.parse_args()
    names = arguments.only or [*OURS, *THEIRS, *(LLAMA if arguments.llama else ())]
    rate = read_rate()
    found = measure(names, arguments.rounds, arguments.threads)
    activated = 2 * count_parameters(ModelConfig(**MODEL)).activated_without_embedding  # bytes in BF16
    for name, values in found.items():
        shown = "  ".join(f"{key} {each['cpu_ms']:8.1f}" for key, each in values.items() if key != "peak_bytes")
        print(f"{name:20}  {shown}  {values['peak_bytes'] / 1e9:.2f} GB")
    bound = 1e3 * activated / rate
    own = found.get("clearseek BF16", {}).get("batch 1", {}).get("cpu_ms")
    told = {"bytes_a_token": activated, "read_bytes_a_second": rate, "bound_ms": bound}
    if own:
        told["share_of_bound"] = bound / own
        print(f"bound by reading {rate / 1e9:.1f} GB/s: {bound:.1f} ms; reached {bound / own:.0%}")
    result = {"threads": arguments.threads, "model": MODEL, "bound": told, "times": found}
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
