"""Agreement inside a release: what several of its files say about the same thing, compared.

That a file is here is grade E3. It becomes E4 when something else in the release agrees: a checkpoint whose hash
the transcript recorded, shards whose hashes the data's manifest holds and whose fingerprint the transcript names, a
report that names the weights' hash, a locked environment that is the one training recorded. A disagreement turns the
row's answer to no. Only a release that carries a ClearSeek transcript is compared so.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.checks import content_summary
from clearseek.audit.checks.code import PIECES
from clearseek.audit.checks.data_sets import data_files
from clearseek.audit.checks.operations import SYSTEMIC
from clearseek.audit.checks.parameters import fits
from clearseek.audit.checks.trajectory import checkpoints
from clearseek.audit.evidence import Grade, Question, Row
from clearseek.config import ModelConfig
from clearseek.counts import flops_per_token
from clearseek.errors import UserError
from clearseek.jsontext import strict_json
from clearseek.reading.archive import members
from clearseek.reading.evidence import Evidence, amount
from clearseek.verify.records import DATA_MANIFEST, LONGEST_RECORD, TRANSCRIPT, Records, Result
from clearseek.verify.stated_scores import stated_otherwise
from clearseek.verify.stored_hash import hash_stored

Check = tuple[Callable[[Records], Result], *tuple[str, ...]]
"""What compares, and the files without which there is nothing to compare."""
_BILL: Final = "bom.cdx.json"
_CROISSANT: Final = "data/croissant.json"
_HELD_OUT: Final = "evaluation/held_out.json"
_LOCK: Final = "training/requirements.lock"
_METRICS: Final = "training/metrics.jsonl"
_RECIPE: Final = "training/recipe.json"
_FROM_WORDS: Final = (ask.COST_THRESHOLD,)
"""Rows whose other side is in the records alone, so that a claim is enough to compare."""


def lift(records: Records, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows, each at E3 compared with what else is here; other people's records are not of our form."""
    if not records.ours:
        return rows
    lifted = [_lifted(row, _CHECKS[row.question], records) if row.question in _CHECKS else row for row in rows]
    parts = [row.grade for row in lifted if row.id.startswith("code.") and row.question != ask.CODE_COMPLETE]
    return tuple(
        # all of the code is as well shown as its least shown part
        replace(row, grade=min(parts)) if row.question == ask.CODE_COMPLETE and row.answer == "yes" else row
        for row in lifted
    )


def _lifted(row: Row, check: Check, records: Records) -> Row:
    compare, *needed = check
    least = Grade.CLAIMED if row.question in _FROM_WORDS else Grade.PRESENT
    if row.answer not in ("yes", "partly") or not least <= row.grade <= Grade.CHECKED:
        return row
    if not records.has(*needed):
        return row
    try:
        result = compare(records)
    except UserError as error:
        result = False, str(error), ""
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        result = False, f"a record is not of the form it should have: {type(error).__name__}", ""
    if result is None:
        return row
    agrees, what, file = result
    place = (Evidence(file),) if file else ()
    if agrees:
        return row.adding(what, *place, grade=Grade.CHECKED)
    return row.refuted(what, *place)


def _card(records: Records) -> Result:
    """The card states a figure that the configuration comes to."""
    stated = records.subject.stated("total", "activated")
    if not stated or records.subject.counted.value is None:
        return None
    figure = next((claim for claim in stated if fits(records.subject, claim)), None)
    if figure is None:
        return False, f"its “{stated[0].text}” is not what the configuration gives", "config.json"
    return True, f"its “{figure.text}” is what the configuration gives", "config.json"


def _config(records: Records) -> Result:
    """The configuration is that of the model which the recipe trained."""
    config = records.subject.config.value
    if config is None:
        return None
    trained = ModelConfig.model_validate(records.transcript[0]["recipe"]["model"])
    other = [key for key, value in trained.model_dump().items() if config.model_dump()[key] != value]
    if other:
        return False, f"config.json has another {', '.join(other[:4])} than the recipe that was trained", "config.json"
    return True, "config.json is the recipe's model", TRANSCRIPT


