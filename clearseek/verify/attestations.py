"""Attestations: who has re-executed pieces of the release, by signed statements that lie in it.

``clearseek verify --sign`` leaves a statement (in-toto, DSSE) and the public key that checks it. A statement counts
when its signature fits, and it speaks of this manifest. But anybody can make keys: whose one is, only the reader knows.
So keys that the reader trusts (``clearseek verify --trust``) lift rows to E5, and others are counted and left at
somebody's word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.errors import UserError
from clearseek.files import sha256_bytes
from clearseek.jsontext import strict_json
from clearseek.reading.evidence import Evidence
from clearseek.reading.subject import Subject
from clearseek.signing.dsse import verify_statement
from clearseek.signing.keys import LONGEST_KEY, PublicKey, load_public_key
from clearseek.signing.manifest import ATTESTATIONS, LONGEST, MANIFEST, SIGNATURE, parse

RESULT: Final = "https://in-toto.io/attestation/test-result/v0.1"
_MOST: Final = 200
"""Statements that are read."""
_LONGEST: Final = 1_000_000
Keys = tuple[PublicKey, ...]
"""Keys of those whose signed verifications the reader believes."""
LIFTED: Final = {
    ask.VERIFY_STEPS: (ask.DATA_TRAINING, ask.DATA_ORDER, ask.CODE_TRAINING, ask.CODE_CONFIGURATION,
                       ask.WEIGHTS_INTERMEDIATE, ask.WEIGHTS_OPTIMIZER),
    ask.VERIFY_EVALUATION: (ask.DOCUMENTS_EVALUATION, ask.DATA_EVALUATION, ask.CODE_EVALUATION),
    ask.VERIFY_DATA_REBUILT: (ask.DATA_TOKENIZER, ask.CODE_DATA),
    ask.VERIFY_ROLLOUTS: (ask.DATA_COMPLETIONS,),
    ask.VERIFY_FINAL: (ask.WEIGHTS_FINAL,),
    ask.VERIFY_LOGITS: (ask.CODE_INFERENCE,),
}  # fmt: skip
"""Test that passed -> rows that it re-executes. Steps are bits of segments, so no band of drift stands here."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed result that speaks of this release."""

    file: str
    key: str
    """Fingerprint."""
    trusted: bool
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    machine: str
    coverage: str
    """How much of the training was done again, in words."""


def parties_row(subject: Subject, trusted: Keys) -> Row | None:
    """How many parties re-executed it, on how many kinds of machine; None where nobody left a statement."""
    if not _files(subject):
        return None
    statements, problems = read(subject, trusted)
    others = _others(subject, statements)
    believed = [each for each in others if each.trusted]
    aside = [f"{len(statements) - len(others)} by the publisher's own key"] * (len(statements) != len(others))
    aside += [f"not counted: {'; '.join(problems[:4])}"] * bool(problems)
    tail = "".join(f"; {each}" for each in aside)
    places = tuple(subject.source.whole(each.file) for each in (believed or others)[:8])
    failed = [each for each in believed if each.failed]
    if failed:
        reason = f"{failed[0].file}: a key that you trust signed that these failed: {', '.join(failed[0].failed[:6])}"
        return ask.VERIFICATION_PARTIES.no(Grade.CHECKED, reason + tail, *places)
    if believed:
        reason = f"verified by {_count(believed)}: {', '.join(_tests(believed)[:8])}"
        executed = any(one.covers(test) for test in _tests(believed) for one in LIFTED)
        return ask.VERIFICATION_PARTIES.yes(Grade.REEXECUTED if executed else Grade.CHECKED, reason + tail, *places)
    if others:
        hint = "none of the keys that you trust is among them" if trusted else "--trust FILE.pub counts them"
        reason = f"{_count(others)} state it; whose keys these are, only you can know: {hint}"
        return ask.VERIFICATION_PARTIES.unknown(Grade.CLAIMED, reason + tail, *places)
    return ask.VERIFICATION_PARTIES.no(Grade.ABSENT, f"no statement of another party{tail}", *places)


def lift(subject: Subject, found: tuple[Row, ...], trusted: Keys) -> tuple[Row, ...]:
    """Rows that a trusted party re-executed, at E5; the files must be those of the manifest that it speaks of."""
    statements = [each for each in read(subject, trusted)[0] if each.trusted] if trusted else []
    if any(each.failed for each in statements):
        return found
    out = []
    for row in found:
        tests = [test for test, lifted in LIFTED.items() if row.question in lifted]
        done = {
            each: [name for name in each.passed if any(test.covers(name) for test in tests)]
            for each in statements
            if ask.VERIFY_CODE.id in each.passed or not row.id.startswith("code.")  # what ran was the release's
        }
        witnesses = [each for each, names in done.items() if names]
        if witnesses and row.answer == "yes" and row.grade >= Grade.CHECKED:
            places = tuple(Evidence(each.file) for each in witnesses[:4])
            names = sorted({name for each in witnesses for name in done[each]})
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            most = max((each.coverage for each in witnesses if ask.VERIFY_STEPS in tests), default="")
            share = f"; {most}" if most else ""
            told = f"re-executed by {_count(witnesses)} ({', '.join(names[:4])}{more}{share})"
            row = row.adding(told, *places, grade=Grade.REEXECUTED)
        out.append(row)
    return tuple(out)


