"""Offers of intermediate checkpoints: a document says where those of earlier steps are, or that they are published.

They are offered by a revision that is named after a step, linked or loaded in an example; by a link in a sentence, in a
table's row or column, or in a section that speaks of them; and, as no more than a claim, by a sentence that says that
they are published. Those of another model, those that a model was made from and those that are promised are no offer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Final, Literal

from clearseek.audit.hub import STEP_REVISION
from clearseek.reading.card import Document, Link, shorten
from clearseek.reading.deeds import has
from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import STATE
from clearseek.reading.parts import Sentence
from clearseek.reading.repositories import read_address
from clearseek.reading.subject import Subject
from clearseek.reading.withheld import is_withheld
from clearseek.reading.words import cue

_MOST: Final = 40
"""Places that are kept; those after them add nothing."""
_LONGEST: Final = 2_000
"""Characters of a sentence that are looked at."""
_PLURAL = r"(?:check-?points|ckpts|snapshots)"
_TRAINING = r"(?:the )?(?:entire |whole |full |course of )?(?:pre-?)?training"
_EVERY = r"\b(?:every|each) \S{1,12} (?:\S{1,12} ){0,2}(?:steps|tokens|iterations|updates|samples)\b"
_KIND = r"(?:interme\w{1,4}ate|intermediary|partially[- ]trained|mid-?training|in-training|training-time)"
_SPOKEN = re.compile(
    rf"\b{_KIND} (?:[\w-]{{1,20}} ){{0,3}}(?:{_PLURAL}|weights|revisions)\b"
    rf"|\b(?:each|every|all|any) {_KIND} (?:[\w-]{{1,20}} ){{0,2}}check-?points?\b"
    rf"|\b(?:(?:early|earlier)|(?:all|every|each|our) (?:pre-?)?training) {_PLURAL}\b"
    rf"|\b{_PLURAL}\b[^.;\d]{{0,40}}\d[\d.]{{0,6}} ?[kmbt]?(?: tokens| steps)?,[^.;]{{0,60}}\b(?:tokens|steps)\b"
    r"|\b(?:branch(?:es)?|revisions?)\b[^.;]{0,90}\b(?:training |number of |different )(?:steps?|tokens)\b"
    rf"|\b{_PLURAL}\b[^.;]{{0,60}}\b(?:throughout|during|over the|along|across) {_TRAINING}"
    rf"|\b{_PLURAL}\b[^.;]{{0,80}}{_EVERY}|{_EVERY}[^.;]{{0,40}}\bcheck-?points?\b"
    rf"|\b\d{{2,4}} (?:[\w-]{{1,20}} ){{0,2}}{_PLURAL}\b[^.;]{{0,60}}\b(?:steps?|each model)\b"
    r"|(?:checkpoints|points de contrôle) intermédiaires|(?:checkpoints|puntos de control) intermedios"
    r"|Zwischen-?(?:check-?points|stände\w*)|(?:中间|中間|训练过程中?的?|訓練過程中?的?)\s?"
    r"(?:检查点|檢查點|チェックポイント|权重|權重|模型|checkpoints?|ckpts?)",
    re.I,
)
"""Checkpoints of earlier steps, as people speak of them."""
_WORDS = re.compile(r"branch|check-?point|ckpt|snapshot|weights|revisions|contrôle|control|Zwischen|中|过程|過程", re.I)
"""What any of these has; most sentences have nothing of it."""
_MADE_FROM = re.compile(
    r"\b(?:initiali[sz]|start|resum|continu|merg|averag|soup|ensembl|interpolat|weight)\w{0,8}\b[^.;]{0,60}$"
    r"|\b(?:unlike|other (?:models|projects|families))\b[^.;]{0,80}$",
    re.I,
)
_ON_REQUEST = cue("on_request")
_SAVED = re.compile(
    r"(?<!we )\b(?:saves?|stores?|writes?|dumps?)\b|\bsave_|--save"
    r"|\b(?:saved|stored|written) (?:\w+ )?(?:in|to|under)(?:to)? (?!the (?:hub|repo)|branch|revision|hugging)"
    r"|\byour?\b(?! can (?:find|get|download|load|use|access) (?!.*\byour\b))", re.I,
)  # fmt: skip
"""Says what a program does for whoever runs it."""
_DENIED = re.compile(r"\b(?:no|not(?! only)|never|without|cannot|neither|nor)\b|n['\u2019]t\b", re.I)
_GIVEN = re.compile(
    r"\b(?:releas|publish|provid|shar|upload|open|host|offer|includ|mak|made|distribut|featur|availab|public|found|download"
    r"|access|hold|contain|load|veröffentlich|disponib|publi)\w{0,9}\b|开源|发布|公开|提供",
    re.I,
)
_ABOUT_THEM = re.compile(r"\b(?:analys|evaluat|result|stud|figure|plot|code|script|metric|log|loss)\w{0,8}\b", re.I)
_REVISION = re.compile(r"\brevision\b[\"']?\s{0,4}[=: ]\s{0,4}[\"']?([\w./-]{1,100})")
_NAME = re.compile(r"(?<![\w./-])([\w.-]{2,60}/[\w.-]{2,90})(?=[\"',\s])")
_IN_ADDRESS = re.compile(r"/(?:tree|blob|resolve|raw|commits)/([^?#\s]{1,300})")
_COLLECTED = re.compile(r"(?:-|_|intermediate)(?:checkpoints|ckpts)$", re.I)
"""Ends the name of a repository that holds many states of a model."""
_COUNTED = re.compile(r"#? ?(?:training |seen )?(?:tokens|steps?|iterations?)(?: seen| trained)?", re.I)
"""Heads the first column of a table of states."""
_READING = re.compile(
    r"arxiv\.org|doi\.org|openreview\.net|aclanthology\.org|\.pdf(?:$|[?#])|wandb\.ai|\.(?:png|svg|jpe?g|gif)\b"
    r"|//(?:[\w-]{1,40}\.)?(?:twitter|x|youtube|discord|medium|linkedin|reddit)\.(?:com|gg)\b|/(?:blog|news)\b|^#"
)


def offers(subject: Subject) -> tuple[tuple[Evidence, ...], bool]:
    """Where the documents offer intermediate checkpoints of this model, and whether these are links, or only words.

    Documents deep in folders are mostly those of other people's tools.
    """
    documents = [each for each in subject.documents
                 if each.file.count("/") < 3 and not has(each.file.rpartition("/")[0], "beside")]  # fmt: skip
    spoken = [_spoken(document) for document in documents]
    links = (
        each for document, said in zip(documents, spoken, strict=True) for each in _linked(subject, document, said)
    )
    if found := tuple(dict.fromkeys(islice(links, _MOST))):
        return found, True
    words = (document.at(each.line, each.text) for document, said in zip(documents, spoken, strict=True)
             for _, each, given in said if given)  # fmt: skip
    return tuple(islice(words, _MOST)), False


def _spoken(document: Document) -> list[tuple[int, Sentence, bool]]:
    """Sentences that speak of such checkpoints: number of the block, sentence, whether it says that they are given."""
    said = ((place, each, _speaks(each.text[:_LONGEST]))
            for place, block in enumerate(document.blocks) for each in block.sentences)  # fmt: skip
    return [(place, each, spoken == "given") for place, each, spoken in said if spoken]


def _linked(subject: Subject, document: Document, said: list[tuple[int, Sentence, bool]]) -> Iterator[Evidence]:
    for link in (each for each in document.links if (each.line, each.target) not in document.withheld):
        match = _IN_ADDRESS.search(link.target)
        parts = match[1].replace("%2F", "/").split("/")[:6] if match and read_address(link.target) else ()
        repository = read_address(link.target)
        name = repository[2] if repository is not None and repository[0] == "model" else ""
        state = (STATE.search(name) and subject.kin(name)) or _COLLECTED.search(name)
        if (state or any(map(_is_step, parts))) and subject.is_own(link.target) is not False:
            yield document.at(link.line, link.target)
    for number, line in enumerate(document.lines, 1):  # of examples
        if "revision" in line and any(_is_step(match[1]) for match in islice(_REVISION.finditer(line), 4)):
            near = _NAME.findall("\n".join(document.lines[max(0, number - 5) : number]) + "\n")
            if not near or subject.is_own(f"https://huggingface.co/{near[-1]}") is not False:
                yield document.at(number, shorten(line.strip()))
    for links, offered in _near(document, said):
        held = (each for each in links if (each.line, each.target) not in document.withheld)
        yield from (document.at(each.line, each.target) for each in held if _may_hold(subject, each, offered))


def _is_step(name: str) -> bool:
    """Whether a revision or a folder is named after a step."""
    found = STEP_REVISION.search(name)
    return found is not None and found["step"] is not None


def _near(document: Document, said: list[tuple[int, Sentence, bool]]) -> Iterator[tuple[Iterable[Link], bool]]:
    """Links beside words about such checkpoints, and whether the words say that these are given to others.

    Beside are those of a sentence and of the list after its colon, of a section, and of a cell with its row and column.
    """
    for block in document.blocks:
        if block.links and block.kind != "heading" and any(_SPOKEN.search(each[:300]) for each in block.headings[1:]):
            yield block.links, False
    for place, sentence, given in said:
        yield sentence.links, given
        if sentence.text.rstrip().endswith((":", "\uff1a")):
            below = takewhile(lambda each: each.kind == "item", document.blocks[place + 1 : place + 200])
            yield (link for each in below for link in each.links), given
    for cell in document.cells:
        titles = (*cell.header[cell.column :][:1], cell.row[0], cell.text) if cell.links else ()
        counted = cell.links and _COUNTED.fullmatch(cell.header[0] if cell.header else "") and cell.column
        if counted or any(_SPOKEN.search(text[:300]) for text in titles):
            yield cell.links, False


def _speaks(text: str) -> Literal["given", "named", ""]:
    """Whether a sentence says that such checkpoints are given to others, or only names some.

    It does neither where it denies or promises them, or says what was made from them.
    """
    found = list(islice(_SPOKEN.finditer(text), 4)) if _WORDS.search(text) else []
    if not found or _ON_REQUEST.search(text) or _SAVED.search(text):
        return ""
    given = False
    for match in found:
        before, after = re.split("[.;:]", text[: match.start()])[-1], re.split("[.;]", text[match.end() :])[0]
        near = before.split(",")[-1][-60:], re.split("[,:]", after)[0][:60]
        held = is_withheld(text[: match.start()], match[0], text[match.end() :])
        if held or _MADE_FROM.search(text[: match.start()]) or any(map(_DENIED.search, near)):
            return ""
        giving = before[-100:]
        given |= bool(
            _GIVEN.search(match[0] + after[:80]) or (_GIVEN.search(giving) and not _ABOUT_THEM.search(giving))
        )
    return "given" if given else "named"


def _may_hold(subject: Subject, link: Link, offered: bool) -> bool:
    """Whether checkpoints can lie behind a link: a hub or a store, or where they are offered a page of the maker's."""
    own, found = subject.is_own(link.target), read_address(link.target)
    if own is False or _READING.search(link.target):
        return False
    if found is not None and found[0] in ("code", "space", "data set"):
        return offered and (own is True or found[0] == "data set")
    return True
