"""Documents: model card, data card, report, paper, evaluation results, each here, linked or only spoken of.

The word "paper" in a card is no paper. A report counts as linked when a link leads to the model's own
(:mod:`clearseek.audit.checks.papers`), as present when its file is here; and a card counts as a card when it says what
cards are for. Scores stand in tables, lists, metadata and pictures, or in a report that was not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks import content_summary
from clearseek.audit.checks.data_sets import linked_results, trained_on
from clearseek.audit.checks.evaluations import listed_scores, score_lines
from clearseek.audit.checks.papers import own_papers, papers
from clearseek.audit.evidence import Answer, Grade, Question, Row
from clearseek.audit.presence import Sifted, different_words, sift
from clearseek.reading.card import Document
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.mentions import first_link, mentions, own_documents
from clearseek.reading.source import is_test
from clearseek.reading.subject import Subject
from clearseek.reading.words import WORDS, any_of, cue

_RESULT_FOLDER = re.compile(r"(?:^|/)(?:eval\w{0,40}|results?|\.eval_results)(?:/|$)")
_RESULT = re.compile(r"\.(?:jsonl?|csv|tsv|parquet)(?:\.gz|\.zst)?$|(?:result|metric|score)[^/]*\.(?:txt|md|ya?ml)$")
_ASKED = re.compile(
    r"(?:^|[/_.-])(?:data|datasets?|tasks?|questions?|prompts?|configs?|test|testdata|benchmark|harness"
    r"|statistics)(?:[/_.-]|$)"
)
"""Words of a path that say what is asked, not what was answered."""
_POLICY = re.compile(r"copyright-policy|opt-?out")
_PLOTS = re.compile(r"(?:^|/)(?:plot|fig|image|img|logo|picture|asset)\w{0,40}/")
_DATA_CARD = re.compile(
    r"(?:.*/)?(?:(?:data(?:set)?_?card|datasheet)[^/]*|croissant[^/]*\.json)|(?:.*/)?data(?:set)?s?/readme\.md"
)
_PICTURED = re.compile(r"bench|eval|result|perform|score|compar|leaderboard|radar|accuracy|评测|性能", re.I)
_REPORTED = re.compile(r"eval|benchmark|results|scores|performance|评测|性能", re.I)
_PRINTED = r"\b(?:accepted|published|appear\w*|presented|oral|spotlight|poster)\b.{0,40}\b{}\b"
_REVIEWED = any_of(WORDS["names"]["venues"], re.NOFLAG, _PRINTED)
_TRAINED, _ON_DATA = re.compile(r"train(?:ed|ing)\b|训练|entra[iî]n|trainiert|学習", re.I), cue("described")
_EARLY: Final = 12
_FEWEST_TOLD: Final = 15
_MOST_TOLD: Final = 500
FEWEST_WORDS: Final = 30
"""Different words that a card has at least to be one."""
_SHORTEST_POLICY: Final = 15
"""Different words of a section that says something."""
_CODE = re.compile(r"\.(?:py|sh|ipynb|js|ts|c|cc|cpp|cu|h|rs|go|java|jl|ya?ml|toml|lock)$")
SECTIONS: Final = {part: any_of(words) for part, words in WORDS["sections"].items()}


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
    question = ask.DOCUMENTS_COPYRIGHT_POLICY
    named = (path for path in subject.source.sizes if _POLICY.search(path.rpartition("/")[2].lower().replace("_", "-")))
    found = sift(subject.source, (path for path in named if not _CODE.search(path.lower())), "policy", 1)
    if row := _here_or_linked(subject, question, found, re.compile(r"copyright polic|opt-?out polic", re.I)):
        return row
    if section := subject.heading(_POLICY):
        document, line = section
        below = [each.text for each in document.blocks if each.headings == document.headings[line - 1]]
        grade = Grade.PRESENT if different_words(" ".join(below[1:])) >= _SHORTEST_POLICY else Grade.CLAIMED
        return question.yes(grade, f"a section of {document.file}", document.at(line))
    return found.missing(subject.source, question, "no file, section or link of that name (copyright policy, opt-out)")


def _here_or_linked(subject: Subject, question: Question, found: Sifted, words: re.Pattern[str]) -> Row | None:
    """The yes of a document that is here, or of a link of these words."""
    if found.real:
        return found.here(subject.source, question, 6)
    link = first_link(subject, words)
    return question.yes(Grade.LINKED, f"linked, not read: {link.target}", link.place) if link else None


def _model_card(subject: Subject) -> Row:
    card, question = subject.card, ask.DOCUMENTS_MODEL_CARD
    if card is None:
        return question.no(Grade.ABSENT, "no README at the top of the release")
    place = Evidence(card.file, "", "", card.sha256)
    words = different_words(card.text[:400_000])
    if words < 2:
        reason = f"named like one and holds nothing: {card.file} holds {words} words"
        return question.no(Grade.CLAIMED, reason, place)
    beside = [each for each in subject.documents if re.fullmatch(r"model[-_ ]?card\.\w{2,3}", each.file, re.I)]
    filled = tuple(title for each in (card, *beside) for title in (*sections(each), *_told(subject, each)))
    found = [part for part, words in SECTIONS.items() if any(map(words.search, filled))]
    missing = [part for part in SECTIONS if part not in found]
    if len(found) < 2:
        reason = f"{card.file} has no sections that a card has, or nothing stands in them"
        return question.partly(Grade.PRESENT, reason, place)
    reason = f"{card.file} has sections on {', '.join(found)}" + (f"; none on {', '.join(missing)}" if missing else "")
    if words < FEWEST_WORDS:
        return question.partly(Grade.PRESENT, f"{reason}; {words} different words in all", place)
    answer: Answer = "yes" if not missing or missing == ["limits and risks"] else "partly"
    return question.answer(answer, Grade.PRESENT, reason, place)


def _told(subject: Subject, card: Document) -> Iterator[str]:
    """Subjects of sections that a card tells without one: a paragraph below the title, a sentence, a tag, a file."""
    top = card.blocks[:_EARLY]
    if any(len(block.text.split()) >= _FEWEST_TOLD for block in top if block.kind == "paragraph"):
        yield "introduction"
    if any(_TRAINED.search(each.text) and _ON_DATA.search(each.text) for each in card.sentences[:_MOST_TOLD]):
        yield "training"
    if (subject.metadata.value or {}).get("license") or subject.source.find("licen[cs]e*"):
        yield "licence"


def sections(card: Document) -> tuple[str, ...]:
    """Titles of the sections in which something stands."""
    titles = {block.line for block in card.blocks if block.kind == "heading"}
    filled = (
        path
        for number, (line, path) in enumerate(zip(card.lines, card.headings, strict=True), 1)
        if path and number not in titles and re.search(r"\w", line)  # text, a table or an example of code
    )
    return tuple(dict.fromkeys(title[:300] for path in filled for title in path))


def _data_card(subject: Subject) -> Row:
    question = ask.DOCUMENTS_DATA_CARD
    named = [path for path in subject.source.sizes if _DATA_CARD.fullmatch(path.lower())]
    named = [path for path in named if not path.lower().endswith("readme.md") or _trains(subject, path)]
    found = sift(subject.source, (path for path in named if not _CODE.search(path.lower())), "data card")
    words = re.compile(r"data ?sheet|data(?:set)? (?:card|statement)", re.I)
    if row := _here_or_linked(subject, question, found, words):
        return row
    if linked := [each.evidence for each in trained_on(subject)]:
        reason = "no data card here; the documents link the training data's own pages, which may be ones"
        return question.partly(Grade.LINKED, reason, *_places(linked))
    return found.missing(subject.source, question, "no data card here, and no link to one")


def _trains(subject: Subject, path: str) -> bool:
    """Whether the page of a folder of data speaks of training: data to evaluate on have pages, too."""
    return any(re.search(r"\btrain|训练", document.text, re.I) for document in subject.source.readable([path]))


def _places(links: Iterable[Evidence]) -> list[Evidence]:
    """Links, each target once, at most six."""
    first: dict[str, Evidence] = {}
    for link in links:
        first.setdefault(link.quote, link)
    return list(first.values())[:6]


def _report(subject: Subject) -> Row:
    question, model = ask.DOCUMENTS_REPORT, normalise(subject.name)
    named = subject.source.find("*.pdf", "*report*.md", "*paper*.md", "*.tex")
    found = sift(subject.source, (path for path in named if path[0] != "." and _is_report(path, model)), "report")
    if found.real:
        return found.here(subject.source, question, 6)
    if own := own_papers(subject):
        reason = f"the model's own, linked and not read: {', '.join(dict.fromkeys(each.target for each in own[:4]))}"
        return question.yes(Grade.LINKED, reason, *_places(each.evidence for each in own))
    unclear = [each for each in papers(subject) if each.own is None]
    if unclear and not (found.hollow or found.unread):
        reason = f"no report here; whether a paper that is linked is this model's is not said: {unclear[0].target}"
        return question.unknown(Grade.ABSENT, reason, *_places(each.evidence for each in unclear))
    others = "; the papers that are linked are others' work" if papers(subject) else ""
    return found.missing(subject.source, question, f"no report here, and no link to one{others}")


def _is_report(path: str, model: str) -> bool:
    """A document about the model: named so, or a PDF named after it; plots, guides and bug reports are none."""
    base = path.rpartition("/")[2].lower()
    if is_test(path) or _PLOTS.search(path.lower()) or re.search(r"bug|issue|licen[cs]e|polic|terms|guide", base):
        return False
    named = base.endswith(".pdf") and len(model) > 2 and model in normalise(base)
    return named or re.search(r"report|paper|preprint", base) is not None


def _paper(subject: Subject) -> Row:
    question, own = ask.DOCUMENTS_PAPER, own_papers(subject)
    if reviewed := [each for each in own if each.reviewed]:
        reason = f"linked or cited: {', '.join(dict.fromkeys(each.target for each in reviewed))}"
        return question.yes(Grade.LINKED, reason, *_places(each.evidence for each in reviewed))
    for document in own_documents(subject) if own else ():
        for sentence in document.sentences if "/" not in document.file else ():
            if _REVIEWED.search(sentence.text[:1_000]):
                place = document.at(sentence.line, sentence.text[:200])
                return question.yes(Grade.CLAIMED, f"said to be printed after review: “{place.quote}”", place)
    if own:
        return question.unknown(Grade.ABSENT, "a preprint is linked; whether it was reviewed is not said here")
    if any(each.own is None for each in papers(subject)):
        return question.unknown(Grade.ABSENT, "whether a paper that is linked is this model's is not said")
    return question.no(Grade.ABSENT, "the documents link and cite no paper on this model")


def _evaluation(subject: Subject) -> Row:
    question = ask.DOCUMENTS_EVALUATION
    raw = sift(subject.source, (path for path in subject.source.sizes if _is_result(path)), "results")
    if raw.real:
        places = map(subject.source.whole, raw.real[:6])
        return question.yes(Grade.PRESENT, f"{amount(len(raw.real), 'file')} of results, raw", *places)
    for form, scores in (("tables", score_lines), ("sentences or lists", listed_scores)):
        for document in own_documents(subject):
            if lines := scores(document):
                where = f"lines {lines[0]} to {lines[-1]} of {document.file}"
                reason = f"{amount(len(lines), 'score')} in {form}, {where}; no raw outputs"
                return question.yes(Grade.CLAIMED, reason, *map(document.at, lines[:1]))
    reason = "no scores in tables, lists, metadata or pictures, and no results"
    return _told_elsewhere(subject) or raw.missing(subject.source, question, reason)


def _told_elsewhere(subject: Subject) -> Row | None:
    """Scores in metadata, pictures, and places that are linked; None where nothing speaks of any."""
    question, card = ask.DOCUMENTS_EVALUATION, subject.card
    index = (subject.metadata.value or {}).get("model-index")
    if card is not None and isinstance(index, list) and "value" in str(index)[:100_000]:
        line = next((n for n, text in enumerate(card.lines, 1) if text.startswith("model-index")), 1)
        return question.yes(Grade.CLAIMED, "scores in the card's metadata (model-index); no raw outputs", card.at(line))
    own = {each.target: each.evidence for each in own_papers(subject)}
    for each in mentions(subject):
        about = " ".join((each.sentence, *each.headings[-1:]))
        if each.link.image == each.target and _PICTURED.search(f"{about} {each.target.rpartition('/')[2]}"):
            return question.partly(Grade.CLAIMED, "scores are shown in a picture, which was not read", each.place)
        if each.target in own and _REPORTED.search(about):
            return question.yes(Grade.LINKED, f"in the linked report, not read: {each.target}", each.place)
    if linked := linked_results(subject):
        return question.yes(Grade.LINKED, f"linked, not read: {linked[0].name}", linked[0].evidence)
    if own:
        reason = "no scores in the documents here; the model's own report is linked and was not read"
        return question.unknown(Grade.LINKED, reason, *_places(own.values()))
    return None


def _is_result(path: str) -> bool:
    """Whether a file holds results of an evaluation, by its name and its folders'."""
    folder, _, base = path.lower().rpartition("/")
    if is_test(path) or not _RESULT_FOLDER.search(folder) or _ASKED.search(path.lower()):
        return False
    return bool(_RESULT.search(base)) or (folder.startswith(".eval_results") and base.endswith((".yaml", ".yml")))
