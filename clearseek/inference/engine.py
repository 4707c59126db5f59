"""Many requests at once, a step at a time.

A step reads some tokens of some requests: one token of each that is being answered, with the draft behind it, then
pieces of prompts while there is room. Requests join, end, and are put back at any step. What a request gets depends on
its own tokens and settings alone, because no sum and no draw knows of the others (:mod:`clearseek.kernels.decoder`,
:mod:`clearseek.inference.sampling`): a request that was put back reads its tokens again and comes to the same bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clearseek.errors import UserError
from clearseek.inference.pages import Pages
from clearseek.inference.request import Chosen, Finish, Request
from clearseek.inference.sampling import Logits, adjusted, likeliest, log_probabilities, pick
from clearseek.kernels import PAGE

Whole = NDArray[np.int64]


class Rows(NamedTuple):
    """Tokens of one step."""

    tokens: Whole
    """Ids [T]."""
    positions: Whole
    """Places in their sequences [T]."""
    sequences: Whole
    """Sequence of each token [T]."""
    pages: Whole
    """Pages of each sequence, in order [sequences, most pages]."""
    wanted: Whole
    """Rows whose logits are wanted, rising."""


class Forward(Protocol):
    """A model with its cache."""

    rows: int
    """Most tokens of a step."""
    longest: int
    """Most tokens of a sequence."""
    page_count: int
    vocabulary: int
    """Tokens have numbers below this."""

    def step(self, rows: Rows) -> Tensor:
        """Logits of the wanted rows, FP32 [wanted, V], which may be overwritten by the next call."""
        ...

    def draft(self, rows: Rows, sources: Whole) -> Tensor:
        """Logits of the token after the next, FP32 [wanted, V], from rows `sources` of the last step."""
        ...

    def experts(self, row: int) -> tuple[tuple[int, ...], ...]:
        """Experts that a row of the last step visited, in each layer with experts."""
        ...

    def routes(self, count: int) -> Whole:
        """Experts that the first rows of the last step visited, [layers with experts, rows, experts per token]."""
        ...

    def copy_pages(self, sources: Whole, targets: Whole) -> None:
        """Copy pages of the cache."""
        ...


@dataclass
class Counts:
    """What an engine has done."""

    steps: int = 0
    read: int = 0
    reused: int = 0
    drawn: int = 0
    drafts: int = 0
    accepted: int = 0
    put_back: int = 0


class _Piece(NamedTuple):
    """A request's part of a step."""

    request: Request
    start: int
    tokens: list[int]
    first_row: int
    pages: list[int]
    """The request's pages, also after it ended in this step."""


