"""Repositories that documents and programs name: by links, in commands, in calls that load a model.

A link is read with the words around it: thanks and comparisons lead to others' work, "our code" to the authors' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from clearseek.reading.card import Document, shorten
from clearseek.reading.evidence import Evidence
from clearseek.reading.markup import without_comments
from clearseek.reading.withheld import NOT_THERE as NOT_THERE

Kind = Literal["model", "data set", "space", "collection", "code", "owner"]
_MOST: Final = 2_000
"""Repositories of a document that are looked at."""
_HUBS: Final = (
    "huggingface.co", "hf.co", "hf-mirror.com", "modelscope.cn", "modelscope.ai", "wisemodel.cn", "kaggle.com",
)  # fmt: skip
_FORGES: Final = ("github.com", "gitlab.com", "gitee.com", "codeberg.org", "raw.githubusercontent.com", "bitbucket.org")
_FOLDERS: Final[dict[str, Kind]] = {
    "datasets": "data set", "spaces": "space", "collections": "collection", "models": "model", "organization": "owner",
}  # fmt: skip
_NO_OWNERS = re.compile(
    r"docs|transformers|blog|papers|learn|tasks|join|login|settings|pricing|chat|organizations|new|api|course|front|posts|"
    r"terms-of-service|privacy|enterprise|inference-endpoints|topics|features|sponsors|marketplace|about|apps|"
    r"notifications|trending|explore|search|models|datasets|spaces|collections|orgs|users|home|my|studios"
)
_NO_REPOSITORY = re.compile(
    r"path|models|model|checkpoints|checkpoint|output|outputs|ckpt|ckpts|weights|results|runs|data|local|tmp|"
    r"your|username|user|my|org|owner|dir|src"
)
"""Beginnings of paths on a disk."""
_ADDRESS = re.compile(
    r"(?:https?://|git@|ssh://git@)?(?:www\.)?(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+){1,3})[:/]+(?P<path>[^\s?#]{0,400})",
    re.I,
)
_NAME: Final = r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
_CALLS = re.compile(
    rf"(?:from_pretrained|snapshot_download|hf_hub_download|load_model|pipeline|LLM|AutoModel\w{{0,40}})\("
    rf"[^()\n]{{0,120}}?[\"']{_NAME}[\"']"
)
_COMMANDS = re.compile(
    r"(?:(?:huggingface-cli|hf|modelscope) download|vllm serve|--model(?:[-_](?:name|path|id|name[-_]or[-_]path))?[= ]"
    rf"|--model-path[= ])\s{{0,4}}(?:--?[\w-]{{1,40}} )?[\"']?{_NAME}(?![\w/.-])"
)
_ASSIGNED = re.compile(
    rf"\b(?:model|repo|checkpoint|pretrained)\w{{0,30}}\s?(?::\s?str\s?)?[=:]\s?[\"']{_NAME}[\"']", re.I
)
_WRITTEN = re.compile(
    r"(?<![\w./@-])(?:https?://|git@)?(?:www\.)?(?:" + "|".join(map(re.escape, (*_HUBS, *_FORGES)))
    + r")[:/][\w./-]{1,200}"
)  # fmt: skip
_OTHERS = re.compile(
    r"\b(?:thank|acknowledg|inspired by|built (?:up)?on|based on|adapted from|borrow|forked|forks?\b"
    r"|derived from|we (?:\w+ )?follow\b|following the (?:work|paper|recipe|setup|data)|initiali[sz]ed|teacher|credits?"
    r"|fine-?tun\w+ (?:from|version)|fine-?tuned on|distill?(?:ed|ation)|compared? (?:to|with)|outperform|unofficial"
    r"|third[- ]party|community|such as|base model|related|previous|another model|quanti[sz]|converted by"
    r"|contributed by|supported by|e\.g\.)",
    re.I,
)
"""Words about the work of others."""
_OURS = re.compile(
    r"\bour (?:own )?(?:\w+ ){0,3}(?:code|repo\w*|weights|models?|checkpoints?|github|implementation|page|data\w*)\b"
    r"|\bwe (?:\w+ ){0,2}(?:release|open-?source|publish|provide|share|host)d?\b|我们的?(?:开源|发布|公开)",
    re.I,
)
_WEIGHTS = re.compile(r"\b(?:weights|checkpoints?|downloads?|model files?)\b|权重|下载", re.I)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that a document links to, clones or loads."""

    kind: Kind
    owner: str
    name: str
    place: Evidence
    others: bool = False
    """Whether the words around it are about the work of others."""
    ours: bool = False
    """Whether they say that it is the authors' own."""
    weights: bool = False
    """Whether they are about weights to download."""
    withheld: bool = False
    """Whether nothing is given out there, by the words of each link to it."""

    @property
    def address(self) -> str:
        """A web address of it."""
        host = "github.com" if self.kind == "code" else "huggingface.co"
        folder = next((f"{path}/" for path, kind in list(_FOLDERS.items())[:3] if kind == self.kind), "")
        return f"https://{host}/{folder}{self.owner}/{self.name}".rstrip("/")


