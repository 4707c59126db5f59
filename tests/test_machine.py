"""The machine: described without naming its owner, measured rather than assumed."""

from __future__ import annotations

import ctypes
import getpass
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clearseek import machine
from clearseek.errors import UserError


def test_description_is_json_and_private() -> None:
    text = json.dumps(machine.describe())
    for secret in (platform.node(), str(Path.home()), str(Path.cwd()), sys.prefix):
        assert len(secret) < 4 or secret not in text
    assert getpass.getuser() == "root" or f'"{getpass.getuser()}"' not in text


def test_description_is_complete() -> None:
    found = machine.describe()
    assert found["torch"] == torch.__version__
    assert found["processor"]
    assert 1 <= found["usable_cores"] <= found["logical_cores"]
    assert found["physical_cores"] is None or found["physical_cores"] <= found["logical_cores"]
    assert found["memory"] > 1 << 28


def test_bit_environment_sees_what_changes_bits() -> None:
    threads = torch.get_num_threads()
    one = machine.bit_environment(torch.float32, "cpu")
    assert one == machine.bit_environment(torch.float32, "cpu")
    json.dumps(one)
    assert machine.bit_environment(torch.bfloat16, "cpu")["precision"] == "bfloat16"
    torch.set_num_threads(threads + 1)
    try:
        assert machine.bit_environment(torch.float32, "cpu") != one
    finally:
        torch.set_num_threads(threads)


CPUINFO = """processor : 0
model name\t: Some Processor 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu smep avx avx2 avx512_bf16 fma sse4_2
processor : 1
model name\t: Some Processor 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu
processor : 2
physical id\t: 1
core id\t\t: 0
"""


def test_linux_text_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: CPUINFO)
    assert machine._processor() == "Some Processor 9000"
    assert machine._physical_cores() == 2
    sets = machine.bit_environment(torch.float32, "cpu")["instruction_sets"]
    assert sets == ["avx", "avx2", "avx512_bf16", "fma"]


def test_other_systems_are_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: "")
    assert machine._processor()
    assert machine._physical_cores() is None
    assert machine.bit_environment(torch.float32, "cpu")["instruction_sets"] == []


@pytest.mark.parametrize(
    ("limit", "cached", "free"), [("max", "0", 8192), ("4096", "0", 2048), ("4096", "1024", 3072), ("1024", "0", 0)]
)
def test_memory_that_is_free_is_that_of_the_container(
    limit: str, cached: str, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "meminfo": "MemTotal: 99 kB\nMemAvailable:  8 kB\n", "memory.max": limit + "\n", "memory.current": "2048\n",
        "memory.stat": f"anon 1\ninactive_file {cached}\n",
    }  # fmt: skip
    monkeypatch.setattr(machine.Path, "read_text", lambda path, encoding: texts[path.name])
    assert machine.free_memory() == free


def test_rate_is_flops_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """At an imagined 1 TFLOP/s, the measurement says 1 TFLOP/s."""
    monkeypatch.setattr(machine, "_time_matmul", lambda a: 2 * len(a) ** 3 / 1e12)
    assert machine.measure_matmul_rates([torch.float32], seconds=0.05) == pytest.approx([1e12])


