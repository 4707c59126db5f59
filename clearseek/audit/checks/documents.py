"""Documents: model card, data card, report, paper, evaluation results, each here, linked or only spoken of.

The word "paper" in a card is no paper. A report counts as linked when a link leads to the model's own
(:mod:`clearseek.audit.checks.papers`), as present when its file is here; and a card counts as a card when it says what
cards are for. Scores stand in tables, lists, metadata and pictures, or in a report that was not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks import content_summary
from clearseek.audit.checks.data_sets import data_sets
from clearseek.audit.checks.evaluations import listed_scores, score_cells
from clearseek.audit.checks.papers import own_papers, papers
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.card import Document
from clearseek.audit.read.claims import normalise
from clearseek.audit.read.mentions import first_link, mentions, own_documents
from clearseek.audit.read.presence import different_words, sift
from clearseek.audit.read.source import is_test
from clearseek.audit.read.subject import Subject

_RESULT_FOLDER = re.compile(r"(?:^|/)(?:eval\w{0,40}|results?|\.eval_results)(?:/|$)")
_RESULT = re.compile(r"\.(?:jsonl?|csv|tsv|parquet)(?:\.gz|\.zst)?$|(?:result|metric|score)[^/]*\.(?:txt|md|ya?ml)$")
_ASKED = re.compile(
    r"(?:^|[/_.-])(?:data|datasets?|tasks?|questions?|prompts?|configs?|test|testdata|benchmark|harness"
    r"|statistics)(?:[/_.-]|$)"
)
"""Words of a path that say what is asked, not what was answered."""
_POLICY = re.compile(r"copyright-policy|opt-?out")
_PLOTS = re.compile(r"(?:^|/)(?:plot|fig|image|img|logo|picture|asset)\w{0,40}/")
_PICTURED = re.compile(r"bench|eval|result|perform|score|compar|leaderboard|radar|accuracy|评测|性能", re.I)
_REPORTED = re.compile(r"eval|benchmark|results|scores|performance|评测|性能", re.I)
_REVIEWED = re.compile(
    r"\b(?:accepted|published|appear\w*|presented|oral|spotlight|poster)\b.{0,40}\b(?:NeurIPS|ICLR|ICML|ACL|EMNLP"
    r"|NAACL|COLM|TMLR|JMLR|AAAI|Nature|Science|CVPR|ECCV|ICCV|COLING|EACL|INTERSPEECH|ICASSP|KDD|SIGIR|MLSys)\b"
)
FEWEST_WORDS: Final = 30
"""Different words that a card has at least to be one."""
_SHORTEST_POLICY: Final = 15
"""Different words of a section that says something."""
_CODE = re.compile(r"\.(?:py|sh|ipynb|js|ts|c|cc|cpp|cu|h|rs|go|java|jl|ya?ml|toml|lock)$")
SECTIONS = {
    "what the model is": r"introduction|summary|description|details|overview|architecture|about|^model$"
    r"|介绍|介紹|简介|簡介|概述|概览|架构|présentation|aperçu|introducci|descripci|resumen|arquitectura|einführung"
    r"|einleitung|beschreibung|übersicht|überblick|architektur",
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
        return found.here(subject.source, ask.DOCUMENTS_COPYRIGHT_POLICY, 1)
    if link := first_link(subject, re.compile(r"copyright polic|opt-?out polic", re.I)):
        return ask.DOCUMENTS_COPYRIGHT_POLICY.yes(Grade.LINKED, f"linked, not read: {link.target}", link.place)
    if section := subject.heading(_POLICY):
        document, number = section
        path = document.headings[number - 1]
        below = [each.text for each in document.blocks if each.kind != "heading" and each.headings == path]
        grade = Grade.PRESENT if different_words(" ".join(below)) >= _SHORTEST_POLICY else Grade.CLAIMED
        return ask.DOCUMENTS_COPYRIGHT_POLICY.yes(grade, f"a section of {document.file}", document.at(number))
    reason = "no file, section or link of that name (copyright policy, opt-out)"
    return found.missing(subject.source, ask.DOCUMENTS_COPYRIGHT_POLICY, reason)


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
    if (figure := _borne_out(subject, card)) is not None:
        reason += f"; its {figure.quote} is what config.json comes to"
        return ask.DOCUMENTS_MODEL_CARD.answer(answer, Grade.CHECKED, reason, *place, figure)
    return ask.DOCUMENTS_MODEL_CARD.answer(answer, Grade.PRESENT, reason, *place)


def _borne_out(subject: Subject, card: Document) -> Evidence | None:
    """A figure of the card that the configuration gives too."""
    counts, positions = subject.counts, (subject.config_raw.value or {}).get("max_position_embeddings")
    ways: dict[str, tuple[float, ...]] = (
        {"context": (positions,)} if type(positions) is int and positions < 10**12 else {}
    )
    if counts is not None:
        ways["total"] = counts.total, counts.total + counts.mtp
        ways["activated"] = (
            counts.activated,
            counts.activated_without_embedding,
            counts.activated_without_embedding_and_head,
        )
    for claim in subject.claims:
        if claim.evidence.file == card.file and any(map(claim.agrees, ways.get(claim.kind, ()))):
            return Evidence(card.file, claim.evidence.where, claim.text, card.sha256)
    return None


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
    files = subject.source.find("data_card*", "datacard*", "dataset_card*", "datasheet*", "croissant*.json")
    files += tuple(
        path for path in subject.source.sizes if re.fullmatch(r"(?:.*/)?data(?:set)?s?/readme\.md", path.lower())
    )
    found = sift(subject.source, (path for path in files if not _CODE.search(path.lower())), "data card")
    if found.real:
        return found.here(subject.source, ask.DOCUMENTS_DATA_CARD, 6)
    if link := first_link(subject, re.compile(r"data ?sheet|data(?:set)? (?:card|statement)", re.I)):
        return ask.DOCUMENTS_DATA_CARD.yes(Grade.LINKED, f"linked, not read: {link.target}", link.place)
    linked = [each.evidence for each in data_sets(subject) if each.use in ("trained", "listed") and not each.file]
    if linked:
        reason = "no data card here; the documents link the training data's own pages, which may be ones"
        return ask.DOCUMENTS_DATA_CARD.partly(Grade.LINKED, reason, *_places(linked))
    return found.missing(subject.source, ask.DOCUMENTS_DATA_CARD, "no data card here, and no link to one")


def _places(links: list[Evidence]) -> list[Evidence]:
    """Links, each target once, at most six."""
    return list({link.quote: link for link in reversed(links)}.values())[::-1][:6]


def _report(subject: Subject) -> Row:
    named = (
        path
        for path in subject.source.find("*.pdf", "*report*.md", "*paper*.md", "*.tex")
        if not path.startswith(".") and _is_report(path, normalise(subject.name))
    )
    found = sift(subject.source, named, "report")
    if found.real:
        return found.here(subject.source, ask.DOCUMENTS_REPORT, 6)
    if own := own_papers(subject):
        reason = f"the model's own, linked and not read: {', '.join(dict.fromkeys(each.target for each in own[:4]))}"
        return ask.DOCUMENTS_REPORT.yes(Grade.LINKED, reason, *_places([each.evidence for each in own]))
    unclear = [each for each in papers(subject) if each.own is None]
    if unclear and not (found.hollow or found.unread):
        reason = f"no report here; whether a paper that is linked is this model's is not said: {unclear[0].target}"
        return ask.DOCUMENTS_REPORT.unknown(Grade.ABSENT, reason, *_places([each.evidence for each in unclear]))
    others = "; the papers that are linked are others' work" if papers(subject) else ""
    return found.missing(subject.source, ask.DOCUMENTS_REPORT, f"no report here, and no link to one{others}")


def _is_report(path: str, model: str) -> bool:
    """A document about the model: named so, or a PDF named after it; plots, guides and bug reports are none."""
    base = path.rpartition("/")[2].lower()
    if is_test(path) or _PLOTS.search(path.lower()) or re.search(r"bug|issue|licen[cs]e|polic|terms|guide", base):
        return False
    return bool(re.search(r"report|paper|preprint", base)) or (
        base.endswith(".pdf") and len(model) > 2 and model in normalise(base)
    )


def _paper(subject: Subject) -> Row:
    own = own_papers(subject)
    if reviewed := [each for each in own if each.reviewed]:
        reason = f"linked or cited: {', '.join(dict.fromkeys(each.target for each in reviewed))}"
        return ask.DOCUMENTS_PAPER.yes(Grade.LINKED, reason, *_places([each.evidence for each in reviewed]))
    for document in own_documents(subject) if own else ():
        for sentence in document.sentences:
            if _REVIEWED.search(sentence.text[:1_000]) and "/" not in document.file:
                place = document.at(sentence.line, sentence.text[:200])
                return ask.DOCUMENTS_PAPER.yes(
                    Grade.CLAIMED, f"said to be printed after review: “{place.quote}”", place
                )
    if own:
        reason = "a preprint is linked; whether it was reviewed elsewhere is not said here"
        return ask.DOCUMENTS_PAPER.unknown(Grade.ABSENT, reason)
    if any(each.own is None for each in papers(subject)):
        return ask.DOCUMENTS_PAPER.unknown(Grade.ABSENT, "whether a paper that is linked is this model's is not said")
    return ask.DOCUMENTS_PAPER.no(Grade.ABSENT, "the documents link and cite no paper on this model")


def _evaluation(subject: Subject) -> Row:
    raw = sift(subject.source, (path for path in subject.source.sizes if _is_result(path)), "results")
    if raw.real:
        places = tuple(subject.source.whole(path) for path in raw.real[:6])
        return ask.DOCUMENTS_EVALUATION.yes(Grade.PRESENT, f"{len(raw.real)} files of results, raw", *places)
    for document in own_documents(subject):
        lines = [cell.line for cell in score_cells(document)]
        if lines:
            reason = (
                f"{len(lines)} scores in tables, lines {lines[0]} to {lines[-1]} of {document.file}; no raw outputs"
            )
            return ask.DOCUMENTS_EVALUATION.yes(Grade.CLAIMED, reason, document.at(lines[0]))
    for document in own_documents(subject):
        if lines := listed_scores(document):
            reason = f"{len(lines)} scores in sentences or lists of {document.file}; no raw outputs"
            return ask.DOCUMENTS_EVALUATION.yes(Grade.CLAIMED, reason, *map(document.at, lines[:4]))
    return _told_elsewhere(subject) or raw.missing(
        subject.source, ask.DOCUMENTS_EVALUATION, "no scores in tables, lists, metadata or pictures, and no results"
    )


def _told_elsewhere(subject: Subject) -> Row | None:
    """Scores in metadata, pictures, and places that are linked; None where nothing speaks of any."""
    question, card = ask.DOCUMENTS_EVALUATION, subject.card
    index = (subject.metadata.value or {}).get("model-index")
    if card is not None and isinstance(index, list) and "value" in str(index)[:100_000]:
        line = next((n for n, text in enumerate(card.lines, 1) if text.startswith("model-index")), 1)
        return question.yes(Grade.CLAIMED, "scores in the card's metadata (model-index); no raw outputs", card.at(line))
    linked = [each for each in data_sets(subject) if each.use == "evaluated" and "result" in each.sentence.lower()]
    own = {each.target for each in own_papers(subject)}
    for each in mentions(subject):
        about = " ".join((each.sentence, *each.headings[-1:]))
        if each.link.image == each.target and _PICTURED.search(f"{about} {each.target.rpartition('/')[2]}"):
            return question.partly(Grade.CLAIMED, "scores are shown in a picture, which was not read", each.place)
        if each.target in own and _REPORTED.search(about):
            return question.yes(Grade.LINKED, f"in the linked report, not read: {each.target}", each.place)
    if linked:
        return question.yes(Grade.LINKED, f"linked, not read: {linked[0].name}", linked[0].evidence)
    if own:
        places = _places([each.evidence for each in own_papers(subject)])
        reason = "no scores in the documents here; the model's own report is linked and was not read"
        return question.unknown(Grade.LINKED, reason, *places)
    return None


def _is_result(path: str) -> bool:
    """Whether a file holds results of an evaluation, by its name and its folders'."""
    folder, _, base = path.lower().rpartition("/")
    if is_test(path) or not _RESULT_FOLDER.search(folder) or _ASKED.search(path.lower()):
        return False
    return bool(_RESULT.search(base)) or (folder.startswith(".eval_results") and base.endswith((".yaml", ".yml")))
