"""One command for a GPU that is lent for minutes: are the FP8 kernels right, how fast are they, and is training?

``python benchmarks/gpu.py`` checks every kernel against the reference on fresh random inputs, times kernels at
DeepSeek's sizes, the whole expert layer, generation, and training in BF16 and FP8, each against what this machine was
measured to reach; then it says which of the project's bars are met. It keeps to ``--seconds`` by itself, needs no
network, and writes ``benchmarks/results/gpu.json`` after every piece of work, so that whatever ends it, what was
measured is kept.

``--smoke --out FILE`` walks the same code on a CPU at tiny sizes, with Triton's interpreter: it tests the benchmark and
says nothing about speed.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()  # importing PyTorch counts

import argparse  # noqa: E402
import os  # noqa: E402
import secrets  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this repository's clearseek, installed or not
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton decides at its import
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic

from gpu_checks import checks  # noqa: E402
from gpu_common import Bench, BrokenDeviceError  # noqa: E402
from gpu_generate import generate  # noqa: E402
from gpu_kernels import kernels, tune  # noqa: E402
from gpu_layer import layer  # noqa: E402
from gpu_machine import machine  # noqa: E402
from gpu_report import conclude  # noqa: E402
from gpu_training import training  # noqa: E402

RESULT = Path(__file__).parent / "results" / "gpu.json"
SECTIONS = {
    "machine": (machine, 0.10),
    "checks": (checks, 0.26),
    "kernels": (kernels, 0.16),
    "layer": (layer, 0.12),
    "tune": (tune, 0.30),
    "generate": (generate, 0.08),
    "training": (training, 0.36),
}
"""What is done in which order, and each one's share of the time; what a section leaves goes to those after it."""
RESERVE = 12.0
"""Seconds kept for what a section had begun when its time was over."""


def main() -> int:
    arguments = _arguments()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not torch.cuda.is_available() and not arguments.smoke:
        print("benchmarks/gpu.py: PyTorch finds no CUDA device here; --smoke --out FILE tries the code without one",
              file=sys.stderr)  # fmt: skip
        return 2
    device = torch.device("cpu") if arguments.smoke else torch.device("cuda", torch.cuda.current_device())
    _settle()
    _stop_after(arguments.seconds)
    seed = secrets.randbits(31) if arguments.seed is None else arguments.seed
    bench = Bench(device, seed, arguments.smoke, arguments.seconds, arguments.out, started=BEGAN)
    bench.report |= {"state": "began", "smoke": bench.smoke, "seed": seed, "budget_seconds": arguments.seconds}
    print(f"seed {seed} (--seed {seed} repeats the inputs); {arguments.seconds:.0f} s")
    tuned = arguments.tune or arguments.smoke
    names = arguments.only or [name for name in SECTIONS if name != "tune" or tuned]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        _run(bench, names)
    bench.report["warnings"] = sorted({f"{each.category.__name__}: {each.message}"[:200] for each in warned})
    conclude(bench.report)
    bench.report["state"] = bench.report.get("stopped", "complete")
    bench.save()
    print(f"{bench.elapsed:.0f} s; written to {arguments.out}")
    return 0 if bench.report["checks_passed"] or "checks" not in names else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520.0, help="time for everything (520)")
    parser.add_argument("--seed", type=int, help="of the random inputs, to repeat a run")
    parser.add_argument("--out", type=Path, help=f"where to write (benchmarks/results/{RESULT.name})")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections")
    parser.add_argument("--tune", action="store_true", help="try launch options of the products too")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on a CPU; needs --out")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out is None:
        parser.error("--smoke needs --out, so that no result is overwritten")
    if arguments.smoke and torch.cuda.is_available():
        parser.error("--smoke is for machines without a GPU: leave it out")
    arguments.out = arguments.out or RESULT
    return arguments


def _settle() -> None:
    """As a training run has it, but that operations without a deterministic kernel are recorded, not refused."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would only cost time


def _stop_after(seconds: float) -> None:
    """End the process when the time is over, whatever it waits for; what was measured is in the file."""

    def stop() -> None:
        print(f"stopped: {seconds:.0f} s are over; the file holds what was measured", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(3)

    timer = threading.Timer(max(seconds - (time.monotonic() - BEGAN), 0.1), stop)
    timer.daemon = True
    timer.start()


def _run(bench: Bench, names: list[str]) -> None:
    whole = sum(SECTIONS[name][1] for name in names)
    passed = 0.0
    for name in SECTIONS:
        if name not in names:
            continue
        run, share = SECTIONS[name]
        passed += share
        bench.section, bench.until = name, (bench.seconds - RESERVE) * passed / whole
        bench.report["state"] = f"in section {name}"
        print(f"\n{name} ({bench.elapsed:.0f} s passed, until {bench.until:.0f} s)", flush=True)
        before = bench.elapsed
        try:
            with bench.attempt(f"section {name}"):
                run(bench)
            bench.free()
        except BrokenDeviceError as error:
            bench.report["stopped"] = f"in section {name}: the GPU answers no more: {error}"
            print(f"  {bench.report['stopped']}")
            return
        bench.report.setdefault("section_seconds", {})[name] = round(bench.elapsed - before, 1)
        bench.save()


if __name__ == "__main__":
    sys.exit(main())
