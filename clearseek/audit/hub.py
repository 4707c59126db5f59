"""A release on the Hugging Face hub, read where it is: a list of files, and the bytes that checks ask for.

The revision is pinned to a commit first, so that all reads are of one state. Large files are never fetched: headers and
samples are range requests, and hashes are those that the hub keeps of its large files (which it computed when they
were uploaded); small files are hashed here. What a gate keeps shut is known by its name, size and hash, and no more.
``HF_ENDPOINT`` and the user's token are honoured by `huggingface_hub`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, TypeVar

from clearseek.audit import questions
from clearseek.audit.evidence import Audit, Grade, Row
from clearseek.errors import UserError
from clearseek.reading.evidence import Evidence
from clearseek.reading.source import LONGEST_TEXT, Source
from clearseek.reading.subject import is_weights
from clearseek.signing.tree import Problem, collisions, name_problem, visible

NAME: Final = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?")
T = TypeVar("T")
_HEAD: Final = 65_536
"""Bytes fetched at a file's beginning at once: a header of a few hundred tensors."""
MOST_FILES: Final = 100_000
MOST_REVISIONS: Final = 256
"""Branches and tags that are looked at."""
STEP_REVISION: Final = re.compile(
    r"(?:^|[-_/.])(?:step|checkpoint|ckpt|iter)[-_]?(?P<step>\d{1,18})(?=$|[-_/.])|^(?P<number>\d{3,18})$", re.I
)
"""A branch or tag that is named after a step of training."""
_AT_ONCE: Final = 8
"""Requests under way."""


class Hub(Source):
    """A model repository at one commit."""

    most_samples = 24
    whole_bytes = 0
    locked = ""
    """Why no file can be read, where a gate is shut."""
    revisions_note = ""
    """What is to be said about `revisions`."""
    revisions_failed = False
    """Whether some could not be looked at."""

    def __init__(self, name: str) -> None:
        """Look the repository up. Raises UserError when it cannot be had."""
        super().__init__()
        match = NAME.fullmatch(name)
        if match is None:
            raise UserError(
                f"{name}: neither a folder nor the name of a repository (owner/name, or owner/name@revision)"
            )
        self.repo = self.repository = match["repo"]
        self._hub = library()
        info = ask(
            self.repo, lambda: self._hub.HfApi().model_info(self.repo, revision=match["revision"], files_metadata=True)
        )
        siblings = info.siblings or []
        if len(siblings) > MOST_FILES:
            raise UserError(f"{name}: more than {MOST_FILES:,} files: no release")
        self.name = f"{self.repo}@{info.sha}"
        self.revision = str(info.sha)
        self.gated = bool(getattr(info, "gated", False))
        names = [each.rfilename for each in siblings]
        odd = [(path, what) for path in names if (what := name_problem(path))] + collisions(names)
        self.problems = tuple(Problem(visible(path), what) for path, what in odd)
        self._files = {each.rfilename: each for each in siblings if not name_problem(each.rfilename)}
        self._heads: dict[str, bytes] = {}
        self.hashes = {path: str(each.lfs.sha256) for path, each in self._files.items() if each.lfs is not None}
        if info.last_modified is not None:
            self.released = info.last_modified.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes."""
        return {path: int(self._files[path].size or 0) for path in sorted(self._files)}

    @cached_property
    def revisions(self) -> dict[str, dict[str, str]]:
        """Branches and tags other than this one: path -> SHA-256 of their large files.

        What could not be had of them, or was left out, is said in `revisions_note`.
        """
        try:
            refs = ask(self.repo, lambda: self._hub.HfApi().list_repo_refs(self.repo))
        except UserError as error:
            self.revisions_note, self.revisions_failed = f"its branches are not known: {error}", True
            return {}
        named = {each.name: str(each.target_commit) for each in (*refs.branches, *refs.tags)}
        chosen, looked = _chosen([name for name, commit in named.items() if commit != self.revision])
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = dict(zip(chosen, pool.map(lambda name: self._large(named[name]), chosen), strict=True))
        failed = [name for name, files in found.items() if isinstance(files, UserError)]
        if failed:
            looked = f"{visible(failed[0])[:80]} and {len(failed) - 1} more" if len(failed) > 1 else visible(failed[0])
            looked, self.revisions_failed = f"not to be had: {looked[:100]}: {found[failed[0]]}", True
        self.revisions_note = looked
        return {name: files for name, files in found.items() if not isinstance(files, UserError)}

    def _large(self, commit: str) -> dict[str, str] | UserError:
        """Path -> SHA-256 of the large files of a commit, or why they are not known."""
        api = self._hub.HfApi()
        try:
            info = ask(self.repo, lambda: api.model_info(self.repo, revision=commit, files_metadata=True))
        except UserError as error:
            return error
        return {each.rfilename: str(each.lfs.sha256) for each in info.siblings or [] if each.lfs is not None}

    def data_set(self, name: str) -> str | None:
        """Commit, gate and licence of a data set on the same hub; empty where there is none to be seen."""
        try:
            info = self._hub.HfApi().dataset_info(name)
        except (self._hub.errors.RepositoryNotFoundError, self._hub.errors.HFValidationError):
            return ""
        except (self._hub.errors.HfHubHTTPError, OSError, ValueError):
            return None
        card = info.card_data or {}
        licence = card.get("license") if hasattr(card, "get") else None
        gate = ", behind a gate" if getattr(info, "gated", False) else ""
        return f"commit {str(info.sha)[:12]}{gate}, licence {visible(str(licence or 'not said'))[:40]}"

    def pointer(self, path: str) -> None:
        """Nothing: the hub gives what a pointer stands for."""

    def sha256(self, path: str) -> str:
        """What the hub recorded of a large file; of a small one, taken here when it has been read whole."""
        if path not in self.hashes and self.sizes[path] <= LONGEST_TEXT:
            raw = self.read(path, LONGEST_TEXT)
            if len(raw) == self.sizes[path]:
                self.hashes[path] = sha256(raw).hexdigest()
        return self.hashes.get(path, "")

    def read(self, path: str, limit: int, begin: int = 0) -> bytes:
        """At most `limit` bytes from `begin`, by a range request; the beginning of a file is kept.

        Behind a gate there is nothing to be read.
        """
        end = min(begin + limit, self.sizes[path])
        if end <= begin or self.locked:
            return b""
        if path not in self._heads:
            try:
                first = self._fetch(path, 0, min(max(_HEAD, end if begin == 0 else 0), self.sizes[path]))
            except UserError as error:
                if not isinstance(error, LockedError) and (not self.gated or self._heads):
                    raise
                self.locked = str(error)
                return b""
            self._heads[path] = first
        head = self._heads[path]
        return head[begin:end] if end <= len(head) else self._fetch(path, begin, end)

    def _fetch(self, path: str, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end` - 1 of a file at the pinned commit."""
        url = self._hub.hf_hub_url(self.repo, path, revision=self.revision)
        headers = {
            **self._hub.utils.build_hf_headers(),
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
        }

        def get() -> bytes:
            pieces: list[bytes] = []
            length = 0
            session = self._hub.utils.get_session()
            with session.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
                self._hub.utils.hf_raise_for_status(answer)
                whole = answer.status_code == 200
                for piece in answer.iter_bytes():
                    pieces.append(piece)
                    length += len(piece)
                    if length >= (end if whole else end - begin):  # a server may ignore the range, or send without end
                        break
            raw = b"".join(pieces)
            return raw[begin:end] if whole else raw[: end - begin]

        raw = ask(self.repo, get)
        if len(raw) != end - begin:
            raise UserError(f"{self.name}: {visible(path)}: the hub sent {len(raw):,} bytes of {end - begin:,}")
        return bytes(raw)


