"""The machine of a run: its parts, its measured speed, and what about it decides bits.

No table of product names is trusted. The peak of matrix multiplication, against which utilisation is quoted, is
measured, and BF16 is used where it is measurably faster. Descriptions are made to be published: without host name, user
name or path.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from clearseek.cores import usable_cores
from clearseek.errors import UserError

BF16_GAIN = 1.3
"""Speed of BF16 matrix products over FP32's from which on `auto` chooses BF16."""
EMULATED = 4.0
"""Speed of FP32 matrix products over another type's from which on the processor counts as emulating that type; 60 and
90 were measured with AVX2."""

# Instruction sets that PyTorch's libraries (oneDNN, MKL, FBGEMM, ATen) choose their kernels by.
_KERNEL_FLAGS = re.compile(r"avx\w*|fma|f16c|amx_\w+|asimd\w*|sve\w*|bf16|i8mm|sme(?!p)\w*")


SWITCHES = (
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OMP_DYNAMIC", "OMP_THREAD_LIMIT",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Environment variables by which a CPU library takes other kernels or other sums."""
CUDA_SWITCHES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")
"""Environment variables by which a GPU library takes other kernels or other sums."""


class Precision(NamedTuple):
    """A type for matrix products, with measured rates."""

    dtype: torch.dtype
    rates: dict[str, float]
    """Measured FLOP/s of a matrix product by type, ``fp32`` and, unless FP32 was asked for, ``bf16``."""

    @property
    def emulated(self) -> float:
        """Speed of FP32 over BF16 where this device emulates BF16, else 0.0."""
        slower = self.rates.get("fp32", 0.0) / self.rates.get("bf16", float("inf"))
        return slower if slower > EMULATED else 0.0


def describe() -> dict[str, Any]:
    """Machine and software for reports: JSON values, sizes in bytes, nothing that names the owner."""
    libraries = re.findall(r"^\s*- (.*(?:Math Kernel|MKL-DNN|OpenBLAS|Accelerate).*)$", torch.__config__.show(), re.M)
    return {
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "physical_cores": _physical_cores(),
        "usable_cores": usable_cores(),
        "memory": _memory(),
        "gpus": [
            {"name": gpu.name, "memory": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"}
            for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_build": torch.version.git_version,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _library(r"BLAS_INFO=(\w+)"),
        "libraries": [re.sub(r"\s+for Intel.*$", "", each) for each in libraries],
        "threads": torch.get_num_threads(),
    }


def find_device(name: str) -> torch.device:
    """The device of a `--device` option. Raises UserError for one that is not here."""
    device = None
    with suppress(RuntimeError):
        device = torch.device(name)
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices here: use cpu")
    return device


def bit_environment(precision: torch.dtype, device: str) -> dict[str, Any]:
    """Properties of machine and set-up that decide the bits of a run, for the header of its transcript.

    The processor's name is left out on purpose: processors of one vendor with the same instruction sets run the same
    kernels.
    """
    cuda = torch.device(device).type == "cuda"
    names = (*SWITCHES, *CUDA_SWITCHES) if cuda else SWITCHES
    flags = _first(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo()) or ""
    environment: dict[str, Any] = {
        "torch": torch.__version__,
        "torch_build": torch.version.git_version,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        # As the processor names it: libraries choose kernels by the vendor too.
        "cpu_vendor": _first(r"^(?:vendor_id|CPU implementer)\s*:\s*(\S+)$", _cpuinfo()) or platform.machine(),
        "instruction_sets": sorted(flag for flag in set(flags.split()) if _KERNEL_FLAGS.fullmatch(flag)),
        "mkl": _library(r"Math Kernel Library Version (\S+)"),
        "onednn": _library(r"(?:MKL-DNN|oneDNN) v(\S+)"),
        "switches": {name: os.environ[name] for name in names if os.environ.get(name)},
        "fp32_products": torch.get_float32_matmul_precision(),
        "precision": str(precision).removeprefix("torch."),
        "device": torch.device(device).type,
    }
    if cuda:
        environment |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": {"products": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        }
    return environment


def _library(version: str) -> str | None:
    """Version of a library that PyTorch computes with, or None where PyTorch was built without the library."""
    return _first(version, torch.__config__.show())


def _first(pattern: str, text: str) -> str | None:
    """First group of the first match, or None."""
    match = re.search(pattern, text, re.M)
    return match[1] if match else None


def measure_matmul_rates(dtypes: Sequence[torch.dtype], device: str = "cpu", seconds: float = 0.3) -> list[float]:
    """FLOP/s of square matrix products in each of `dtypes`: the fastest over about `seconds` each.

    The fastest counts, because other programs can only slow a product down; types take turns at one size, so that other
    programs slow all alike. The size is the smallest power of two at which the fastest type takes 20 ms, at most
    16,384. An emulated type may take minutes there: a type that takes 20 ms and 50 times, or 100 ms and 8 times as long
    as the fastest at a smaller size is not measured further.

    Raises RuntimeError where the device cannot multiply in one of them.
    """
    size, fastest = 128, dict.fromkeys(dtypes, 0.0)
    rates: dict[torch.dtype, float] = {}
    while min(fastest.values()) < 0.02 and size < 16384:
        size *= 2
        operands = {dtype: torch.ones(size, size, dtype=dtype, device=device) for dtype in fastest}
        fastest = {dtype: _least(a_NN) for dtype, a_NN in operands.items()}
        best = min(fastest.values())
        for dtype, slow in list(fastest.items()):
            if slow > max(0.02, 50 * best) or slow > max(0.1, 8 * best):
                rates[dtype] = 2 * size**3 / slow
                del fastest[dtype]
    for _ in range(max(3, min(100, int(seconds / max(fastest.values()))))):
        fastest = {dtype: min(best, _time_matmul(operands[dtype])) for dtype, best in fastest.items()}
    rates |= {dtype: 2 * size**3 / best for dtype, best in fastest.items()}
    return [rates[dtype] for dtype in dtypes]


def pick_precision(choice: Literal["auto", "bf16", "fp32", "fp8"], device: str = "cpu") -> Precision:
    """Decide the type of weights and activations in matrix products by running products.

    `auto` is BF16 where it is at least `BF16_GAIN` times as fast as FP32, and FP32 elsewhere. Under `fp8` the type of
    all else is BF16 on a GPU, whose FP8 kernels take and give BF16, and on a processor that of `auto`. Timings vary, so
    a resumed run must take the type that it began with rather than pick again.

    Raises UserError when `bf16` is asked for and the device cannot multiply in it.
    """
    if choice == "fp8":
        choice = "auto" if torch.device(device).type == "cpu" else "bf16"
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    names = ["fp32"] if choice == "fp32" else ["bf16", "fp32"]
    try:
        rates = measure_matmul_rates([dtypes[name] for name in names], device)
    except RuntimeError as error:
        if choice == "bf16":
            message = f"this device cannot multiply in BF16 ({str(error).splitlines()[0]})"
            raise UserError(f'train.precision = "bf16": {message}: use "fp32" or "auto"') from error
        names = ["fp32"]
        rates = measure_matmul_rates([torch.float32], device)
    found = dict(zip(names, rates, strict=True))
    faster = found.get("bf16", 0.0) >= BF16_GAIN * found["fp32"]
    taken = choice if choice in dtypes else "bf16" if faster else "fp32"
    return Precision(dtypes[taken], found)


def keep_heap() -> bool:
    """Have glibc keep freed memory instead of returning it to the system; whether glibc did.

    By default every large tensor is mapped anew, and the kernel zeroes its pages on first touch: that costs an
    element-wise operation several times its arithmetic. With mapping off and trimming off (mallopt(3): M_MMAP_MAX = 0,
    M_TRIM_THRESHOLD = -1), tensors are carved from a heap that stays at its peak, as with PyTorch's CUDA allocator.
    The heap grows for the first few steps and then page faults end. Measured over 40 steps of a small transformer: 226
    thousand faults instead of 2.06 million, 0.9 s of system time instead of 4.0 s, for 15% more memory at the peak.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (only glibc has it)
        return bool(libc.mallopt(m_mmap_max, 0)) and bool(libc.mallopt(m_trim_threshold, -1))
    return False


def _least(a_NN: torch.Tensor) -> float:
    """Least seconds of three products, the first of which builds the kernel; of fewer where products take long."""
    times = [_time_matmul(a_NN)]
    while len(times) < 3 and sum(times) < 0.2:
        times.append(_time_matmul(a_NN))
    return min(times)


def _time_matmul(a_NN: torch.Tensor) -> float:
    if a_NN.is_cuda:
        torch.cuda.synchronize(a_NN.device)
    start = time.perf_counter()
    a_NN @ a_NN
    if a_NN.is_cuda:
        torch.cuda.synchronize(a_NN.device)
    return time.perf_counter() - start


def _cpuinfo() -> str:
    """Linux's description of the processors, or an empty string."""
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return ""


def _processor() -> str:
    if name := _first(r"^model name\s*:\s*(.+)$", _cpuinfo()):
        return name.strip()
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return platform.processor() or platform.machine()


def _physical_cores() -> int | None:
    """Physical cores, or None where the system does not tell."""
    packages = re.findall(r"^physical id\s*:\s*(\d+)$", _cpuinfo(), re.M)
    cores = re.findall(r"^core id\s*:\s*(\d+)$", _cpuinfo(), re.M)
    return len(set(zip(packages, cores, strict=False))) or None


def _memory() -> int:
    """Main memory in bytes, or the container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total


def free_memory() -> float:
    """Bytes of memory that can be had without swapping, as Linux says of the machine and of the container; infinite
    where nothing says."""
    free = float("inf")
    with suppress(OSError, ValueError):
        free = 1024.0 * int(_first(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="ascii")) or "")
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        cached = _first(r"^inactive_file (\d+)", (group / "memory.stat").read_text(encoding="ascii")) or "0"
        free = min(free, max(0, limit - used + int(cached)))
    return free


def peak_memory() -> int:
    """Most memory this process has held so far, in bytes (0 where the system does not say)."""
    with suppress(OSError, ValueError):  # Linux's ru_maxrss also counts what the process that started this one held
        return 1024 * int(_first(r"^VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8")) or "")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024
