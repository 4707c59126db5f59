"""Running a compiled loop on PyTorch's own threads.

PyTorch's CPU operations share one pool of OpenMP threads, which wait for the next operation by spinning. A second pool
would compete for the cores, so the same pool runs a kernel, through the function that compilers call for a parallel
region (``GOMP_parallel`` of GNU's OpenMP library). A call costs less than one of PyTorch's operations.

A kernel is compiled for this processor when it is first called, and kept on disk beside the package, or in the user's
cache folder where the package cannot be written to (``NUMBA_CACHE_DIR`` says otherwise).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Pool:
    """The OpenMP library of PyTorch's threads. Raises OSError for a library other than GNU's."""

    def __init__(self) -> None:
        library = _loaded_openmp()
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self.parallel.restype = None
        self.thread_number, self.thread_count = (
            ctypes.cast(function, ctypes.c_void_p).value or 0
            for function in (library.omp_get_thread_num, library.omp_get_num_threads)
        )


def _loaded_openmp() -> ctypes.CDLL:
    """GNU's OpenMP library as this process has loaded it: PyTorch's own copy, or else the system's."""
    own = Path(torch.__file__).parent / "lib"
    for name in [*map(str, sorted(own.glob("libgomp*"))), "libgomp.so.1"]:
        with suppress(OSError, AttributeError):  # RTLD_NOLOAD loads nothing; Windows lacks it
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
    raise OSError("PyTorch's threads are not those of GNU's OpenMP library (libgomp) here")


_pool = functools.cache(_Pool)


@functools.cache
def unavailable() -> str | None:
    """Why numba's loops cannot be used in this process, found by running one; None if they can."""
    try:
        import numba  # noqa: F401
    except ModuleNotFoundError:
        return "numba is not installed (pip install 'clearseek[cpu]')"
    x = torch.linspace(-2.0, 2.0, 1000, device="cpu", dtype=torch.float32)
    y = torch.full_like(x, torch.nan)
    try:
        launch("rows.exponential", len(x), x, y)
    except Exception as error:  # a compiler may raise anything
        return f"a first loop failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None if torch.allclose(x.exp(), y) else "a first loop gave other numbers than PyTorch"


def _cache(chosen: str) -> str:
    """A folder for compiled kernels, named by the hash of all sources: numba itself checks only a kernel's own file."""
    here = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()[:16]
    own = here / "__pycache__"
    with suppress(OSError):
        own.mkdir(exist_ok=True)
    if chosen:
        base = Path(chosen)
    elif os.access(own, os.W_OK):
        base = own
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clearseek"
    return str(base / f"numba-{sources}")


@functools.cache
def _kernel(name: str) -> Any:
    """The compiled kernel."""
    from numba import cfunc, config

    module, _, function = name.partition(".")
    code = getattr(import_module(f"clearseek.kernels.{module}"), function)
    lanes = import_module("clearseek.kernels.lanes")
    chosen = config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        config.CACHE_DIR = _cache(chosen)  # type: ignore[attr-defined]
        return cfunc(lanes.SIGNATURE, cache=True, **lanes.OPTIONS)(code)
    except (RuntimeError, OSError):  # no folder to keep the kernel in
        return cfunc(lanes.SIGNATURE, **lanes.OPTIONS)(code)
    finally:
        config.CACHE_DIR = chosen  # type: ignore[attr-defined]


@functools.cache
def _address(name: str) -> int:
    address: int = _kernel(name).address
    return address


def address_of(tensor: Tensor) -> int:
    """Address of a tensor's numbers. Raises TypeError for a type or device that loops cannot take."""
    if tensor.dtype not in (torch.float32, torch.complex64, torch.int64) or not tensor.is_cpu or tensor.is_conj():
        raise TypeError(f"a loop takes no {tensor.dtype} on {tensor.device}")
    return tensor.data_ptr()


def _word(argument: Tensor | int | float | None) -> int:
    if isinstance(argument, Tensor):
        return address_of(argument)
    if isinstance(argument, float):
        return int(struct.unpack("q", struct.pack("d", argument))[0])
    return argument or 0


class Call:
    """A kernel with its arguments, to be run as often as wanted; tensors must stay where they are."""

    def __init__(self, name: str, units: int, *arguments: Tensor | int | float | None) -> None:
        self.kept = arguments
        self.address = _address(name)
        words = [_pool().thread_number, _pool().thread_count, units, *map(_word, arguments)]
        self.array = (ctypes.c_int64 * len(words))(*words)
        self.place = ctypes.addressof(self.array)

    def run(self) -> None:
        """Run the kernel on all of PyTorch's threads."""
        _pool().parallel(self.address, self.place, torch.get_num_threads(), 0)


def launch(name: str, units: int, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel, such as ``rows.norm``, over `units` pieces of work on all of PyTorch's threads.

    Tensors are passed as addresses (float32, complex64 or int64, dense where the kernel takes no stride), None as 0.
    """
    Call(name, units, *arguments).run()


def run(calls: Sequence[Call], threads: int) -> None:
    """Run kernels one after the other, on the number of threads that their buffers were made for."""
    parallel = _pool().parallel
    for call in calls:
        parallel(call.address, call.place, threads, 0)
