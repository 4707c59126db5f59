"""Running a compiled loop on PyTorch's own threads.

PyTorch's CPU operations share one pool of OpenMP threads, which wait for the next operation by spinning. A second pool
beside it would fight with that for the cores, so a kernel is handed to the same pool, by the entry that compilers call
for a parallel region (``GOMP_parallel`` of GNU's OpenMP library). A call costs less than one of PyTorch's operations.

A kernel is compiled for this processor when it is first called, and kept on disk beside the package, or in the user's
cache folder where the package cannot be written to (``NUMBA_CACHE_DIR`` says otherwise).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import struct
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Pool:
    """The OpenMP library that PyTorch's threads are of. Raises OSError where that is not GNU's."""

    def __init__(self) -> None:
        library = _loaded_openmp()
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self.parallel.restype = None
        self.thread_number = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value or 0


def _loaded_openmp() -> ctypes.CDLL:
    """GNU's OpenMP library as this process has loaded it: PyTorch's own, or the system's where it has none."""
    own = Path(torch.__file__).parent / "lib"
    for name in [*map(str, sorted(own.glob("libgomp*"))), "libgomp.so.1"]:
        with suppress(OSError, AttributeError):  # RTLD_NOLOAD: nothing is loaded now; Windows has no such thing
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
    raise OSError("PyTorch's threads are not those of GNU's OpenMP library (libgomp) here")


_pool = functools.cache(_Pool)


@functools.cache
def unavailable() -> str | None:
    """Why numba's loops cannot be used in this process; None if they can."""
    try:
        import numba  # noqa: F401

        _pool()
    except ModuleNotFoundError:
        return "numba is not installed (pip install 'clearseek[cpu]')"
    except (ImportError, OSError) as error:
        return str(error)
    return None


@functools.cache
def _cache() -> str:
    """A folder for compiled kernels, named after their sources: numba looks at one file, and they use each other's."""
    here = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()[:16]
    own = here / "__pycache__"
    with suppress(OSError):
        own.mkdir(exist_ok=True)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str((own if os.access(own, os.W_OK) else home / "clearseek") / f"numba-{sources}")


@functools.cache
def _kernel(name: str) -> Any:
    """The compiled kernel."""
    from numba import cfunc, config

    module, _, function = name.partition(".")
    code = getattr(import_module(f"clearseek.kernels.{module}"), function)
    lanes = import_module("clearseek.kernels.lanes")
    if not config.CACHE_DIR:  # type: ignore[attr-defined]
        config.CACHE_DIR = _cache()  # type: ignore[attr-defined]
    try:
        return cfunc(lanes.SIGNATURE, cache=True, **lanes.OPTIONS)(code)
    except (RuntimeError, OSError):  # no folder to keep it in
        return cfunc(lanes.SIGNATURE, **lanes.OPTIONS)(code)


@functools.cache
def _address(name: str) -> int:
    address: int = _kernel(name).address
    return address


def _word(argument: Tensor | int | float | None) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        return int(struct.unpack("q", struct.pack("d", argument))[0])
    return argument or 0


def launch(name: str, units: int, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel, such as ``rows.norm``, over `units` pieces of work on all of PyTorch's threads.

    Tensors go as addresses: float32, complex64 or int64, dense where the kernel takes no stride. None is the address 0.
    """
    pool, threads = _pool(), torch.get_num_threads()
    words = (ctypes.c_int64 * (len(arguments) + 3))(pool.thread_number, threads, units, *map(_word, arguments))
    pool.parallel(_address(name), ctypes.addressof(words), threads, 0)