def test_whatever_else_runs_here_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take up to ten times as long at random: the fastest are what the processor can do."""
    slowed = random.Random(0)
    speed = {torch.bfloat16: 4e12, torch.float32: 1e12}
    monkeypatch.setattr(machine, "_time_matmul", lambda a: slowed.choice([1, 3, 10]) * 2 * len(a) ** 3 / speed[a.dtype])
    assert machine.measure_matmul_rates(list(speed)) == pytest.approx(list(speed.values()))


def test_a_type_without_instructions_is_not_measured_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """BF16 on an AVX2 processor, at 1 GFLOP/s: its one product at the size that FP32 needs would take a minute."""
    speed = {torch.bfloat16: 1e9, torch.float32: 1e12}
    spent = dict.fromkeys(speed, 0.0)

    def taken(a: torch.Tensor) -> float:
        spent[a.dtype] += (seconds := 2 * len(a) ** 3 / speed[a.dtype])
        return seconds

    monkeypatch.setattr(machine, "_time_matmul", taken)
    assert machine.measure_matmul_rates(list(speed)) == pytest.approx(list(speed.values()))
    assert spent[torch.bfloat16] < 1


def test_rate_is_measured() -> None:
    [rate] = machine.measure_matmul_rates([torch.float32], seconds=0.02)
    assert 1e8 < rate < 1e16


def with_rates(monkeypatch: pytest.MonkeyPatch, bf16: float | None, fp32: float) -> None:
    def measure(dtypes: list[torch.dtype], device: str) -> list[float]:
        if bf16 is None and torch.bfloat16 in dtypes:
            raise RuntimeError("not implemented for 'BFloat16'")
        return [fp32 if dtype == torch.float32 else float(bf16 or 0) for dtype in dtypes]

    monkeypatch.setattr(machine, "measure_matmul_rates", measure)


@pytest.mark.parametrize(("bf16", "dtype"), [(1.31, torch.bfloat16), (1.29, torch.float32), (None, torch.float32)])
def test_auto_takes_bf16_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float | None, dtype: torch.dtype
) -> None:
    with_rates(monkeypatch, bf16, 1.0)
    picked = machine.pick_precision("auto")
    assert picked.dtype == dtype
    assert picked.rates == ({"bf16": bf16, "fp32": 1.0} if bf16 else {"fp32": 1.0})


def test_a_choice_is_never_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    with_rates(monkeypatch, 1.0, 100.0)
    assert machine.pick_precision("bf16") == (torch.bfloat16, {"bf16": 1.0, "fp32": 100.0})
    assert machine.pick_precision("bf16").emulated == 100
    assert machine.pick_precision("fp32") == (torch.float32, {"fp32": 100.0})
    with_rates(monkeypatch, None, 1.0)
    with pytest.raises(UserError, match=r'train.precision = "bf16".*use "fp32" or "auto"'):
        machine.pick_precision("bf16")


@pytest.mark.parametrize(("bf16", "dtype"), [(0.03, torch.float32), (1.0, torch.float32), (2.0, torch.bfloat16)])
def test_what_is_not_fp8_is_bf16_only_where_a_processor_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, bf16: float, dtype: torch.dtype
) -> None:
    with_rates(monkeypatch, bf16, 1.0)
    assert machine.pick_precision("fp8").dtype == dtype
    assert machine.pick_precision("fp8", "cuda").dtype == torch.bfloat16
    assert bool(machine.pick_precision("fp8").emulated) == (bf16 < 0.25)


@pytest.mark.parametrize("name", ["MKL_CBWR", "OMP_DYNAMIC", "ONEDNN_MAX_CPU_ISA"])
def test_a_variable_that_changes_sums_is_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name, raising=False)
    before = machine.bit_environment(torch.float32, "cpu")
    monkeypatch.setenv(name, "AVX2")
    after = machine.bit_environment(torch.float32, "cpu")
    assert after["switches"] == before["switches"] | {name: "AVX2"}
    assert {key for key in after if after[key] != before[key]} == {"switches"}


PRODUCTS = """
import hashlib, torch
from clearseek.machine import bit_environment
torch.manual_seed(0)
a, b = (torch.randn(n, n + 7).requires_grad_() for n in (256, 263))
(a @ b).softmax(-1).square().sum().backward()
print(hashlib.sha256(a.grad.numpy().tobytes() + b.grad.numpy().tobytes()).hexdigest())
print(bit_environment(torch.float32, "cpu"))
"""


@pytest.mark.slow
def test_other_gradients_are_never_under_the_same_environment() -> None:
    def run(**switches: str) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if key not in machine.SWITCHES} | switches
        return subprocess.run(
            [sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True, env=environment
        ).stdout.splitlines()

    plain, again, other = run(), run(), run(MKL_CBWR="COMPATIBLE")
    assert plain == again
    assert plain[0] == other[0] or plain[1] != other[1]


FAULTS = """
import resource, sys, torch
torch.set_num_threads(1)
from clearseek.machine import keep_heap
applied = keep_heap()
x = torch.zeros(16_000_000)
for _ in range(20): torch.exp(x)  # aligned blocks do not fit their own size at first: the heap grows a few times
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): torch.exp(x)
print(applied, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_kept_heap_takes_no_page_faults() -> None:
    """In a process of its own, since the setting is for good. Mapped anew, 3 x 64 MB are 46,875 faults."""
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    applied, faults = run.stdout.split()
    if applied == "False":
        pytest.skip("no glibc here")
    assert int(faults) < 1000


def test_keep_heap_elsewhere_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert machine.keep_heap() is False
