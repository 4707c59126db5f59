"""Counts in Prometheus' text form."""

from __future__ import annotations

from tests.serve.served import Served


def test_counts_that_only_rise_are_counters(served: Served) -> None:
    def told() -> str:
        text: str = served.client.get(served.url + "/metrics").text
        return text

    names = ["steps", "tokens_read", "tokens_reused", "tokens_written", "drafts", "drafts_accepted", "put_back"]
    assert all(f"\n# TYPE clearseek_{name}_total counter\nclearseek_{name}_total " in told() for name in names)
    levels = ["open_answers", "waiting_answers", "free_pages", "pages"]
    assert all(f"\n# TYPE clearseek_{name} gauge\nclearseek_{name} " in told() for name in levels)
    served.post("/v1/completions", {"prompt": "hello", "max_tokens": 3, "logit_bias": {"1": -100}})
    assert f"\nclearseek_tokens_written_total {float(served.worker.engine.counts.drawn)}\n" in told()
