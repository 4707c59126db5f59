"""The engine's own thread: requests come in by a queue, pieces of answers go out to the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from dataclasses import dataclass, field

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


class Busy(Exception):
    """As many requests wait as may."""


class Worker:
    """Runs an engine until it is stopped."""

    def __init__(self, engine: Engine, most_waiting: int = 256) -> None:
        self.engine, self.most_waiting = engine, most_waiting
        self._inbox: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._open = 0
        self._lock = threading.Lock()
        self._draining = False
        self.broken: str | None = None
        """What ended the engine, if anything did."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def drain(self, seconds: float) -> None:
        """Take no more requests; wait until the open ones have ended, or end them after `seconds`."""
        self._draining = True
        until = time.monotonic() + seconds
        while self._open and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.02)
        self._inbox.put(None)
        self._thread.join(timeout=10)

    @property
    def open(self) -> int:
        """Requests that wait or are answered."""
        return self._open

    def submit(self, answers: list[Answer]) -> list[Job]:
        """Queue answers. Raises :class:`Busy` where too many wait, or the server is about to end."""
        with self._lock:
            if self._draining or self.broken or self._open + len(answers) > self.most_waiting:
                raise Busy
            self._open += len(answers)
        loop = asyncio.get_running_loop()
        jobs = [Job(answer, loop) for answer in answers]
        for job in jobs:
            self._inbox.put((job, True))
        return jobs

    def abort(self, job: Job) -> None:
        """End an answer that nobody waits for."""
        self._inbox.put((job, False))

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
        for job in list(self._jobs.values()):
            if job.answer.request.finish is None:
                job.answer.request.finish, job.answer.request.error = "error", self.broken or "the server ends"
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
            if begins:
                self._jobs[id(job.answer.request)] = job
                self.engine.add(job.answer.request)
            elif id(job.answer.request) in self._jobs:
                self.engine.abort(job.answer.request)
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
            with self._lock:
                self._open -= 1
        try:
            job.loop.call_soon_threadsafe(job.updates.put_nowait, update)
        except RuntimeError:
            pass  # the event loop is closed: nobody waits
