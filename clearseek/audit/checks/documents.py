"""Documents: model card, data card, report, paper, evaluation results, each here, linked or only spoken of.

The word "paper" in a card is no paper. A report counts as linked when a link leads to one, as present when its file is
here; and a card counts as a card when it says what cards are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, takewhile
from math import prod
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.checks import content_summary
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.card import Document
from clearseek.audit.read.claims import normalise
from clearseek.audit.read.presence import different_words, numbers, parsed, sift
from clearseek.audit.read.source import is_test
from clearseek.audit.read.subject import Subject, attempt
from clearseek.audit.read.tables import table_cells

_PAPER = re.compile(
    r"arxiv\.org/(?:abs|pdf)/|doi\.org/|openreview\.net/|aclanthology\.org/|\.pdf(?:$|[?#])|dl\.acm\.org|nature\.com/articles"
)
_REVIEWED = re.compile(r"openreview\.net/|aclanthology\.org/|proceedings\.|nature\.com/articles|dl\.acm\.org")
_RESULT_FOLDER = re.compile(r"(?:^|/)(?:eval\w{0,40}|results?|\.eval_results)(?:/|$)")
_RESULT = re.compile(r"\.(?:jsonl?|csv|tsv|parquet)(?:\.gz|\.zst)?$|(?:result|metric|score)[^/]*\.(?:txt|md|ya?ml)$")
_POLICY = re.compile(r"copyright-policy|opt-?out")
_PLOTS = re.compile(r"(?:^|/)(?:plot|fig|image|img|logo|picture)\w{0,40}/")
_LARGEST_RESULT: Final = 1_000_000
_MOST_NUMBERS: Final = 1_000
FEWEST_WORDS: Final = 30
"""Different words that a card has at least to be one."""
SECTIONS = {
    "what the model is": r"introduction|summary|description|details|overview|architecture|about|^model$"
    r"|介绍|介紹|简介|簡介|概述|概览|架构|présentation|aperçu|introducci|descripci|resumen|arquitectura"
    r"|einführung|einleitung|beschreibung|übersicht|überblick|architektur",
    "how to use it": r"usage|how to|use|inference|run|quick ?start|getting started|使用|用法|快速|推理|部署"
    r"|utilisation|\buso\b|utilizaci|verwendung|nutzung|anwendung",
    "evaluation": r"evaluation|results|benchmark|performance|评测|評測|评估|評估|结果|結果|性能|基准"
    r"|évaluation|résultat|evaluaci|resultado|auswertung|bewertung|ergebnis|leistung",
    "training": r"training|pre-?train|data|训练|訓練|数据|數據|entra[iî]nement|données|entrenamiento|datos|daten",
    "limits and risks": r"limitation|bias|risk|safety|out-of-scope|responsib|局限|限制|偏见|偏見|风险|風險|安全"
    r"|limite|biais|risque|limitaci|sesgo|riesgo|einschränkung|grenzen|verzerrung|risik",
    "licence": r"licen[cs]e|terms|许可|許可|协议|協議|授权|授權|licencia|lizenz",
}


def rows(subject: Subject) -> Iterator[Row]:
    """One row a document."""
    yield _model_card(subject)
    yield _data_card(subject)
    yield _report(subject)
    yield _paper(subject)
    yield _evaluation(subject)
    yield content_summary.row(subject)
    yield _policy(subject)


def _policy(subject: Subject) -> Row:
    """A document that the AI Act asks for, by its file's name or by a heading."""
    named = (path for path in subject.source.sizes if _POLICY.search(path.rpartition("/")[2].lower().replace("_", "-")))
    found = sift(subject.source, (path for path in named if not _CODE.search(path.lower())), "policy", 1)
    if found.real:
        path = found.real[0]
        return ask.DOCUMENTS_COPYRIGHT_POLICY.yes(Grade.PRESENT, path, subject.source.whole(path))
    if section := subject.heading(_POLICY):
        document, number = section
        below = takewhile(lambda text: not text.startswith("#"), document.lines[number : number + 200])
        grade = Grade.PRESENT if different_words(" ".join(below)) >= _SHORTEST_POLICY else Grade.CLAIMED
        return ask.DOCUMENTS_COPYRIGHT_POLICY.yes(grade, f"a section of {document.file}", document.at(number))
    return found.missing(subject.source, ask.DOCUMENTS_COPYRIGHT_POLICY, "no file and no section of that name")


_SHORTEST_POLICY: Final = 15
"""Different words of a section that says something."""
_CODE = re.compile(r"\.(?:py|sh|ipynb|js|ts|c|cc|cpp|cu|h|rs|go|java|jl|ya?ml|toml|lock)$")


