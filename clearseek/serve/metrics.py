"""Counts of a server in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clearseek.serve.worker import Job, Worker


class _Engine(Collector):
    """What the engine counts itself, read when it is asked for: levels, and counts that only rise."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """Each number with its words."""
        worker, engine = self._worker, self._worker.engine
        for name, words, level in (
            ("open_answers", "Answers that wait or are written.", worker.open),
            ("waiting_answers", "Answers that wait for room.", len(engine.waiting)),
            ("free_pages", "Pages of the cache in no answer's use.", engine.pages.free),
            ("pages", "Pages of the cache.", engine.pages.count),
        ):
            yield GaugeMetricFamily(f"clearseek_{name}", words, level)
        for name, words, count in (
            ("steps", "Steps of the engine.", engine.counts.steps),
            ("tokens_read", "Tokens that went through the model.", engine.counts.read),
            ("tokens_reused", "Tokens of prompts that an earlier answer had read.", engine.counts.reused),
            ("tokens_written", "Tokens of answers.", engine.counts.drawn),
            ("drafts", "Tokens that were drafted.", engine.counts.drafts),
            ("drafts_accepted", "Drafted tokens that were drawn.", engine.counts.accepted),
            ("put_back", "Answers that gave their pages to others.", engine.counts.put_back),
        ):
            yield CounterMetricFamily(f"clearseek_{name}", words, count)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("clearseek_requests", "Requests, by path and status.", ["path", "status"], **own)
        self.first = Histogram("clearseek_first_token_seconds", "Time to an answer's first token.", **own)
        self.registry.register(_Engine(worker))

    def answered(self, jobs: Sequence[Job]) -> None:
        """Note the times of ended answers."""
        for job in jobs:
            if job.first is not None:
                self.first.observe(job.first - job.arrived)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