def _checkpoints(records: Records, group: str) -> Result:
    """Each checkpoint's record fits its files; the weights' hash is the transcript's where that has one."""
    found = checkpoints(records.subject)
    folders = {step: files[0].rpartition("/")[0] for step, files in found.items()}
    if not records.has(TRANSCRIPT, *(f"{folder}/checkpoint.json" for folder in folders.values())):
        return None
    steps = {entry["step"]: entry for entry in records.transcript[1]}
    train = records.transcript[0]["recipe"]["train"]
    every = train["checkpoint_every"]
    regular = min(train["keep_checkpoints"], -(-train["steps"] // every) - records.begin // every)
    if len(found) < regular:
        return False, f"the run keeps {amount(regular, 'checkpoint')}, and {len(found)} are here", TRANSCRIPT
    compared = 0
    for step, folder in folders.items():
        record = records.json(f"{folder}/checkpoint.json")["checkpoint"]
        if record["step"] != step:
            return False, f"{folder} says that it is of step {record['step']}", f"{folder}/checkpoint.json"
        for name, stated in record["files"].items():
            path = f"{folder}/{name}"
            if records.source.is_other(path, stated["sha256"]):
                return False, f"{path} is not the file that its checkpoint.json names", path
        recorded = steps.get(step, {}).get(f"{group}_sha256")
        if recorded is None:
            continue  # the transcript hashes every so many steps, and the last one
        groups = ("weights", "buffers") if group == "weights" else ("optimizer",)
        files = [f"{folder}/{each}.safetensors" for each in groups]
        actual = hash_stored(records.subject, files, records.version)
        if actual != recorded:
            return False, f"step {step}: its {group} are not those whose hash the transcript has", TRANSCRIPT
        compared += 1
    if not compared:
        return None
    return True, f"{compared} of {len(folders)} have the hash that the transcript recorded", TRANSCRIPT


def _data_licences(records: Records) -> Result:
    """A text for each licence that the data's manifest names."""
    named = records.json(DATA_MANIFEST)["licences"]
    missing = [name for name in named if f"data/LICENSE.{name}" not in records.source.sizes]
    if missing:
        return False, f"the text of {', '.join(missing)}, which data/manifest.json names, is not here", DATA_MANIFEST
    return True, f"the licences of all documents: {', '.join(named)}", DATA_MANIFEST


def _tokenizer(records: Records) -> Result:
    hashes = {records.source.sha256(path) for path in ("tokenizer.json", "data/tokenizer.json")}
    hashes.add(records.json(DATA_MANIFEST)["tokenizer_sha256"])
    if "" in hashes:
        return None
    same = len(hashes) == 1
    what = "the model's, the data's and the manifest's are one" if same else "three tokenizers differ"
    return same, what, "tokenizer.json"


def _croissant(records: Records) -> Result:
    """The hashes in the Croissant metadata are the files'. Files elsewhere, and sets of files, are not compared."""
    path = _CROISSANT
    listed = {
        str(each.get("contentUrl")): each.get("sha256")
        for each in records.json(path)["distribution"]
        if isinstance(each, dict) and each.get("sha256")
    }
    for name, stated in listed.items():
        file = f"data/{name}"
        if "://" in name:
            continue
        if file not in records.source.sizes:
            return False, f"{file}, which {path} lists, is not here", path
        if records.source.is_other(file, stated):
            return False, f"{file} is not the file whose hash {path} has", path
    missing = [name for name in data_files(records.subject) if name.removeprefix("data/") not in listed]
    if not listed:
        return None
    if missing:
        return False, f"{path} does not list {missing[0]}", path
    return True, f"{path} has the true hashes of {amount(len(listed), 'file')}", path


def _content_summary(records: Records) -> Result:
    """The summary's figures of the training data are the manifest's."""
    train, stated = records.json(DATA_MANIFEST)["train"], content_summary.fields(records.subject)
    wanted = {
        "1.3 modality and size": (train["tokens"],),
        "2.1 public data sets": (train["documents"], train["bytes"]),
    }
    compared = 0
    for field, counts in wanted.items():
        text, place = stated.get(field, ("", Evidence("")))
        figures = {int(each.replace(",", "")) for each in re.findall(r"\d{1,3}(?:,\d{3})+|\d{1,15}", text)}
        for count in counts if figures else ():
            if count not in figures:
                return False, f"{place.file}, {field}: {count:,} is not among its figures", DATA_MANIFEST
            compared += 1
    return (True, f"{amount(compared, 'figure')} are those of data/manifest.json", DATA_MANIFEST) if compared else None


def _operations(records: Records) -> Result:
    """The operations of the run, from its configuration and the tokens that its transcript counts."""
    config, steps = records.subject.config.value, records.transcript[1]
    if config is None or not steps:
        return None
    length = records.transcript[0]["recipe"]["data"]["sequence_length"]
    flops = flops_per_token(config, length) * steps[-1]["tokens"]
    return flops < SYSTEMIC, f"{flops:.3e} by the configuration and the transcript's tokens", TRANSCRIPT


def _report(records: Records) -> Result:
    """The report names the hash of the final weights, and the losses that the transcript has."""
    document = records.source.document("REPORT.md")
    steps = {entry["step"]: entry for entry in records.transcript[1]}
    final = steps[max(steps)]
    if str(final.get("weights_sha256")) not in document.text:
        return False, "REPORT.md does not name the hash of the transcript's final weights", "REPORT.md"
    rows = [cell.row for cell in document.cells if cell.column == 0 and len(cell.row) == 3 and cell.row[0].isdigit()]
    if len(rows) < 2:
        return False, "REPORT.md has no table of losses to compare", "REPORT.md"
    for step, loss, _ in rows:
        if f"{float.fromhex(steps[int(step)][_loss(final)]):.4f}" != loss:
            return False, f"REPORT.md: the loss of step {step} is not the transcript's", TRANSCRIPT
    recipe, config = records.transcript[0]["recipe"], records.subject.config.value
    if config is not None:
        flops = flops_per_token(config, recipe["data"]["sequence_length"]) * final["tokens"]
        for stated in re.findall(r"(\d\.\d{3}e\+\d\d) operations", document.text):
            if stated != f"{flops:.3e}":
                return False, f"REPORT.md states {stated} operations; they are {flops:.3e}", "REPORT.md"
    if records.has(_METRICS):
        for line in records.source.read(_METRICS, LONGEST_RECORD).splitlines():
            entry = strict_json(line, _METRICS)
            if entry[_loss(final)] != float.fromhex(steps[entry["step"]][_loss(final)]):
                return False, f"{_METRICS}: the loss of step {entry['step']} is not the transcript's", _METRICS
    return True, f"its {len(rows)} losses and the weights' hash are the transcript's", TRANSCRIPT


def _loss(step: dict[str, Any]) -> str:
    """Name of what a step minimised: distillation may have a divergence alone."""
    return "loss" if "loss" in step else "divergence"


def _evaluation(records: Records) -> Result:
    """The raw results add up to the stated figure, and the card states that one, and the scores of tasks."""
    if wrong := stated_otherwise(records):
        return False, wrong, "README.md"
    path = _HELD_OUT
    stated = records.json(path)
    if "measured" in stated:
        return _measured(records, stated["measured"])
    held_out = records.json(DATA_MANIFEST)["heldout"]
    bits = sum(float.fromhex(window["bits"]) for window in stated["windows"])
    tokens = sum(window["tokens"] for window in stated["windows"])
    computed = bits / tokens * (held_out["tokens"] - 1) / held_out["bytes"]
    if abs(computed - stated["bits_per_byte"]) > 1e-9:
        what = f"{path}: its windows come to {computed:.4f} bits per byte, not {stated['bits_per_byte']:.4f}"
        return False, what, path
    card = records.subject.card
    if card is not None and f"{computed:.3f}" not in card.text:
        return False, f"the card does not state the {computed:.3f} bits per byte that {path} comes to", path
    return True, f"{len(stated['windows'])} windows come to the {computed:.3f} bits per byte of the card", path


def _measured(records: Records, stated: dict[str, str]) -> Result:
    """What a tuning measured after its last step is in the transcript's last line, and on the card."""
    last = records.transcript[1][-1]["scalars"]
    said = {name: text for name, text in last.items() if name.startswith("held_out_")}
    if said != stated:
        return False, f"{_HELD_OUT} has other figures than the transcript's last line", TRANSCRIPT
    card = records.subject.card
    for name, text in stated.items():
        figure = f"{float.fromhex(text):.3f}"
        if card is not None and figure not in card.text:
            return False, f"the card does not state the {figure} of {name}", _HELD_OUT
    return True, f"{amount(len(stated), 'figure')} are those of the transcript's last line, and of the card", TRANSCRIPT


def _recipe(records: Records) -> Result:
    """The recipe is the one that the transcript begins with."""
    agree = records.json(_RECIPE) == records.transcript[0]["recipe"]
    return agree, f"{_RECIPE} is {'' if agree else 'not '}the recipe that the transcript begins with", _RECIPE


def _lock(records: Records) -> dict[str, str]:
    text = records.source.document(_LOCK).text
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.M))


