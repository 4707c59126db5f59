"""Counts of a server in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clearseek.serve.worker import Job, Worker


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("clearseek_requests", "Requests, by path and status.", ["path", "status"], **own)
        self.first = Histogram("clearseek_first_token_seconds", "Time to an answer's first token.", **own)
        counts, pages = worker.engine.counts, worker.engine.pages
        for name, words, value in (
            ("open_answers", "Answers that wait or are written.", lambda: worker.open),
            ("waiting_answers", "Answers that wait for room.", lambda: len(worker.engine.waiting)),
            ("free_pages", "Pages of the cache in no answer's use.", lambda: pages.free),
            ("pages", "Pages of the cache.", lambda: pages.count),
            ("steps", "Steps of the engine.", lambda: counts.steps),
            ("tokens_read", "Tokens that went through the model.", lambda: counts.read),
            ("tokens_reused", "Tokens of prompts that an earlier answer had read.", lambda: counts.reused),
            ("tokens_written", "Tokens of answers.", lambda: counts.drawn),
            ("drafts", "Tokens that were drafted.", lambda: counts.drafts),
            ("drafts_accepted", "Drafted tokens that were drawn.", lambda: counts.accepted),
            ("put_back", "Answers that gave their pages to others.", lambda: counts.put_back),
        ):
            Gauge(f"clearseek_{name}", words, **own).set_function(value)

    def answered(self, jobs: Sequence[Job]) -> None:
        """Note the times of ended answers."""
        for job in jobs:
            if job.first is not None:
                self.first.observe(job.first - job.arrived)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
