"""The processes of a torch.distributed job as a group: gloo between processors, NCCL between GPUs.

`torchrun` tells each process who it is by environment variables (RANK, WORLD_SIZE, MASTER_ADDR, ...); without them a
process is alone. Two roads lead from one process to another. *Collectives* carry numbers, and once a step a stop signal
and the times. The *store*, a table that process 0's host keeps, carries what must get through when collectives do not:
signs of life, errors, and who has come to a meeting. Waiting at a meeting takes as long as the slowest process lives.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from clearseek.errors import LostError, UserError, one_line
from clearseek.train.parallel import worker
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.pulse import GRACE, Pulse, leave
from clearseek.train.parallel.store import JOIN_SECONDS, WAITING, job_store

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds without a sign of life after which a process counts as lost."""
AGAIN = 60.0
"""Seconds after which it is said again for whom a process waits at the start."""
_SKEW = timedelta(minutes=30)
"""How long a collective waits for a living process: it may be evaluating, or have a slower processor."""
_POLL = timedelta(seconds=1)
_BROKEN = re.compile(r"\bgloo\b|nccl|connection (?:closed|reset|refused)|broken pipe|tcpstore", re.I)
"""What errors of torch.distributed say when another process is gone."""
_DEVICE = re.compile(r"CUDA error|cuBLAS|CUDNN_STATUS", re.I)
"""What errors of a GPU say, after which a new process may succeed."""
_agreed = "agreed on by all processes"