def _environment(records: Records) -> Result:
    """The locked PyTorch is the one that training recorded."""
    environment = "training/environment.json"
    if records.has(environment) and records.json(environment) != records.transcript[0]["environment"]:
        return False, f"{environment} is not what the transcript begins with", environment
    recorded = str(records.transcript[0]["environment"]["torch"])
    locked = _lock(records).get("torch", "none")
    if problem := _bill(records):
        return False, problem, _BILL
    agree = recorded.partition("+")[0] == locked.partition("+")[0]
    what = f"torch {locked} is locked, and training recorded {recorded}"
    return agree, what, _LOCK


def _bill(records: Records) -> str:
    """What is wrong with the bill of materials: hashes of files, versions of packages."""
    if not records.has(_BILL):
        return ""
    lock = _lock(records)
    for each in records.json(_BILL)["components"]:
        path = each["name"]
        if each["type"] == "library" and lock.get(path.lower().replace("_", "-"), lock.get(path)) != each["version"]:
            return f"{_BILL} has {path} {each['version']}, which is not the locked one"
        for stated in each.get("hashes", ()):
            if records.source.is_other(path, stated["content"]):
                return f"{path} is not the file whose hash {_BILL} has"
    return ""


def _archive(records: Records) -> Result:
    """The archive can be installed: its project file is in it, and what it depends on is locked."""
    archives = [path for path in records.source.sizes if path.startswith("code/") and path.endswith(".tar.gz")]
    if len(archives) != 1:
        return None
    for name, content in members(records.source, archives[0], 1_000_000):
        if name.count("/") == 1 and name.endswith("/pyproject.toml"):
            needed = set(_dependencies(content.decode("utf-8", errors="replace")))
            missing = sorted(needed - set(_lock(records)))
            if "torch" not in needed:
                return False, f"{name} does not ask for PyTorch, without which nothing of it runs", archives[0]
            if missing:
                return False, f"{', '.join(missing)}: needed by the code, and not locked", _LOCK
            return True, f"installs from its pyproject.toml, with all {len(needed)} dependencies locked", archives[0]
    return False, f"{archives[0]} holds no pyproject.toml", archives[0]


