"""Data sets that a release links or holds, and what each is to its model: trained on, evaluated on, or only mentioned.

A link to a data set says nothing by itself: the card of a closed model links benchmarks, formats to copy and the data
of others. What counts is what the card says of it, nearest words first (:mod:`clearseek.reading.mentions`), and
whose it is. Files count by the same words, and by what is in them: records of the forms that training reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Final, Literal

from clearseek.filetypes import LFS_START
from clearseek.reading.card import Document, Link
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence
from clearseek.reading.mentions import FURTHER, Mention, mentions, of_another, own_documents, tagged
from clearseek.reading.source import Source, is_test
from clearseek.reading.subject import Subject, attempt
from clearseek.reading.words import BENCHMARK, WORDS, cue

Use = Literal["trained", "listed", "evaluated", "withheld", "other"]
Stage = Literal["pre-training", "fine-tuning", ""]
_HUB = re.compile(
    r"https?://(?:www\.)?(?:(?:huggingface\.co|hf\.co|modelscope\.(?:cn|com))/datasets"
    r"|kaggle\.com/datasets)/([\w.-]+(?:/[\w.-]+)?)"
)
_PLACE = cue("data_place")
_REPOSITORY = re.compile(
    r"https?://(?:www\.)?(?:github\.com|gitlab\.com|gitee\.com|huggingface\.co|hf\.co|modelscope\.cn)/\S"
)
_PAGE = cue("page")
_CODE = cue("data_code")
_NAMES_DATA = cue("data_named")
CUES: Final = {kind: cue(kind) for kind in ("evaluated", "other", "trained")}
"""Words that say what a data set is to a model."""
_TOLD = cue("told")
_VERB_LAST = re.compile(r"trainiert|训练|訓練|学習|학습")
"""Says of a model, behind the data, that it was trained on them."""
_ON = re.compile(rf"{WORDS['parts']['train']}(?:ed|ing)\b[^.;]{{0,60}}\b(?:on|with|using)\b[^.;]{{0,100}}$", re.I)
_PART_OF = cue("part_of")
_INSTRUCTS = cue("instructs")
_OURS = re.compile(r"\bour\b.{0,60}(?:data|corp|mix)", re.I)
_LISTED = re.compile(
    r"^(?!.*\b(?:an?|another)\b)\W*(?:[\w'\u2019.,&-]+ ){0,4}(?:open[- ])?(?:data|data-?sets?|corpora|数据|数据集"
    r"|开源数据集)(?: \(.{1,20}\)| [\w.]{1,8})?\W*$",
    re.I,
)
"""A title, or a link's words, that name data and say no more."""
_TUNING = cue("tuning")
_PRETRAINING = cue("pretraining")
_PATH: Final = {kind: frozenset(words) for kind, words in WORDS["paths"].items()}
_SAMPLES, _TRAINING = _PATH["samples"], _PATH["training"]
_MARKING: Final = _PATH["asking"] | _PATH["results"] | _PATH["marking"]
"""Words of a path that speak against training data."""
_RECORDS = re.compile(r"\.(?:jsonl?|parquet|arrow|csv|tsv|txt|bin|npy|tfrecord|tar|zip)(?:\.(?:gz|zst|xz|bz2))?$", re.I)
_SHARDS = re.compile(r"\.(?:parquet|jsonl(?:\.gz|\.zst)?|arrow|bin|npy|tfrecord|tar\.zst)$")
_READ_BY_TRAINING: Final = tuple(map(frozenset, WORDS["records"]["read_by_training"]))
_MARKED: Final = frozenset(WORDS["records"]["marked"])
_MOST_FILES: Final = 5_000
_MOST_SETS: Final = 1_000
_MOST_OPENED: Final = 60
_HEAD: Final = 16_384
SMALLEST_SET: Final = 100_000
"""Bytes that training data have at least, where no manifest lists them with sizes and counts."""
_RECORDS_SAID = cue("records_said")
_LOADED = re.compile(r"load_dataset\(\s*[\"']([\w.-]{1,96}/[\w.-]{1,96})[\"']")
_ON_REQUEST = cue("on_request")
_SAMPLE = cue("sample")
_TOKEN = re.compile(r"[\w.-][\w./-]{2,200}")


