"""Many completions at once, all with the same settings: what reinforcement learning and evaluation ask for.

Prompts are read once each, however many completions they have; then every completion gets a token a step until its end,
and waiting ones take the rows that become free. Tokens are those that :class:`clearseek.inference.engine.Engine` draws
for the same prompt, settings and seed. What the engine does not give comes along: log-probabilities of the distribution
that was drawn from (after temperature and filters), the tokens that filters left, and every token's experts.

Shapes: N completions, R rows of a step, V vocabulary, L layers with experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clearseek.errors import UserError
from clearseek.inference.engine import Forward, Rows, Whole
from clearseek.inference.request import Settings
from clearseek.inference.sampling import Numbers, draw_rows
from clearseek.kernels import PAGE

Routes = NDArray[np.int64]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    tokens: Whole
    """Its tokens, with the one that ended it."""
    logp: Numbers
    """Natural logarithm of each token's probability in the distribution that it was drawn from."""
    ended: bool
    """Whether a stop token ended it, rather than its longest length."""
    routes: Routes
    """Experts [L, prompt + tokens - 1, K] that each token visited; the last one was not read."""
    kept: list[Whole] | None
    """Of each token, what filters left to draw from; None where nothing was left out."""


def pages_needed(prompts: Sequence[Sequence[int]], completions: int, settings: Settings) -> int:
    """Pages with which so many completions of the longest prompt, and all prompts, are in the cache at once."""
    longest = max(map(len, prompts))
    return sum(_pages(len(prompt)) for prompt in prompts) + completions * _pages(longest + settings.max_tokens)


def complete(
    forward: Forward, prompts: Sequence[Sequence[int]], prompt_N: Sequence[int], seed_N: Sequence[int],
    settings: Settings,
) -> list[Completion]:  # fmt: skip
    """Complete prompts.

    Args:
        forward: A model with a cache that nobody else uses.
        prompts: Prompts as token ids.
        prompt_N: Of each completion, the number of its prompt; those of a prompt side by side.
        seed_N: Of each completion, the seed of its draws.
        settings: Temperature, filters, `max_tokens` and `stop_tokens`; penalties and biases are not supported.

    Raises:
        UserError: a prompt is empty or too long, the cache is too small for one completion, or logits are not finite.
    """
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= forward.longest - settings.max_tokens:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens: with {settings.max_tokens} of a completion there is room "
                f"for 1 to {forward.longest - settings.max_tokens}"
            )
    return _Batch(forward, prompts, np.array(prompt_N), np.array(seed_N, dtype=np.int64), settings).run()


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


@dataclass
class _Read:
    """A prompt in the cache."""

    pages: list[int]
    logits: NDArray[np.float32]
    """What follows its last token [V]."""
    unfinished: int
    """Completions of it that have not ended."""


@dataclass
class _Active:
    """Completions that get a token in each step, a row of each array for each."""

    sample: Whole = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    token: Whole = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """The last one drawn, which is read next."""
    position: Whole = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """That token's place."""
    pages: Whole = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))

    def only(self, rows: NDArray[np.bool_]) -> None:
        """Keep some."""
        self.sample, self.token, self.position = self.sample[rows], self.token[rows], self.position[rows]
        self.pages = self.pages[rows]

    def add(self, sample: Whole, token: Whole, position: Whole, pages: Whole) -> None:
        """Add some at the end."""
        width = max(self.pages.shape[1], pages.shape[1])
        old, new = (np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (self.pages, pages))
        self.sample, self.token = np.concatenate([self.sample, sample]), np.concatenate([self.token, token])
        self.position, self.pages = np.concatenate([self.position, position]), np.concatenate([old, new])