def read_address(target: str) -> tuple[Kind, str, str] | None:
    """Kind, owner and name of the repository that a web address or a git address leads into; None for any other."""
    match = _ADDRESS.match(target)
    if match is None:
        return None
    host = match["host"].lower()
    parts = [each for each in match["path"].split("/") if each][:4]
    kind: Kind = "code"
    if host in _FORGES:
        parts = parts[1:] if parts[:1] == ["orgs"] else parts
    elif host in _HUBS:
        kind = "data set" if host.endswith("kaggle.com") else "model"
        if parts and parts[0].lower() in _FOLDERS:
            kind, parts = _FOLDERS[parts[0].lower()], parts[1:]
    else:
        return None
    if not parts or _NO_OWNERS.fullmatch(parts[0].lower()):
        return None
    if len(parts) == 1:
        return "owner", parts[0], ""
    name = re.sub(r"-[0-9a-f]{24}$", "", parts[1]) if kind == "collection" else parts[1]  # a collection's number
    return kind, parts[0], re.sub(r"\.git$", "", name.rstrip(".,;:)")).rstrip("-_")


def repositories(document: Document) -> Iterator[Repository]:
    """The repositories that a document links to, and those in its commands and programs."""
    about = {link: sentence.text for block in document.blocks if document.links
             for sentence in block.sentences for link in sentence.links}  # fmt: skip
    for cell in document.cells:
        about |= dict.fromkeys(cell.links, " ".join((*cell.header[cell.column :][:1], *cell.row[:2])))
    seen: set[tuple[int, str, str]] = set()
    linked = [(read_address(link.target), (link.line, link.target) in document.withheld) for link in document.links]
    given = {address for address, withheld in linked if not withheld}
    promised = {address for address, withheld in linked if withheld and address not in given}
    headings = document.headings
    for link in islice(document.links, _MOST):
        if picture := read_address(link.image):
            seen.add((link.line, *picture[1:]))
        if link.target == link.image or (found := read_address(link.target)) is None:
            continue
        seen.add((link.line, found[1], found[2]))
        words = about.get(link, "")[:2000] + " " + " ".join(headings[link.line - 1][1:]) + " " + link.text
        place = Evidence(document.file, f"line {link.line}", link.target, document.sha256)
        others, ours, weights = (bool(pattern.search(words)) for pattern in (_OTHERS, _OURS, _WEIGHTS))
        yield Repository(*found, place, others, ours, weights, found in promised)
    count = 0
    for number, line in enumerate(without_comments("\n".join(document.lines)).split("\n"), 1):
        if "/" not in line or count > _MOST:
            continue
        for found in written(line):
            if (number, *found[1:]) not in seen:
                count += 1
                yield Repository(*found, document.at(number, shorten(line.strip())), withheld=found in promised)


def submodules(document: Document) -> Iterator[Repository]:
    """Repositories that git would put into folders of this one."""
    for number, line in enumerate(document.lines[:_MOST], 1):
        name, _, address = line.partition("=")
        if name.strip() == "url" and (found := read_address(address.strip())):
            yield Repository(*found, document.at(number, address.strip()))


def written(line: str) -> Iterator[tuple[Kind, str, str]]:
    """Repositories that a line of a program or a shell names."""
    for match in islice(_WRITTEN.finditer(line), 20):
        if found := read_address(match[0]):
            yield found
    for pattern in (_CALLS, _COMMANDS, _ASSIGNED):
        for match in islice(pattern.finditer(line), 20):
            owner, _, name = match["repo"].partition("/")
            if not _NO_REPOSITORY.fullmatch(owner.lower().strip("._-")) and "." not in owner:
                yield "model", owner, name.rstrip("-_.")