@dataclass(frozen=True)
class DataSet:
    """A data set that the documents speak of, or a file of the release that they name."""

    name: str
    """``owner/name`` on a hub, an address, or a path in the release."""
    use: Use
    stage: Stage
    evidence: Evidence
    file: bool = False
    sentence: str = ""
    part: bool = False
    """Whether it is a sample, or another part of what it is taken from."""


@lru_cache(maxsize=1)
def data_sets(subject: Subject) -> tuple[DataSet, ...]:
    """The data sets of the metadata and of all links, and files that a sentence names, each with its use."""
    names = frozenset(map(normalise, subject.names))
    files = _by_name(subject.source)
    # those of the metadata are, as the hub defines the key, what the model was trained on
    found = [DataSet(name, "trained", "", place) for name, place in islice(tagged(subject, "datasets"), 50)]
    tags, documents = len(found), own_documents(subject)
    named = (each for document in documents for each in (*_naming_files(document, files), *_loading(document)))
    for mention in chain(mentions(subject), islice(named, _MOST_FILES)):
        if len(found) < _MOST_SETS:
            found += _judged(mention, subject, names, files)
    given = {each.name for each in found[tags:] if each.use != "withheld"}
    withheld = {each.name for each in found if each.use == "withheld"} - given
    return tuple(each for each in found if (each.name in withheld) == (each.use == "withheld"))


def trained_on(subject: Subject) -> list[DataSet]:
    """The linked data sets that it was trained on, or that are listed as its data."""
    return [each for each in data_sets(subject) if each.use in ("trained", "listed") and not each.file]


def linked_results(subject: Subject) -> list[DataSet]:
    """The linked data sets that hold results of its evaluation."""
    return [each for each in data_sets(subject) if each.use == "evaluated" and "result" in each.sentence.lower()]


def _judged(
    mention: Mention, subject: Subject, names: frozenset[str], files: dict[str, tuple[str, ...]]
) -> Iterator[DataSet]:
    """The data set, or the files, that a link leads to; none where it leads to something else."""
    target, below = mention.target, "/" in mention.document.file
    base = target.partition("#")[0].rstrip("/").rpartition("/")[2]
    paths = () if "://" in target else files.get(base, ()) or files.get(base + "/", ())
    if not paths and not _is_place(mention):
        return
    own, unnamed = bool(paths) or subject.is_own(target) is True, _unnamed(mention, subject)
    use, stage, hub = _use(mention, unnamed, names, own), _stage(unnamed), _HUB.match(target)
    if use == "trained" and "github.com" in target and subject.is_own(target) is False:
        use = "other"  # a program of others
    if use == "listed" and (below or not (own or mention.document is subject.card)):
        use = "other"
    if use != "other" and (mention.withheld or _ON_REQUEST.search(mention.sentence)):
        use = "withheld"
    for path in paths:
        marked = _words(path) & _SAMPLES or ((use != "trained" or below) and not _may_train(subject.source, path))
        yield DataSet(path, "other" if marked else use, stage, mention.place, True, mention.sentence)
    if not paths:
        yield DataSet(
            hub[1] if hub else target, use, stage, mention.place, False, mention.sentence, _is_sample(mention)
        )


def _is_sample(mention: Mention) -> bool:
    """Whether the words of a link are those of a sample; not where the model was trained on one."""
    near = f"{mention.label}: {mention.before[-200:]} {mention.link.text} {FURTHER.split(mention.after)[0][:60]}"
    return any(not _ON.search(near[: match.start()]) for match in _SAMPLE.finditer(near))


def _loading(document: Document) -> Iterator[Mention]:
    """Data sets that a program in a text loads, as if it linked them."""
    for number, line in enumerate(document.lines, 1):
        for match in islice(_LOADED.finditer(line), 10) if "load_dataset" in line else ():
            link = Link(f"https://huggingface.co/datasets/{match[1]}", "", number)
            yield Mention(link, document, headings=document.headings[number - 1])


