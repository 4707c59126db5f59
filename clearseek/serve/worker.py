"""The engine's own thread: requests come in by a queue, pieces of answers go out to the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from clearseek.errors import UserError
from clearseek.inference.answer import Answer, Delta
from clearseek.inference.engine import Engine
from clearseek.inference.request import Chosen, Finish


@dataclass(frozen=True)
class Update:
    """What is new of an answer."""

    deltas: list[Delta]
    chosen: list[Chosen]
    finish: Finish | None
    error: str = ""


@dataclass(eq=False)
class Job:
    """An answer on its way to a client."""

    answer: Answer
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Update] = field(default_factory=asyncio.Queue)
    sent: int = 0
    """Tokens that were passed on."""
    arrived: float = field(default_factory=time.monotonic)
    first: float | None = None
    """Time of the first token."""


class BusyError(Exception):
    """As many answers are open as may be."""


class EndedError(Exception):
    """The engine takes no more requests; the text says why."""


class Worker:
    """Runs an engine until it is drained.

    Places are reserved before any work is done for a request, and given back when its answer has ended or was refused.
    """

    def __init__(self, engine: Engine, most_waiting: int = 256) -> None:
        self.engine, self.most_waiting = engine, most_waiting
        self._inbox: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._open = 0
        self._lock = threading.Lock()
        self._draining = False
        self._ended = False
        self.broken: str | None = None
        """What ended the engine, if anything did."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def drain(self, seconds: float) -> None:
        """Take no more requests; wait until the open ones have ended, or end them after `seconds`."""
        with self._lock:
            self._draining = True
        until = time.monotonic() + seconds
        while self._open and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.02)
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def open(self) -> int:
        """Answers that are prepared, wait, or are written."""
        return self._open

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    def reserve(self, count: int) -> None:
        """Take places for answers. Raises BusyError where too few are left, EndedError where none will be."""
        with self._lock:
            self._refuse_when_ended()
            if self._open + count > self.most_waiting:
                raise BusyError
            self._open += count

    def release(self, count: int) -> None:
        """Give reserved places back."""
        with self._lock:
            self._open -= count

    def submit(self, answers: list[Answer]) -> list[Job]:
        """Queue answers, for which places are reserved. Raises EndedError; the places are then still reserved."""
        loop = asyncio.get_running_loop()
        jobs = [Job(answer, loop) for answer in answers]
        with self._lock:
            self._refuse_when_ended()
            for job in jobs:
                self._inbox.put((job, True))
        return jobs

    def abort(self, jobs: Iterable[Job]) -> None:
        """End answers that nobody waits for; those that have ended stay as they are."""
        for job in jobs:
            self._inbox.put((job, False))

    def _refuse_when_ended(self) -> None:
        if self.broken is not None:
            raise EndedError(f"the engine broke down: {self.broken}")
        if self._draining or self._ended:
            raise EndedError("the server is about to end")

    # --- In the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._receive():
                for request in self.engine.step():
                    job = self._jobs.get(id(request))
                    if job is not None:
                        self._pass_on(job)
        except BaseException as error:  # the engine's state is unknown: say so, and end every answer
            self.broken = f"{type(error).__name__}: {error}"
        self._end_all()

    def _end_all(self) -> None:
        """End the answers that are open, and those that were still in the queue."""
        with self._lock:
            self._ended = True
        late: list[Job] = []
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None and item[1]:
                late.append(item[0])
        self._jobs |= {id(job.answer.request): job for job in late}
        for job in list(self._jobs.values()):
            request = job.answer.request
            if self.broken is None and job not in late:
                self.engine.abort(request, "error")
            request.finish = request.finish or "error"
            request.error = request.error or self.broken or "the server ends"
            self._pass_on(job)

    def _receive(self) -> bool:
        """Take what has come in; wait for it where nothing else is to be done. False at the end."""
        while True:
            try:
                item = self._inbox.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if item is None:
                return False
            job, begins = item
            request = job.answer.request
            if begins:
                self._jobs[id(request)] = job
                try:
                    self.engine.add(request)
                except UserError as error:
                    request.finish, request.error = "error", str(error)
                    self._pass_on(job)
            elif id(request) in self._jobs:
                self.engine.abort(request)
                self._pass_on(job)

    def _pass_on(self, job: Job) -> None:
        request = job.answer.request
        chosen = request.answer[job.sent :]
        job.sent = len(request.answer)
        if chosen and job.first is None:
            job.first = time.monotonic()
        update = Update(job.answer.take(), chosen, request.finish, request.error)
        if request.finish is not None:
            del self._jobs[id(request)]
            self.release(1)
        with suppress(RuntimeError):  # the event loop is closed: nobody waits
            job.loop.call_soon_threadsafe(job.updates.put_nowait, update)