class Engine:
    """Requests, pages and steps of one model. Not for several threads at once."""

    def __init__(self, forward: Forward, most_running: int = 64, drafts: bool = False) -> None:
        self.forward, self.drafts = forward, drafts
        self.pages = Pages(forward.page_count)
        self.longest = min(forward.longest, self.pages.count * PAGE)
        """Most tokens of a sequence, in the model's context and in the cache."""
        self.most_running = min(most_running, forward.rows)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.counts = Counts()

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises UserError for a prompt that is empty, has tokens that the model does not know, or leaves no room for an
        answer in the model's context or in the cache.
        """
        length, room = len(request.prompt), self.longest
        if not request.prompt:
            raise UserError("the prompt is empty: give at least one token")
        if length + (request.settings.max_tokens > 0) > room:
            raise UserError(f"the prompt has {length} tokens, but there is room for {room} with the answer: shorten it")
        known = self.forward.vocabulary
        if (wrong := next((t for t in request.prompt if not 0 <= t < known), None)) is not None:
            raise UserError(f"the prompt has token {wrong}, but the model's tokens are 0 to {known - 1}")
        self.waiting.append(request)

    def abort(self, request: Request, reason: Finish = "aborted") -> None:
        """End a request where it is; its pages are free at once."""
        if request.finish is None:
            self._end(request, reason)

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    def step(self) -> list[Request]:
        """Do one step; return the requests whose answers grew or ended."""
        now = time.monotonic()
        late = [r for r in (*self.running, *self.waiting) if r.deadline is not None and now >= r.deadline]
        for request in late:
            self._end(request, "deadline")
        pieces = self._choose()
        if not pieces:
            return late
        logits = self._read(pieces)
        self.counts.steps += 1
        changed = [piece.request for piece in pieces if self._safely(piece, logits)]
        if self.drafts:
            self._draft(pieces)
        return late + changed

    def run(self, requests: Iterable[Request]) -> list[Request]:
        """Answer requests to their ends."""
        requests = list(requests)
        for request in requests:
            self.add(request)
        while self.busy:
            self.step()
        return requests

    # --- Who is read in a step ----------------------------------------------------------------------------------------

    def _choose(self) -> list[_Piece]:
        """Pieces of this step: answers first, then prompts in the order of arrival."""
        room, chosen = self.forward.rows, []
        for request in sorted(self.running, key=lambda r: r.length - r.read > 1):
            n = min(len(self._unread(request)), room)
            if n < 1 or request not in self.running or not self._find_pages(request, request.read + n):
                continue
            chosen.append((request, n))
            room -= n
        while self.waiting and room > 0 and len(self.running) < self.most_running:
            request = self.waiting[0]
            self._begin(request)
            n = min(request.length - request.read, room)
            if not self._find_pages(request, request.read + n, put_back=False):
                self._release(request)
                break
            self.waiting.popleft()
            if not request.begun:  # one that was put back finds its own pages, which saves nothing
                request.begun, request.reused = True, request.read
                self.counts.reused += request.reused
            self.running.append(request)
            chosen.append((request, n))
            room -= n
        pieces, row = [], 0
        for request, n in chosen:
            if request in self.running:  # a later one may have put it back
                pieces.append(_Piece(request, request.read, self._unread(request)[:n], row, request.pages))
                row += n
        return pieces

    def _unread(self, request: Request) -> list[int]:
        """Tokens that are not in the cache yet, and the draft of the one after them."""
        tokens = request.tokens[request.read :]
        return tokens if request.draft is None else [*tokens, request.draft]

    def _begin(self, request: Request) -> None:
        """Find what was read before."""
        if not request.settings.prompt_logprobs:
            request.pages = self.pages.reuse(request.tokens)
            request.read = len(request.pages) * PAGE

    def _find_pages(self, request: Request, length: int, put_back: bool = True) -> bool:
        """Give the request pages for `length` tokens, from requests that came later if need be."""
        while len(request.pages) * PAGE < length:
            page = self.pages.take()
            if page is not None:
                request.pages.append(page)
            elif put_back and self.running[-1] is not request:
                self._put_back(self.running[-1])
            elif put_back and len(self.running) > 1:
                self._put_back(request)
                return False
            else:
                return False
        return True

    def _put_back(self, request: Request) -> None:
        """Take a request's pages; it waits, and reads its tokens again."""
        self.running.remove(request)
        self._release(request)
        self.waiting.appendleft(request)
        if not request.answer:
            request.prompt_logprobs.clear()
        self.counts.put_back += 1

    def _release(self, request: Request) -> None:
        self.pages.give_back(request.pages)
        request.pages, request.read, request.draft = [], 0, None

    def _end(self, request: Request, reason: Finish) -> None:
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._release(request)
        request.finish = reason

    # --- What a step gives --------------------------------------------------------------------------------------------

    def _read(self, pieces: Sequence[_Piece]) -> dict[int, Logits]:
        """Logits by row, of the rows that are needed."""
        wanted: list[int] = []
        for request, start, ids, row, _ in pieces:
            everything = request.settings.prompt_logprobs and not request.answer
            known = request.length - start
            wanted += range(row if everything else row + known - 1, row + len(ids))
            self.counts.read += len(ids)
        logits = self.forward.step(_rows(pieces, wanted)).numpy()
        return dict(zip(wanted, logits, strict=True))

    def _safely(self, piece: _Piece, logits: dict[int, Logits]) -> bool:
        """Advance a request; what goes wrong with it ends it alone."""
        try:
            return self._advance(piece, logits)
        except UserError as error:
            piece.request.error = str(error)
            if piece.request.finish is None:
                self._end(piece.request, "error")
            return True

    def _advance(self, piece: _Piece, logits: dict[int, Logits]) -> bool:
        """Note what was read; draw the next tokens where all was read. Whether the request changed."""
        request, start, ids, row, _ = piece
        s, draft = request.settings, request.draft
        request.read, request.draft = min(start + len(ids), request.length), None
        self._keep(request, start)
        if s.prompt_logprobs and not request.answer:
            for i, token in enumerate(request.prompt[start + 1 : start + len(ids) + 1]):
                request.prompt_logprobs.append(self._noted(logits[row + i], token, s.logprobs or 0, row + i))
        if request.read < request.length:
            return False
        if s.max_tokens == 0:
            self._end(request, "length")
            return True
        last = row + request.length - start - 1
        checked = len(ids) > last + 1 - row
        token = self._draw(request, logits[last], last, draft if checked else None)
        if checked:
            request.drafts += 1
            self.counts.drafts += 1
            if token == draft and request.finish is None:
                request.accepted += 1
                self.counts.accepted += 1
                request.read += 1
                self._keep(request, request.read - 1)
                self._draw(request, logits[last + 1], last + 1)
        return True

    def _keep(self, request: Request, start: int) -> None:
        """Let later requests find the pages that were filled from position `start` on."""
        for index in range(start // PAGE, request.read // PAGE):
            self.pages.keep(request.pages, index, request.tokens[index * PAGE : index * PAGE + PAGE])

    def _draw(self, request: Request, logits_V: Logits, row: int, draft: int | None = None) -> int:
        """Draw the next token from the logits of a row; end the request where it ends."""
        s, token = request.settings, self._pick(request, logits_V)
        if token in s.stop_tokens:
            self._end(request, "stop")
            return token
        request.add(self._noted(logits_V, token, s.logprobs, row, draft))
        self.counts.drawn += 1
        if request.guide is not None and request.guide.saw(token):
            self._end(request, "stop")
        elif len(request.answer) == s.max_tokens or request.length == self.longest:
            self._end(request, "length")
        return token

    def _pick(self, request: Request, logits_V: Logits) -> int:
        """Token that follows the request's tokens, by these logits."""
        s, begin = request.settings, len(request.prompt)
        logits_V = adjusted(logits_V, s, request.tokens, begin)
        if request.guide is not None:
            logits_V = request.guide.allow(logits_V)
        return pick(logits_V, s, request.length)

    def _draft(self, pieces: Sequence[_Piece]) -> None:
        """Let the multi-token-prediction layer read what the step read, and propose a token for each answer.

        What a request read in its last step is read too: its pages are kept for later requests, who draft from them.
        """
        after: list[_Piece] = []
        sources: list[int] = []
        wanted: list[int] = []
        for request, start, ids, row, pages in pieces:
            following = request.tokens[start + 1 : start + len(ids) + 1]  # nothing follows a draft that was dropped
            if not following:
                continue
            after.append(_Piece(request, start, following, len(sources), pages))
            sources += range(row, row + len(following))
            if request.finish is not None:
                continue
            if request.length + 1 < self.longest and len(request.answer) + 1 < request.settings.max_tokens:
                wanted += [len(sources) - 1] if request.read == request.length - 1 else []
        if not after:
            return
        logits = dict(zip(wanted, self.forward.draft(_rows(after, wanted), np.array(sources)).numpy(), strict=True))
        for request, _, following, row, _ in after:
            last = row + len(following) - 1
            if last in logits:
                with suppress(UserError):  # a proposal that cannot be made is not needed
                    request.draft = self._pick(request, logits[last])

    def _noted(
        self, logits_V: Logits, token: int, alternatives: int | None, row: int, draft: int | None = None
    ) -> Chosen:
        experts = self.forward.experts(row)
        if alternatives is None:
            return Chosen(token, None, (), experts, draft)
        log_p = log_probabilities(logits_V)
        best = likeliest(log_p, alternatives) if alternatives else ()
        return Chosen(token, float(log_p[token]), tuple((int(i), float(log_p[i])) for i in best), experts, draft)


def _rows(pieces: Sequence[_Piece], wanted: Sequence[int]) -> Rows:
    """A step's tensors."""
    most = max(len(piece.pages) for piece in pieces)
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    for index, (_, start, ids, _, _) in enumerate(pieces):
        tokens += ids
        positions += range(start, start + len(ids))
        sequences += [index] * len(ids)
    pages = [piece.pages + [0] * (most - len(piece.pages)) for piece in pieces]
    return Rows(*(np.array(x, dtype=np.int64) for x in (tokens, positions, sequences, pages, wanted)))