def _model_card(subject: Subject) -> Row:
    card = subject.card
    if card is None:
        return ask.DOCUMENTS_MODEL_CARD.no(Grade.ABSENT, "no README at the top of the release")
    place = (Evidence(card.file, "", "", card.sha256),)
    words = different_words(card.text[:400_000])
    if words < 2:
        reason = f"named like one and holds nothing: {card.file} holds {words} words"
        return ask.DOCUMENTS_MODEL_CARD.no(Grade.CLAIMED, reason, *place)
    filled = sections(card)
    found = [part for part, words in SECTIONS.items() if any(re.search(words, each, re.I) for each in filled)]
    missing = [part for part in SECTIONS if part not in found]
    if len(found) < 2:
        reason = f"{card.file} has no sections that a card has, or nothing stands in them"
        return ask.DOCUMENTS_MODEL_CARD.partly(Grade.PRESENT, reason, *place)
    reason = f"{card.file} has sections on {', '.join(found)}" + (f"; none on {', '.join(missing)}" if missing else "")
    answer: Answer = "yes" if not missing or missing == ["limits and risks"] else "partly"
    if words < FEWEST_WORDS:
        answer, reason = "partly", f"{reason}; {words} different words in all"
    borne = _borne_out(subject, card)
    if borne is not None:
        figure, what = borne
        reason += f"; its {figure.quote or 'figure'} is what {what} comes to"
        return ask.DOCUMENTS_MODEL_CARD.answer(answer, Grade.CHECKED, reason, *place, figure)
    return ask.DOCUMENTS_MODEL_CARD.answer(answer, Grade.PRESENT, reason, *place)


def sections(card: Document) -> tuple[str, ...]:
    """Titles of the sections in which something stands."""
    found: dict[str, None] = {}
    for line, path in zip(card.lines, card.headings, strict=True):
        if path and not line.lstrip().startswith("#") and re.search(r"\w", line):
            found.update(dict.fromkeys(path))
    return tuple(title[:300] for title in found)


def _borne_out(subject: Subject, card: Document) -> tuple[Evidence, str] | None:
    """A figure of the card that other bytes give, and which bytes."""
    ways: dict[str, list[tuple[float, str]]] = {"total": [], "activated": [], "context": []}
    counts = subject.counts
    if counts is not None:
        ways["total"] = [(float(each), "config.json") for each in (counts.total, counts.total + counts.mtp)]
        ways["activated"] = [
            (float(each), "config.json")
            for each in (
                counts.activated, counts.activated_without_embedding, counts.activated_without_embedding_and_head,
            )
        ]  # fmt: skip
    elif subject.weights.complete:
        elements = sum(prod(entry.shape) for _, entry in subject.weights.tensors.values())
        ways["total"] = [(float(elements), "the tensors of the weight files")]
    positions = (subject.config_raw.value or {}).get("max_position_embeddings")
    if type(positions) is int and 0 < positions < 10**12:
        ways["context"] = [(float(positions), "config.json")]
    for claim in subject.claims:
        if claim.evidence.file == card.file:
            for actual, what in ways.get(claim.kind, ()):
                if claim.agrees(actual):
                    return Evidence(card.file, claim.evidence.where, claim.text, card.sha256), what
    return _score_borne_out(subject, card)


def _score_borne_out(subject: Subject, card: Document) -> tuple[Evidence, str] | None:
    """A score in the card's tables that a file of raw results has under the same benchmark, and that file."""
    small = [
        path for path in subject.source.sizes if _is_result(path) and subject.source.sizes[path] <= _LARGEST_RESULT
    ]
    raw = sift(subject.source, (path for path in small if path.lower().endswith(".json")), "results")
    held = [
        (normalise(key), value, path)
        for path in raw.real[:6]
        for key, value in islice(numbers(_value(subject, path)), _MOST_NUMBERS)
    ]
    for cell in islice(table_cells(card), _MOST_NUMBERS) if held else ():
        match = re.fullmatch(r"\d{1,3}\.(\d{1,4})\s?%?", cell.text)
        if match is None:
            continue
        names = [normalise(text[:60].partition("(")[0]) for text in cell.row[:2]]
        for key, value, path in held:
            close = any(f"{each:.{len(match[1])}f}" == cell.text.rstrip(" %") for each in (value, 100 * value))
            if close and any(len(name) > 2 and name in key for name in names):
                return Evidence(card.file, f"line {cell.line}", cell.text, card.sha256), path
    return None


def _value(subject: Subject, path: str) -> Any:
    """The JSON value of a file; None where it cannot be read."""
    raw = attempt(lambda: subject.source.read(path, _LARGEST_RESULT)).value
    return None if raw is None else parsed(raw)


def _data_card(subject: Subject) -> Row:
    files = subject.source.find("data_card*", "datacard*", "dataset_card*", "datasheet*", "croissant*.json")
    files += tuple(
        path for path in subject.source.sizes if re.fullmatch(r"(?:.*/)?data(?:set)?s?/readme\.md", path.lower())
    )
    found = sift(subject.source, (path for path in files if not _CODE.search(path.lower())), "data card")
    if found.real:
        return found.here(subject.source, ask.DOCUMENTS_DATA_CARD, 6)
    sets = re.compile(r"huggingface\.co/datasets/", re.I)
    if links := [each for each in subject.links() if sets.search(each.quote)]:
        reason = "no data card here; the documents link to data sets, which have their own"
        return ask.DOCUMENTS_DATA_CARD.partly(Grade.LINKED, reason, *_places(links))
    return found.missing(subject.source, ask.DOCUMENTS_DATA_CARD, "no data card here, and no link to one")


