"""What a run writes after each step: a line of the transcript, and one of metrics.

Of several processes the main one alone has the files; the log of the others writes nothing.
"""

from __future__ import annotations

import torch

from clearseek.train.record import StepRecord
from clearseek.train.run import Metrics, Run
from clearseek.train.writer import TranscriptWriter


class Log:
    """The log of a run in progress. Without a transcript it writes nothing."""

    def __init__(self, run: Run, step: int, transcript: TranscriptWriter | None) -> None:
        """Open the metrics after `step`, and go on with an open transcript."""
        self._transcript = transcript
        self._metrics = None if transcript is None else Metrics(run.metrics, step)

    @property
    def head(self) -> str:
        """SHA-256 of the transcript's last line; empty where nothing is written."""
        return "" if self._transcript is None else self._transcript.head

    def append(self, record: StepRecord) -> None:
        """Write a step's line into the transcript."""
        if self._transcript is not None:
            self._transcript.append(record)

    def measure(self, record: StepRecord, load_LE: torch.Tensor) -> None:
        """Write a step's line of metrics, with its tokens per expert [L, E]."""
        if self._metrics is not None:
            self._metrics.append(record, load_LE)

    def sync(self) -> None:
        """Force the transcript's lines to the disk."""
        if self._transcript is not None:
            self._transcript.sync()

    def close(self) -> None:
        """Let the files go."""
        try:
            if self._metrics is not None:
                self._metrics.close()
        finally:
            if self._transcript is not None:
                self._transcript.close()