def read(subject: Subject, trusted: Keys) -> tuple[list[Statement], list[str]]:
    """The statements whose signatures fit, and what is wrong with the others."""
    statements: list[Statement] = []
    problems: list[str] = []
    try:
        raw = subject.source.read(MANIFEST, LONGEST) if MANIFEST in subject.source.sizes else b""
        digest = sha256_bytes(raw) if raw and parse(raw, MANIFEST) else ""
        keys = _keys(subject, trusted)
    except UserError as error:
        return [], [str(error)]
    for file in _files(subject)[:_MOST]:
        try:
            statements.append(_read(subject, file, keys, digest))
        except UserError as error:
            problems.append(str(error))
    return statements, problems


def _read(subject: Subject, file: str, keys: dict[str, tuple[PublicKey, bool]], digest: str) -> Statement:
    raw = subject.source.read(file, _LONGEST)
    hint = _hint(raw, file)
    if hint not in keys:
        raise UserError(f"{file}: there is no public key to check it with, or cryptography is not installed")
    key, trusted = keys[hint]
    statement = verify_statement(raw, key, file)
    predicate = statement["predicate"]
    if statement["predicateType"] != RESULT:
        raise UserError(f"{file}: says something else than the result of a verification")
    if not digest or digest not in {each["digest"].get("sha256") for each in statement["subject"]}:
        raise UserError(f"{file}: speaks of another release: not of this manifest")
    passed, failed = (_names(predicate.get(each)) for each in ("passedTests", "failedTests"))
    machine, share = _machine(predicate.get("environment")), _coverage(predicate.get("configuration"))
    return Statement(file, key.fingerprint, trusted, passed, failed, machine, share)


def _coverage(value: Any) -> str:
    """``10 of 600 steps``, as the statement has it; of joined parts also whether anybody signed them."""
    try:
        said = value[0]["annotations"]
        steps = f"{int(said['steps']['trained']):,} of {int(said['steps']['of']):,} steps"
        if "joined" not in said:
            return steps
        keys = [part["key"] for part in said["joined"]]
    except (LookupError, TypeError, ValueError):
        return ""
    return f"{steps} in {len(keys):,} parts" + ", which nobody signed" * (None in keys)


def _keys(subject: Subject, trusted: Keys) -> dict[str, tuple[PublicKey, bool]]:
    """Fingerprint -> public key and whether the reader trusts it."""
    keys = {key.fingerprint: (key, True) for key in trusted}
    for path in [each for each in subject.source.sizes if _inside(each) and each.endswith(".pub")][:_MOST]:
        try:
            key = load_public_key(subject.source.read(path, LONGEST_KEY))
        except UserError:
            continue  # the statement that needs it says that it has none
        keys.setdefault(key.fingerprint, (key, False))
    return keys


def _hint(raw: bytes, where: str) -> str:
    material = strict_json(raw, where).get("verificationMaterial")
    public = material.get("publicKey") if isinstance(material, dict) else None
    hint = public.get("hint") if isinstance(public, dict) else None
    return hint if isinstance(hint, str) else ""


def _others(subject: Subject, statements: list[Statement]) -> list[Statement]:
    """Without those that the release's own signature was made with."""
    own = ""
    if SIGNATURE in subject.source.sizes:
        try:
            own = _hint(subject.source.read(SIGNATURE, LONGEST), SIGNATURE)
        except UserError:
            own = ""
    return [each for each in statements if each.key != own or each.trusted]


def _files(subject: Subject) -> list[str]:
    return [path for path in subject.source.sizes if _inside(path) and path.endswith(".json")]


def _inside(path: str) -> bool:
    return path.startswith(f"{ATTESTATIONS}/")


def _names(value: Any) -> tuple[str, ...]:
    return tuple(each[:100] for each in value[:1000] if isinstance(each, str)) if isinstance(value, list) else ()


def _machine(value: Any) -> str:
    """What kind of machine it was done on: processor, accelerators, system; of joined parts, all their kinds."""
    if not isinstance(value, dict):
        return ""
    if isinstance(machines := value.get("machines"), list):
        parts = (each.get("environment") for each in machines[:_MOST] if isinstance(each, dict))
        return "; ".join(
            sorted({_machine(each) for each in parts if isinstance(each, dict) and "machines" not in each})
        )
    return " ".join(str(value.get(key, ""))[:200] for key in ("processor", "gpus", "system"))


def _tests(statements: list[Statement]) -> list[str]:
    return sorted({test for each in statements for test in each.passed})


def _count(statements: list[Statement]) -> str:
    parties, kinds = len({each.key for each in statements}), len({each.machine for each in statements})
    return (
        f"{parties} {'party' if parties == 1 else 'parties'} on {kinds} {'kind' if kinds == 1 else 'kinds'} of machine"
    )