class World(Group):
    """The processes of a job.

    Args:
        device: ``cpu`` or ``cuda``; a process takes the GPU of its number on its machine.
        patience: Seconds without a sign of life after which a process counts as lost.

    Raises:
        UserError: not all processes came, or the port is in use.
    """

    def __init__(self, device: str = "cpu", patience: float = PATIENCE) -> None:
        super().__init__()
        self.rank, self.size = worker.number("RANK", 0), worker.number("WORLD_SIZE", 1)
        if self.rank >= self.size:
            raise UserError(f"RANK={self.rank} with WORLD_SIZE={self.size}: ranks are 0 to {self.size - 1}")
        if device.startswith("cuda:") and self.size > 1:
            raise UserError(f"--device {device}: each of {self.size} processes takes a GPU of its own: use cuda")
        self.host, self.agent = socket.gethostname(), worker.number("GROUP_RANK", 0)
        self._store, connect = job_store()
        self._gather_round()
        self.device = f"cuda:{worker.number('LOCAL_RANK', 0)}" if device == "cuda" else device
        """Device of this process, such as ``cuda:3``."""
        with_gpus = device == "cuda" and int(self.device[5:]) < torch.cuda.device_count()
        if with_gpus:
            torch.cuda.set_device(self.device)
        backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
        dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=_SKEW)
        self._control = dist.new_group(backend="gloo", timeout=_SKEW)
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        self._meeting = 0
        self.hosts = self.gather(self.host)
        self._pulse = Pulse(connect, self.rank, self.hosts, patience, self._told, self._end)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the group: at the end, or because of an error, of which the others hear unless they have it too."""
        if error is not None and _agreed not in getattr(error, "__notes__", ()):
            self._pulse.tell(f"{self.name(self.rank)} was interrupted or failed")
        elif self._pulse.lost is None:
            self._pulse.close()
            self._leave(self._store, PATIENCE)
            dist.destroy_process_group()

    def _leave(self, store: Store, seconds: float) -> None:
        """Tell that this process is done. The main one, which may keep the store, waits for the others to be."""
        with suppress(RuntimeError):
            deadline, left = time.monotonic() + seconds, store.add("left", 1)
            while self.main and left < self.size and time.monotonic() < deadline:
                time.sleep(0.05)
                left = store.add("left", 0)

    def process_group(self, ranks: Sequence[int]) -> dist.ProcessGroup:
        """The group of some processes for collectives; its members ask for their groups in one order."""
        chosen = tuple(ranks)
        if chosen == tuple(range(self.size)):
            assert dist.group.WORLD is not None
            return dist.group.WORLD
        if chosen not in self._groups:
            made = dist.new_group(list(chosen), timeout=_SKEW, use_local_synchronization=True)
            assert isinstance(made, dist.ProcessGroup), f"process {self.rank} is not among {chosen}"
            self._groups[chosen] = made
        return self._groups[chosen]

    @property
    def first_here(self) -> bool:
        """Whether this is the first process of its machine, as the launcher says; where it does not, every one is."""
        return worker.number("LOCAL_RANK", 0) == 0

    def place(self, device: str) -> str:
        """The GPU of this process, such as ``cuda:3``; or the processor."""
        return self.device if device == "cuda" else device

    def share(self, value: Any) -> Any:
        """The main process's value, on all; a JSON value."""
        content = json.dumps(value).encode() if self.main else b""
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0, group=self._control)
        data = _bytes(content, int(size))
        dist.broadcast(data, 0, group=self._control)
        return json.loads(data.numpy().tobytes())

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, on all, in the order of their numbers; JSON values."""
        content = json.dumps(value).encode()
        sizes = [int(size) for (size,) in self.numbers(len(content))]
        found = [torch.empty(max(sizes), dtype=torch.uint8) for _ in sizes]
        dist.all_gather(found, _bytes(content, max(sizes)), group=self._control)
        return _values(found, sizes)

    def collect(self, value: Any) -> list[Any] | None:
        """As :meth:`gather` on the main process, and None on the others."""
        content = json.dumps(value).encode()
        sizes = [int(size) for (size,) in self.numbers(len(content))]
        found = [torch.empty(max(sizes), dtype=torch.uint8) for _ in sizes] if self.main else None
        dist.gather(_bytes(content, max(sizes)), found, 0, group=self._control)
        return None if found is None else _values(found, sizes)

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, on all."""
        largest = torch.tensor([number])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._control)
        return int(largest)

    def numbers(self, *mine: float) -> list[tuple[float, ...]]:
        """Every process's numbers, equally many, on all."""
        found = [torch.empty(len(mine), dtype=torch.float64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor(mine, dtype=torch.float64), group=self._control)
        return [tuple(each.tolist()) for each in found]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on all processes; where it raises an error on some, all raise that error when all are done.

        Raises LostError where one of them is gone.
        """
        error: Exception | SystemExit | None = None
        try:
            yield
        except (Exception, SystemExit) as raised:
            if _agreed in getattr(raised, "__notes__", ()):
                raise
            error = raised
        if error is not None and self._is_loss(error):
            self._raise_told(error)
        told = None if error is None else self._tell(error)
        faults = self._meet(told)
        if faults:
            agreed = self._fault(faults, error)
            agreed.add_note(_agreed)
            raise agreed from (None if agreed is error else error)

    def after_main(self, work: Callable[[], T]) -> T:
        """Do work that may take long on the main process, and then again, with what it left, on the others."""
        done: list[T] = []
        for turn in (self.main, not self.main):
            with self.together():
                if turn:
                    done.append(work())
        return done[0]

    def _gather_round(self) -> None:
        """Wait until every process is here, or say which are not."""
        store = self._store
        store.set(f"here/{self.rank}", self.host)
        if store.add("here", 1) == self.size:
            store.set("all", "")
        deadline, say = time.monotonic() + JOIN_SECONDS, time.monotonic() + WAITING
        while not _waits(store, "all"):
            now = time.monotonic()
            if now <= min(deadline, say):
                continue
            missing = [rank for rank in range(self.size) if not store.check([f"here/{rank}"])]
            names = ", ".join(map(str, missing[:20])) + ", ..." * (len(missing) > 20)
            if now > deadline:
                raise UserError(
                    f"{self.size - len(missing)} of {self.size} processes came within {JOIN_SECONDS:.0f} s; missing: "
                    f"{names}: start the same command on every node, with the same address"
                )
            say = now + AGAIN
            if self.main and missing:
                address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                worker.say_here(f"waiting for {len(missing)} of {self.size} processes at {address}: {names}")

    def _meet(self, fault: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Wait for all processes, however long they take; the faults that they bring."""
        store, key = self._store, f"meeting/{self._meeting}"
        try:
            self._pulse.heeded = True
            if fault is not None:
                store.append(f"{key}/faults", json.dumps(fault) + "\n")  # type: ignore[attr-defined]
            self._come(store)
            while not _waits(store, f"{key}/all"):
                self._pulse.refuse_lost()
            found = store.get(f"{key}/all")
            if self.main and self._meeting:  # all have left the meeting before
                for name in ("", "/all"):
                    store.delete_key(f"meeting/{self._meeting - 1}{name}")
        except RuntimeError as error:
            raise self._lost(error) from error
        self._meeting += 1
        self._pulse.heeded = False
        return [json.loads(line) for line in found.splitlines()]

    def _come(self, store: Store) -> None:
        """Come to the meeting; the last one closes it."""
        key = f"meeting/{self._meeting}"
        if store.add(key, 1) == self.size:
            store.set(f"{key}/all", store.get(f"{key}/faults").decode() if store.check([f"{key}/faults"]) else "")

    def _tell(self, error: Exception | SystemExit) -> dict[str, Any]:
        """An error as a JSON value."""
        mended = isinstance(error, UserError | OSError | SystemExit)
        text = str(error) if mended else f"{type(error).__name__}: {error}{_where(error)}"
        if isinstance(error, SystemExit):
            text = "its output is no longer read"  # rich's end where who read a pipe is gone
        if isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        return {"rank": self.rank, "text": text, "mended": mended}

    def _fault(self, faults: list[dict[str, Any]], own: Exception | SystemExit | None) -> Exception | SystemExit:
        """The error to raise of those that processes told: the first process's."""
        first = min(faults, key=lambda fault: int(fault["rank"]))
        everywhere = len(faults) == self.size and len({fault["text"] for fault in faults}) == 1
        if own is not None and (everywhere or (first["rank"] == self.rank and not isinstance(own, UserError))):
            return own
        text = first["text"]
        if not everywhere:
            text = f"{self.name(first['rank'])}: {text}"
        if not first["mended"]:
            text += f": a defect; see {worker.log_name(first['rank'])} in the run's folder"
        return UserError(text)

    def name(self, rank: int) -> str:
        """A process's number and host, for people."""
        return f"process {rank} ({self.hosts[rank]})"

    def _told(self, store: Store) -> str | None:
        """The error of another process, at the next meeting of this one."""
        key = f"meeting/{self._meeting}/faults"
        if not store.check([key]):
            return None
        return str(self._fault([json.loads(line) for line in store.get(key).splitlines()], None))

    def _is_loss(self, error: BaseException) -> bool:
        """Whether an error is one of those that follow when another process, or a device, is gone."""
        if isinstance(error, LostError | dist.DistError):
            return True
        return isinstance(error, RuntimeError) and bool(_BROKEN.search(str(error)) or _DEVICE.search(str(error)))

    def _raise_told(self, error: BaseException) -> None:
        """Raise what another process told before it went, or that it is lost."""
        told = None
        with suppress(RuntimeError):  # the store may be gone too
            told = self._told(self._store)
        if told is None:
            raise self._lost(error) from error
        found = UserError(told)
        found.add_note(_agreed)
        raise found from None

    def _lost(self, error: BaseException) -> LostError:
        """Tell all that contact was lost."""
        text = self._pulse.lost or f"{self.name(self.rank)} lost contact with another one"
        if _DEVICE.search(str(error)):
            text = f"{self.name(self.rank)}: {one_line(str(error))[:200]}"
        self._pulse.tell(text)
        return LostError(self._pulse.lost or text)

    def _end(self, text: str, store: Store | None) -> None:
        """End this process, whose main thread waits for what will not come: on a loss, or with a `store` on a fault."""
        if self.main and text:
            show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
            print(f"{show_cursor}clearseek: {one_line(text)}", file=sys.stderr, flush=True)
        code = worker.LOST
        if store is not None:
            code = worker.USER_ERROR
            worker.record_end(code)
            with suppress(RuntimeError):
                self._come(store)  # those who are at the meeting wait for this process
                self._leave(store, GRACE)
        leave(worker.exit_code(code))


def join_world(device: str = "cpu", patience: float = PATIENCE) -> Group:
    """The group that this process was started in: of `torchrun`, or of one process.

    Args:
        device: ``cpu`` or ``cuda``.
        patience: Seconds without a sign of life after which a process counts as lost.

    Raises:
        UserError: some of the processes did not come.
    """
    return World(device, patience) if worker.processes() > 1 else ALONE


def _where(error: BaseException) -> str:
    """File and line where an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _waits(store: Store, key: str) -> bool:
    """Wait for a key for a moment; whether it is there."""
    try:
        store.wait([key], _POLL)
    except dist.DistStoreError:
        return False
    return True


def _values(found: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[Any]:
    """JSON values of messages that zeros may follow."""
    return [json.loads(data[:size].numpy().tobytes()) for data, size in zip(found, sizes, strict=True)]


def _bytes(content: bytes, size: int) -> torch.Tensor:
    """Bytes as a tensor, with zeros behind them."""
    return torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
