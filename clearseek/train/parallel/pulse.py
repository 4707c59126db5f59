"""Signs of life: how the processes of a run find out, within seconds, that one of them is gone.

A killed process closes its connections, and who waits for it knows at once. One that is stopped, or behind a cut cable,
says nothing: gloo would wait for as long as a slow step may take. So every process writes a counter to the common store
every other second, and watches the counter of the next process. Who sees it stand still for `patience` seconds says so
in the store, where all look, and all end with the exit code LOST, for the launcher to start them again. A process whose
main thread waits in a collective cannot be asked to end: the thread here ends it.

A fault that another process found (:meth:`World.together`) ends it likewise, if it does not come to hear of it itself:
it may wait for numbers that are never sent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from clearseek.errors import LostError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PERIOD = 1.0
"""Seconds between two signs of life."""
GRACE = 5.0
"""Seconds that the main thread has to notice a loss or a fault by itself."""
_DONE = "done"
_LOST = "lost"
"""Key of the store under which a loss is told."""


class Pulse:
    """Give signs of life, and watch the next process.

    Args:
        connect: Makes a connection to the store for this thread alone.
        rank: Number of this process.
        hosts: Every process's host.
        patience: Seconds without a sign of life after which a process counts as lost.
        fault: Text of a fault that another process told, None where there is none; given the connection.
        end: Ends this process, given a text (empty where it was told already), and for a fault the connection.
    """

    def __init__(
        self, connect: Callable[[], Store], rank: int, hosts: list[str], patience: float,
        fault: Callable[[Store], str | None], end: Callable[[str, Store | None], None],
    ) -> None:  # fmt: skip
        self._rank, self._hosts, self._patience, self._fault, self._end = rank, hosts, patience, fault, end
        self.lost: str | None = None
        """What was lost, once something is."""
        self.heeded = False
        """Whether the main thread waits where it notices a loss or a fault by itself."""
        self._stop = threading.Event()
        self._looked = time.monotonic()
        self._store = connect()
        threads = [threading.Thread(target=run, name=name, daemon=True)
                   for run, name in ((self._beat, "signs of life"), (self._guard, "store's guard"))]  # fmt: skip
        self._threads = threads
        for thread in threads:
            thread.start()

    def close(self) -> None:
        """End in peace: nobody is to miss this process."""
        self._stop.set()
        self._threads[0].join(GRACE)

    def tell(self, text: str) -> None:
        """Tell all of a loss that the main thread noticed."""
        self.heeded, self.lost = True, self.lost or text
        self._threads[0].join(GRACE)  # until it has told

    def refuse_lost(self) -> None:
        """Raise LostError where another process is lost."""
        if self.lost is not None:
            raise LostError(self.lost)

    def _beat(self) -> None:
        """Write the counter, read the next process's, and what others told."""
        store, following = self._store, (self._rank + 1) % len(self._hosts)
        count, seen, changed = 0, "", time.monotonic()
        fault_since: float | None = None
        try:
            while not self._stop.is_set() and self.lost is None:
                began, count = time.monotonic(), count + 1
                store.set(f"alive/{self._rank}", str(count))
                now = store.get(f"alive/{following}").decode() if store.check([f"alive/{following}"]) else ""
                if now != seen or now == _DONE or began - self._looked > PERIOD + GRACE:  # we slept ourselves
                    seen, changed = now, began
                self._looked = time.monotonic()
                if began - changed > self._patience:
                    where = self._hosts[following]
                    self.lost = f"process {following} ({where}) gave no sign of life for {self._patience:.0f} s"
                elif store.check([_LOST]):
                    self.lost = store.get(_LOST).decode()
                fault = None if self.heeded else self._fault(store)
                fault_since = None if fault is None else fault_since or began
                if fault is not None and fault_since is not None and began - fault_since > GRACE:
                    self._end(fault, store)
                self._stop.wait(PERIOD)
            store.set(f"alive/{self._rank}", _DONE if self.lost is None else str(count))
            if self.lost is not None:
                store.set(_LOST, self.lost)
        except RuntimeError:  # all of torch.distributed's
            if not self._stop.is_set():
                self.lost = self.lost or "the connection to process 0, which keeps the processes together, broke off"

    def _guard(self) -> None:
        """End the process where its main thread does not end it; the store itself may hang."""
        before = time.monotonic()
        while not self._stop.wait(PERIOD / 2):
            now = time.monotonic()
            if now - before > PERIOD + GRACE:  # the whole process was stopped, perhaps all were
                self._looked = now
            before = now
            if self.lost is None and now - self._looked > self._patience:
                self.lost = f"process 0, which keeps the processes together, did not answer for {self._patience:.0f} s"
            if self.lost is not None:
                if not self._stop.wait(GRACE):
                    self._end("" if self.heeded else self.lost, None)
                return


def leave(code: int) -> None:
    """End this process at once, without Python's clean-up, which would wait for collectives."""
    os._exit(code)
