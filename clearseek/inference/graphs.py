"""Generation on a GPU: steps of few tokens are captured as CUDA graphs, one for each size, and replayed.

A step of generation is some hundred small operations. Launching them one by one takes longer than a GPU needs to
compute them; a graph launches them at once (PyTorch's documentation, "CUDA Graphs"). Sizes are rounded up: rows that
are not needed read token 0 into a page of the cache that no request has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from clearseek.inference.engine import Rows
from clearseek.inference.packed import Packed
from clearseek.inference.plain import Done, Plain, RowsOnDevice
from clearseek.kernels import PAGE

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of tokens that graphs are made for."""
_LEAST = 8
"""Least number of pages that a graph reads."""


class Captured:
    """One captured size: inputs that are overwritten, and outputs that are too."""

    def __init__(self, size: int, pages: int, hidden: int, device: torch.device) -> None:
        self.size, self.pages = size, pages
        self.given = torch.zeros(size * (4 + pages), dtype=torch.int64, device=device)
        singles, lists = self.given[: 4 * size].view(4, size), self.given[4 * size :].view(size, pages)
        self.rows = RowsOnDevice(singles[0], singles[1], singles[2], lists, singles[3])
        self.hidden = torch.zeros(size, hidden, device=device)
        self.done: Done | None = None
        self.replay: Callable[[], None] = lambda: None

    def fill(self, rows: Rows, spare_page: int, hidden_TD: Tensor | None) -> None:
        """Overwrite the inputs, in one copy."""
        given = np.zeros(self.size * (4 + self.pages), dtype=np.int64)
        singles, lists = given[: 4 * self.size].reshape(4, self.size), given[4 * self.size :].reshape(self.size, -1)
        lists[:] = spare_page
        singles[2] = self.size - 1  # rows of padding have the last sequence, which only they can have
        for line, numbers in zip(singles, (rows.tokens, rows.positions, rows.sequences, rows.wanted), strict=True):
            line[: len(numbers)] = numbers
        lists[: len(rows.pages), : rows.pages.shape[1]] = rows.pages
        self.given.copy_(torch.from_numpy(given))
        if hidden_TD is not None:
            self.hidden[: len(hidden_TD)] = hidden_TD


class Graphed(Plain):
    """A packed model with its cache on a GPU."""

    spare = 1

    def __init__(self, model: Packed, pages: int, rows: int, longest: int) -> None:
        super().__init__(model, pages, rows, longest)
        self._graphs: dict[tuple[int, int, bool], Captured] = {}
        self._memory = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def _read(self, rows: Rows, hidden_TD: Tensor | None = None) -> Done:
        count, wanted = len(rows.tokens), len(rows.wanted)
        size = next((n for n in SIZES if n >= count), None)
        if size is None:
            return super()._read(rows, hidden_TD)
        needed = max(_LEAST, rows.pages.shape[1], int(rows.positions.max()) // PAGE + 1)
        pages = 1 << (needed - 1).bit_length()
        key = (size, pages, hidden_TD is not None)
        graph = self._graphs.get(key)
        fresh = graph is None
        if graph is None:
            graph = self._graphs[key] = Captured(size, pages, self.config.hidden_size, self.device)
        graph.fill(rows, self.page_count, hidden_TD)
        if fresh:
            self._capture(graph, drafting=hidden_TD is not None)
        graph.replay()
        assert graph.done is not None
        done = graph.done
        return Done(done.logits[:wanted], done.hidden[:count], done.routing[:, :count])

    def _run(self, graph: Captured, drafting: bool) -> None:
        graph.done = self._forward(graph.rows, graph.pages * PAGE, graph.hidden if drafting else None)

    def _capture(self, graph: Captured, drafting: bool) -> None:
        """Record the operations of a step; the inputs are those of a step, so that trying it first does no harm."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._run(graph, drafting)  # libraries make their plans at the first call, which a graph cannot hold
        torch.cuda.current_stream(self.device).wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, pool=self._memory):
            self._run(graph, drafting)
        graph.replay = captured.replay