def _places(links: list[Evidence]) -> list[Evidence]:
    """Links, each target once, at most six."""
    return list({link.quote: link for link in reversed(links)}.values())[::-1][:6]


def _own_papers(subject: Subject) -> list[Evidence]:
    """Links to papers that present this model: cited by the card, or named as its paper or report."""

    def presents(document: Document, number: int) -> bool:
        line = document.lines[number - 1].lower()
        around = " ".join(document.lines[max(0, number - 12) : number]).lower()
        cited = "@" in around and ("title" in around or "eprint" in around or "url" in line)
        return cited or re.search(r"paper|report|preprint", line) is not None

    return subject.links(_PAPER.search, presents)


def _report(subject: Subject) -> Row:
    named = (
        path
        for path in subject.source.find("*.pdf", "*report*.md", "*paper*.md", "*.tex")
        if not path.startswith(".") and _is_report(path, normalise(subject.name))
    )
    found = sift(subject.source, named, "report")
    if found.real:
        return found.here(subject.source, ask.DOCUMENTS_REPORT, 6)
    if links := _own_papers(subject):
        reason = f"linked: {', '.join(dict.fromkeys(link.quote for link in links))}"
        return ask.DOCUMENTS_REPORT.yes(Grade.LINKED, reason, *_places(links))
    return found.missing(subject.source, ask.DOCUMENTS_REPORT, "no report here, and none linked")


def _is_report(path: str, model: str) -> bool:
    """A document about the model: named so, or a PDF beside the card; plots and bug reports are none."""
    base = path.rpartition("/")[2].lower()
    if is_test(path) or _PLOTS.search(path.lower()):
        return False
    named = bool(re.search(r"report|paper", base)) and not re.search(r"bug|issue|license", base)
    return named or (base.endswith(".pdf") and ("/" not in path or model in normalise(base)))


def _paper(subject: Subject) -> Row:
    if links := [link for link in _own_papers(subject) if _REVIEWED.search(link.quote)]:
        reason = f"linked: {', '.join(dict.fromkeys(link.quote for link in links))}"
        return ask.DOCUMENTS_PAPER.yes(Grade.LINKED, reason, *_places(links))
    preprint = bool(_own_papers(subject))
    reason = "a preprint is linked; whether it was reviewed elsewhere is not said here" if preprint else "none is named"
    return ask.DOCUMENTS_PAPER.answer("unknown" if preprint else "no", Grade.ABSENT, reason)


def score_tables(document: Document) -> list[int]:
    """Lines of table cells that hold a score of a known kind, which make an evaluation."""
    words = re.compile(
        r"accuracy|acc\.|pass@|\bem\b|\bf1\b|bpb|bits per byte|perplexity|score|win ?rate|exact match|percentile|rating"
        r"|mmlu|gsm8k",
        re.I,
    )
    about: dict[str, bool] = {}

    def named(text: str) -> bool:
        if text not in about:
            about[text] = words.search(text[:200]) is not None
        return about[text]

    return [
        cell.line
        for cell in table_cells(document)
        if re.fullmatch(r"\d{1,4}(?:\.\d+)?\s?%?", cell.text)
        and any(named(text) for text in (*cell.row[:2], *cell.header[cell.column : cell.column + 1]))
    ]


def _evaluation(subject: Subject) -> Row:
    raw = sift(subject.source, (path for path in subject.source.sizes if _is_result(path)), "results")
    if raw.real:
        places = tuple(subject.source.whole(path) for path in raw.real[:6])
        return ask.DOCUMENTS_EVALUATION.yes(Grade.PRESENT, f"{len(raw.real)} files of results, raw", *places)
    for document in subject.documents:
        lines = score_tables(document)
        if lines:
            reason = (
                f"{len(lines)} scores in tables, lines {lines[0]} to {lines[-1]} of {document.file}; no raw outputs"
            )
            return ask.DOCUMENTS_EVALUATION.yes(Grade.CLAIMED, reason, document.at(lines[0]))
    return raw.missing(subject.source, ask.DOCUMENTS_EVALUATION, "no table of scores and no results")


def _is_result(path: str) -> bool:
    """Whether a file holds results of an evaluation, by its name and its folders'."""
    folder, _, base = path.lower().rpartition("/")
    if is_test(path) or not _RESULT_FOLDER.search(folder):
        return False
    return bool(_RESULT.search(base)) or (folder.startswith(".eval_results") and base.endswith((".yaml", ".yml")))
