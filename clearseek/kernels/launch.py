"""Running a compiled loop on PyTorch's own threads.

PyTorch's CPU operations share one pool of OpenMP threads, which wait for the next operation by spinning. A second pool
beside it would fight with that for the cores, so a kernel is handed to the same pool, by the entry that compilers call
for a parallel region (``GOMP_parallel``). A call costs a few microseconds, less than one PyTorch operation.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Pool:
    """PyTorch's OpenMP library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self.parallel.restype = None
        self.thread_number = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value


@functools.cache
def _pool() -> _Pool:
    [path] = Path(torch.__path__[0], "lib").glob("libgomp*.so*")
    return _Pool(path)


@functools.cache
def _kernel(name: str) -> Any:
    from numba import cfunc

    from clearseek.kernels import loops

    return cfunc(loops.SIGNATURE, cache=True, **loops.OPTIONS)(getattr(loops, name))


@functools.cache
def _address(name: str) -> int:
    address: int = _kernel(name).address
    return address


def _word(argument: Tensor | int | float | None) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        [bits] = struct.unpack("q", struct.pack("d", argument))
        return int(bits)
    return argument or 0


def launch(name: str, units: int, *arguments: Tensor | int | float | None) -> None:
    """Run the kernel `name` of :mod:`clearseek.kernels.loops` over `units` rows on all of PyTorch's threads.

    Tensors go as addresses: float32 or int64, dense where the kernel takes no stride. None is the address 0.
    """
    pool, threads = _pool(), torch.get_num_threads()
    words = (ctypes.c_int64 * (len(arguments) + 3))(pool.thread_number, threads, units, *map(_word, arguments))
    pool.parallel(_address(name), ctypes.addressof(words), threads, 0)