class LockedError(UserError):
    """A gate stands before the files."""


def _chosen(names: list[str]) -> tuple[list[str], str]:
    """The revisions to look at: all, or of too many some, spread evenly over the steps, and a word about it."""
    steps = [name for name in names if STEP_REVISION.search(name)]
    others = [name for name in names if not STEP_REVISION.search(name)]
    ordered = sorted(steps, key=lambda name: [(len(each), each) if each.isdigit() else (0, each)
                                              for each in re.split(r"([0-9]+)", name)])  # fmt: skip
    if len(ordered) <= MOST_REVISIONS:
        return ordered + sorted(others)[: MOST_REVISIONS - len(ordered)], ""
    last = len(ordered) - 1
    kept = [ordered[place * last // (MOST_REVISIONS - 1)] for place in range(MOST_REVISIONS)]
    return kept, f"{MOST_REVISIONS} of {len(ordered):,} looked at"


_BY_NAME: Final = (
    questions.FILES_INVENTORY, questions.FILES_NAMES, questions.BARRIERS_ACCESS, questions.WEIGHTS_INTERMEDIATE,
    questions.WEIGHTS_OPTIMIZER, questions.WEIGHTS_TRAJECTORY,
)  # fmt: skip
"""Rows that rest on names, sizes and hashes alone."""


def as_far_as_read(audit: Audit, source: Source) -> Audit:
    """The audit of a repository whose gate is shut: what only its files tell is unknown."""
    locked = source.locked if isinstance(source, Hub) else ""
    if not locked:
        return audit
    weights = tuple(source.whole(path) for path in source.sizes if is_weights(path))[:8]
    return replace(audit, rows=tuple(_unread(row, locked, weights) for row in audit.rows))


def _unread(row: Row, locked: str, weights: tuple[Evidence, ...]) -> Row:
    if row.question in _BY_NAME or (row.question == questions.FILES_EXECUTION and row.answer == "no"):
        return row
    if row.question == questions.WEIGHTS_FINAL and weights:
        reason = f"the hub names them, with their sizes and hashes; not read: {locked}"
        return row.question.yes(Grade.LINKED, reason, *weights)
    return row.question.unknown(Grade.ABSENT, f"its files were not read: {locked}")


def ask(repo: str, call: Callable[[], T]) -> T:
    """Call the hub about a repository; what goes wrong there is the user's to know. Raises UserError."""
    errors = library().errors
    try:
        return call()
    except errors.GatedRepoError:
        raise LockedError(f"{repo}: behind a gate: ask for access on the hub, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{repo}: no such repository on the hub, or private: set HF_TOKEN for yours") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repo}: no such revision") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        kind = LockedError if status in (401, 403) else UserError
        raise kind(f"{repo}: the hub cannot be asked: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore")):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{repo}: the hub cannot be reached: {reason}") from None
        raise


def library() -> Any:
    """huggingface_hub. Raises UserError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise UserError("the hub needs huggingface_hub: pip install -e '.[data]'") from None
    return huggingface_hub