def _is_place(mention: Mention) -> bool:
    """Whether a link leads to data: by its address, or to a place of any kind whose nearest words say so."""
    target, text = mention.target, mention.link.text
    if _HUB.match(target):
        return True
    if _PAGE.search(target) or mention.link.image or _CODE.search(text):
        return False
    if _PLACE.match(target):
        near = f"{text} {mention.before[-160:]} {mention.label} {mention.after[:30]} {target}"
        return _NAMES_DATA.search(near) is not None
    if not _REPOSITORY.match(target):
        return False
    if "github.com" in target:
        text += f" {target.rstrip('/').rpartition('/')[2]}"
    coded = not re.search(r"huggingface\.co|hf\.co|modelscope", target) and _ON.search(mention.before)
    return bool(_NAMES_DATA.search(f"{text} {mention.before[-40:]}" if coded else text))


def _unnamed(mention: Mention, subject: Subject) -> Mention:
    """A link whose words leave out the model's names, since a model that is called Tuned says nothing by it."""
    names = sorted((name for name in subject.names if name), key=len, reverse=True)
    if not names:
        return mention
    called = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)")
    before, label, after = (called.sub("", each) for each in (mention.before, mention.label, mention.after))
    headings = tuple(called.sub("", each) for each in mention.headings)
    return replace(mention, before=before, label=label, after=after, headings=headings)


def _use(mention: Mention, unnamed: Mention, names: frozenset[str], own: bool) -> Use:
    """What the words around a data set say that it is to this model."""
    text, before, target = mention.link.text, mention.before, mention.target
    name = f"{target.rpartition('/')[2]} {text}"
    if (BENCHMARK.search(name) or _words(name) & _PATH["asking"]) and not _ON.search(before):
        return "evaluated"
    told = list(CUES["trained"].finditer(before))
    if told or CUES["trained"].search(text) or _VERB_LAST.search(mention.after):
        subject = before[: told[-1].start()] if told else before or mention.label
        if of_another(subject, names) or _PART_OF.search(subject):
            return "other"
    titles = (text, before.rstrip(": "), *mention.label.split(" | "))
    listed = any(_LISTED.match(each) for each in titles if each) or (own and _OURS.search(mention.sentence))
    cues = {kind: cue for kind, cue in CUES.items() if kind != "other" or not own or "://" not in target}
    done = own or _TOLD.search(mention.sentence)
    cue = unnamed.nearest(cues, headings=False)
    if not cue and not listed and (cue := unnamed.nearest(cues, headings=True)) == "trained" and not done:
        data = any(_NAMES_DATA.search(each) and CUES["trained"].search(each) for each in mention.headings)
        cue = "trained" if data else "other"  # a chapter on training may mention any data
    if cue == "trained":  # documents of tools speak of their users' data
        elsewhere = "/" in mention.document.file or ("github.com" in target and not told)
        asks = elsewhere or _INSTRUCTS.search(mention.around or mention.sentence)
        return "trained" if done or not asks else "other"
    if cue:
        return "evaluated" if cue == "evaluated" else "other"
    return "listed" if listed or any(map(_LISTED.match, mention.headings[-1:])) else "other"


def _stage(mention: Mention) -> Stage:
    """The part of training that a data set is said to be for."""
    kind = mention.nearest({"fine-tuning": _TUNING, "pre-training": _PRETRAINING})
    return "fine-tuning" if kind == "fine-tuning" else "pre-training" if kind else ""


# -- files ----------------------------------------------------------------------------------------------------------


def is_data(path: str) -> bool:
    """Whether a file is data, by its name: in a folder of data, and of a kind that holds them."""
    folder = re.match(r"(?:.*/)?(?:data(?:sets?)?|corpus|training_data)/", path.lower())
    return folder is not None and _SHARDS.search(path.lower()) is not None


def data_files(subject: Subject) -> tuple[str, ...]:
    """Files of training data: those that the documents name as such, those in folders of data, and by their records."""
    named = [each for each in data_sets(subject) if each.file]
    trained = {each.name for each in named if each.use in ("trained", "listed")}
    source, others = subject.source, {each.name for each in named} - trained
    unnamed = [path for path in source.sizes if path not in others]
    trained |= {path for path in unnamed if is_data(path) and _may_train(source, path)}
    records = (path for path in unnamed if path.endswith((".json", ".jsonl")) and source.sizes[path] >= SMALLEST_SET)
    trained |= {path for path in islice(records, _MOST_OPENED) if _may_train(source, path, surely=True)}
    return tuple(path for path in source.sizes if path in trained)


