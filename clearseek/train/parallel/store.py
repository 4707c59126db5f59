"""The store of a job: a table of texts that the host of process 0 keeps, and that every process reads and writes.

It carries what must get through when collectives do not (:mod:`clearseek.train.parallel.world`). torchrun's agent keeps
one that outlives its processes; otherwise process 0 does. On one machine it listens on loopback alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from clearseek.errors import UserError, one_line
from clearseek.train.parallel import worker

LOOPBACK = "127.0.0.1"
"""Address of a job on one machine: its ports are not to be reached from others."""
JOIN_SECONDS = 300.0
"""Seconds that processes wait for each other at the start: the first import of PyTorch on a cold disk takes long."""
WAITING = 10.0
"""Seconds after which it is said for whom a process waits at the start."""
_TRY = timedelta(seconds=4)


def job_store() -> tuple[Store, Callable[[], Store]]:
    """The job's store, and what makes another connection to it."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            f'RANK is set, and MASTER_ADDR = "{address}", MASTER_PORT = "{port}" are no address: start '
            "with torchrun, which sets them, or unset RANK"
        )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if _agents_store() else "0"
    keeps = worker.number("RANK", 0) == 0 and not _agents_store()

    def connect(keeps: bool = False) -> Store:
        store = _tcp_store(address, int(port), keeps)
        store.set_timeout(timedelta(seconds=JOIN_SECONDS))
        return PrefixStore(f"clearseek/{attempt}", store)

    try:
        return connect(keeps), connect
    except (dist.DistError, RuntimeError, OSError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(
                f"port {port} of {address} is in use: choose another with torchrun's --rdzv-endpoint HOST:PORT or "
                "--master-port"
            ) from None
        text = one_line(str(error))[:200]
        why = f"within {JOIN_SECONDS:.0f} s" if "timed out" in text else f"({text})"
        raise UserError(
            f"no connection to process 0 at {address}:{port} {why}: is that address reachable from here, and process 0 "
            "running?"
        ) from None


def _tcp_store(address: str, port: int, keeps: bool) -> TCPStore:
    """The store that listens at an address, or in the process that `keeps` it a new one.

    A try is short, for a signal is heeded only between two.
    """
    began = said = time.monotonic()
    listening = None
    if keeps and address == LOOPBACK:  # the store itself would listen on all addresses
        listening = socket.create_server((address, port)).detach()
    while True:
        try:
            return TCPStore(address, port, None, keeps, _TRY, wait_for_workers=False, multi_tenant=keeps,
                            master_listen_fd=listening)  # fmt: skip
        except dist.DistError:
            now = time.monotonic()
            if not keeps and said == began and now - began > WAITING:
                said = now
                worker.say_here(f"waiting for process 0 at {address}:{port}")
            if keeps or now - began > JOIN_SECONDS:
                raise


def _agents_store() -> bool:
    """Whether torchrun's agent keeps the store, also for processes that are started again."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