def _dependencies(project: str) -> Iterator[str]:
    try:
        named = tomllib.loads(project)["project"]["dependencies"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"pyproject.toml of the code is damaged: {error}") from None
    for each in named:
        if match := re.match(r"[A-Za-z0-9._-]+", each):
            yield match[0].lower().replace("_", "-")


_CHECKS: Final[dict[Question, Check]] = {
    ask.WEIGHTS_FINAL: (_config,),
    ask.WEIGHTS_INTERMEDIATE: (partial(_checkpoints, group="weights"),),
    ask.WEIGHTS_OPTIMIZER: (partial(_checkpoints, group="optimizer"),),
    ask.LICENCE_DATA: (_data_licences, DATA_MANIFEST),
    ask.DOCUMENTS_DATA_CARD: (_croissant, _CROISSANT),
    ask.COST_THRESHOLD: (_operations,),
    ask.DOCUMENTS_DATA_SUMMARY: (_content_summary, DATA_MANIFEST),
    ask.DOCUMENTS_REPORT: (_report, "REPORT.md", TRANSCRIPT),
    ask.DOCUMENTS_MODEL_CARD: (_card,),
    ask.DOCUMENTS_EVALUATION: (_evaluation, _HELD_OUT, DATA_MANIFEST),
    **dict.fromkeys((ask.DATA_TRAINING, ask.DATA_ORDER, ask.DATA_EVALUATION), (attrgetter("data"), DATA_MANIFEST)),
    ask.DATA_TOKENIZER: (_tokenizer, "tokenizer.json", "data/tokenizer.json", DATA_MANIFEST),
    **dict.fromkeys((each.question for each in PIECES), (_archive, _LOCK)),
    ask.CODE_CONFIGURATION: (_recipe, _RECIPE, TRANSCRIPT),
    ask.CODE_ENVIRONMENT: (_environment, _LOCK, TRANSCRIPT),
}
"""Question -> the check that compares what its row speaks of with other files."""
COMPARED: Final = tuple(_CHECKS)
"""Questions whose rows are compared."""