def is_evaluation_data(source: Source, path: str) -> bool:
    """Whether a file is data to evaluate on, by the words of its path."""
    folder, _, base = path.rpartition("/")
    if (
        is_test(path)
        or not _RECORDS.search(base)
        or _words(base) & _TRAINING
        or _words(path) & (_PATH["results"] | _SAMPLES)
    ):
        return False
    asks = _words(folder) & _PATH["asking"] and not base.endswith(".txt")
    if not asks and not _words(base) & {"heldout", "validation", "benchmark", "bench"}:
        return False
    return not base.endswith(".json") or bool(_keys(source, path))


def _words(path: str) -> set[str]:
    path = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path).lower()
    return set(re.findall(r"[a-z]+\d?[a-z]*", re.sub(r"held[_-]out", "heldout", path)))


def _may_train(source: Source, path: str, surely: bool = False) -> bool:
    """Whether nothing in a file's path and first record speaks against training data, or `surely` all speaks for it."""
    folder, _, base = path.rpartition("/")
    words, trains = _words(base), _words(base) & _TRAINING
    if is_test(path) or _words(path) & _SAMPLES or _words(folder) & _MARKING:
        return False
    if (BENCHMARK.search(path) or words & _MARKING) and not trains:
        return False
    keys = _keys(source, path) if path.endswith((".json", ".jsonl")) else set()
    reads = any(form <= keys for form in _READ_BY_TRAINING)
    if surely or (keys and not reads):
        return bool(reads or (trains and not surely)) and not keys & _MARKED
    return True


def _holds_records(source: Source, path: str) -> bool:
    """Whether a file that a sentence names may hold records: settings and lists of files are JSON too."""
    base = path.rpartition("/")[2].lower()
    if base.startswith(
        ("config", "tokenizer", "vocab", "dataset_info", "manifest", "requirements", "readme", "license", "merges")
    ):
        return False
    if not base.endswith(".json") or source.sizes[path] > SMALLEST_SET or _keys(source, path):
        return True
    return (attempt(lambda: source.read(path, 64)).value or b"").startswith(LFS_START)


def _keys(source: Source, path: str) -> set[str]:
    """Keys of the first record of a JSON file; empty where it is no list of records."""
    head = attempt(lambda: source.read(path, _HEAD)).value or b""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t")
    if path.endswith(".json") and not text.startswith("["):
        return set()
    try:
        record, _ = json.JSONDecoder().raw_decode(text.lstrip("[ \r\n\t"))
    except (ValueError, RecursionError):
        return set()
    return {str(key).lower() for key in record} if isinstance(record, dict) else set()


def _by_name(source: Source) -> dict[str, tuple[str, ...]]:
    """Last part of a path -> the files of records that it may mean: itself, or those in the folder of that name."""
    found: dict[str, list[str]] = {}
    held = (
        path for path in source.sizes if _RECORDS.search(path) and not is_test(path) and _holds_records(source, path)
    )
    for path in islice(held, _MOST_FILES):
        folder, _, base = path.rpartition("/")
        found.setdefault(base, []).append(path)
        if folder:
            found.setdefault(folder.rpartition("/")[2] + "/", []).append(path)
    return {name: tuple(paths[:_MOST_OPENED]) for name, paths in found.items()}


def _naming_files(document: Document, files: dict[str, tuple[str, ...]]) -> Iterator[Mention]:
    """Files that a sentence names without a link, as if it linked them."""
    if not files:
        return
    for sentence in document.sentences:
        linked = {link.text for link in sentence.links}
        for match in islice(_TOKEN.finditer(sentence.text), 200):
            word = match[0].rstrip(".")
            base = word.rstrip("/").rpartition("/")[2] + ("/" if word.endswith("/") else "")
            if base in files and word not in linked and _RECORDS_SAID.search(sentence.text):
                link = Link(base, word, sentence.line_at(match.start()))
                before, after = sentence.text[: match.start()][-400:], sentence.text[match.start() + len(word) :][:400]
                yield Mention(link, document, before, after, "", sentence.headings, sentence.block.text[:1_000])