class _Batch:
    def __init__(
        self, forward: Forward, prompts: Sequence[Sequence[int]], prompt_N: Whole, seed_N: Whole, settings: Settings
    ) -> None:
        self.forward, self.prompts, self.prompt_N, self.seed_N, self.settings = (
            forward,
            prompts,
            prompt_N,
            seed_N,
            settings,
        )
        self.stops = np.array(sorted(settings.stop_tokens), dtype=np.int64)
        count, most = len(prompt_N), settings.max_tokens
        self.tokens, self.logp = np.zeros((count, most), dtype=np.int64), np.zeros((count, most))
        self.lengths, self.ended = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        self.kept: list[list[Whole]] = [[] for _ in range(count)]
        self.routes: NDArray[np.int64] | None = None
        self.free = list(range(forward.page_count))[::-1]
        self.read: dict[int, _Read] = {}
        self.prompt_routes: dict[int, Routes] = {}
        self.own: dict[int, list[int]] = {}
        """Pages that only one completion has."""
        self.active = _Active()
        self.begun = 0

    def run(self) -> list[Completion]:
        while self.begun < len(self.prompt_N) or len(self.active.sample):
            self._begin()
            if len(self.active.sample):
                self._step()
        return [self._completion(number) for number in range(len(self.prompt_N))]

    # --- Beginning ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin as many waiting completions as there are rows and pages for."""
        room = self.forward.rows - len(self.active.sample)
        first = self.begun
        while self.begun < len(self.prompt_N) and self.begun - first < room:
            prompt = int(self.prompt_N[self.begun])
            needed = self._own_pages(prompt) + (0 if prompt in self.read else _pages(len(self.prompts[prompt])))
            if needed > len(self.free):
                break
            if prompt not in self.read:
                self._reserve(prompt)
            self.own[self.begun] = [self.free.pop() for _ in range(self._own_pages(prompt))]
            self.begun += 1
        if self.begun > first:
            self._read_prompts(sorted({int(prompt) for prompt in self.prompt_N[first : self.begun]}))
            self._start(np.arange(first, self.begun))
        elif not len(self.active.sample):
            raise UserError("the cache is too small for one completion: give it more memory")

    def _own_pages(self, prompt: int) -> int:
        """Pages of a completion beside the full ones of its prompt, which all completions of the prompt share."""
        length = len(self.prompts[prompt])
        return _pages(length + self.settings.max_tokens) - length // PAGE

    def _reserve(self, prompt: int) -> None:
        pages = [self.free.pop() for _ in range(_pages(len(self.prompts[prompt])))]
        nothing = np.empty(0, dtype=np.float32)
        self.read[prompt] = _Read(pages, nothing, int((self.prompt_N == prompt).sum()))

    def _read_prompts(self, prompts: Sequence[int]) -> None:
        """Read those that are not in the cache yet, as many tokens a step as there are rows."""
        new = [prompt for prompt in prompts if not self.read[prompt].logits.size]
        if not new:
            return
        width = max(len(self.read[prompt].pages) for prompt in new)
        pages = np.array([_wide(self.read[prompt].pages, width) for prompt in new])
        tokens = np.concatenate([np.array(self.prompts[prompt], dtype=np.int64) for prompt in new])
        positions = np.concatenate([np.arange(len(self.prompts[prompt])) for prompt in new])
        sequences = np.repeat(np.arange(len(new)), [len(self.prompts[prompt]) for prompt in new])
        ends = np.cumsum([len(self.prompts[prompt]) for prompt in new]) - 1
        routes = []
        for start in range(0, len(tokens), self.forward.rows):
            part = slice(start, start + self.forward.rows)
            done = ends[(ends >= start) & (ends < start + self.forward.rows)]
            logits = self.forward.step(
                Rows(tokens[part], positions[part], sequences[part], pages, done - start)
            ).numpy()
            for end, logits_V in zip(done, logits, strict=True):
                self.read[new[int(sequences[end])]].logits = logits_V.copy()
            routes.append(self.forward.routes(len(tokens[part])))
        every = np.concatenate(routes, axis=1)
        for prompt, end in zip(new, ends, strict=True):
            self.prompt_routes[prompt] = every[:, end + 1 - len(self.prompts[prompt]) : end + 1]

    def _start(self, samples: Whole) -> None:
        """Give completions their pages, the prompt's last, partly filled one as a copy, and draw their first tokens."""
        prompts = [int(prompt) for prompt in self.prompt_N[samples]]
        lengths = np.array([len(self.prompts[prompt]) for prompt in prompts])
        lists, sources, targets = [], [], []
        for sample, prompt, length in zip(samples.tolist(), prompts, lengths.tolist(), strict=True):
            shared = self.read[prompt].pages[: length // PAGE]
            lists.append(shared + self.own[sample])
            if length % PAGE:
                sources.append(self.read[prompt].pages[-1])
                targets.append(self.own[sample][0])
        if targets:
            self.forward.copy_pages(np.array(sources), np.array(targets))
        width = max(map(len, lists))
        logits = np.stack([self.read[prompt].logits for prompt in prompts])
        pages = np.array([_wide(each, width) for each in lists])
        self.active.add(samples, np.zeros(len(samples), dtype=np.int64), lengths - 1, pages)
        self._draw(logits, len(self.active.sample) - len(samples))

    # --- A step -------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Read the last token of every active completion, and draw the next."""
        active, count = self.active, len(self.active.sample)
        every = np.arange(count)
        logits = self.forward.step(Rows(active.token, active.position, every, active.pages, every)).numpy()
        routes = self.forward.routes(count)
        if self.routes is None:
            layers, _, k = routes.shape
            self.routes = np.zeros((layers, *self.tokens.shape, k), dtype=np.int64)
        self.routes[:, active.sample, self.lengths[active.sample] - 1] = routes
        self._draw(logits, 0)

    def _draw(self, logits: NDArray[np.float32], first: int) -> None:
        """Draw the next token of the active completions from number `first` on, and let go of those that ended."""
        active = self.active
        sample, position = active.sample[first:], active.position[first:] + 1
        drawn = draw_rows(logits, self.settings, self.seed_N[sample], position)
        place = self.lengths[sample]
        self.tokens[sample, place], self.logp[sample, place] = drawn.tokens, drawn.logp
        for number, kept in zip(sample.tolist(), drawn.kept or (), strict=False):
            self.kept[number].append(kept)
        self.lengths[sample] = place + 1
        self.ended[sample] = np.isin(drawn.tokens, self.stops)
        active.token[first:], active.position[first:] = drawn.tokens, position
        over = self.ended[active.sample] | (self.lengths[active.sample] == self.settings.max_tokens)
        for number in active.sample[over].tolist():
            self.free += self.own.pop(number)
            prompt = int(self.prompt_N[number])
            self.read[prompt].unfinished -= 1
            if not self.read[prompt].unfinished:
                self.free += self.read.pop(prompt).pages
        active.only(~over)

    def _completion(self, number: int) -> Completion:
        length, routes = int(self.lengths[number]), self.prompt_routes[int(self.prompt_N[number])]
        if self.routes is not None:
            routes = np.concatenate([routes, self.routes[:, number, : length - 1]], axis=1)
        kept = self.kept[number] or None
        return Completion(
            self.tokens[number, :length].copy(),
            self.logp[number, :length].copy(),
            bool(self.ended[number]),
            routes,
            kept,
        )


def _wide(pages: list[int], width: int) -> list[int]:
    return pages + [0] * (width - len(pages))
