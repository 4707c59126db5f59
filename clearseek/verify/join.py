"""The parts of a re-execution joined: one statement, whose verdict is that of a whole verification.

Nothing of the division is taken on a part's word. The release at hand says which segments there are, so which steps
each part must speak of; parts of another release, transcript, version or code, parts twice or missing, and steps left
out or added are refused. What remains a part's word is what came of its steps: for that a part is signed. Parts that
nobody signed prove nothing about who ran them, or whether anybody did.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import clearseek
from clearseek.audit.questions import VERIFY_CODE, VERIFY_DRIFT, VERIFY_FILES, VERIFY_STEPS
from clearseek.errors import UserError
from clearseek.files import sha256_bytes
from clearseek.jsontext import strict_json
from clearseek.reading.evidence import amount
from clearseek.signing.dsse import read_statement, verify_statement
from clearseek.signing.keys import PublicKey
from clearseek.signing.tree import read_file
from clearseek.verify.attestations import RESULT
from clearseek.verify.parts import MOST, divide
from clearseek.verify.replay import every_segment, open_release
from clearseek.verify.run import read_manifest
from clearseek.verify.statement import NAME, Result, Verdict, statement_of

_LONGEST: Final = 4_000_000
"""Bytes of a statement that are read."""
_LONGEST_ENVIRONMENT: Final = 20_000
"""Letters of a machine's description."""
_Text = Annotated[str, Field(max_length=1000)]
_Ids = tuple[_Text, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Count(_Strict):
    trained: int
    of: int


class _Part(_Strict):
    number: int = Field(ge=1, le=MOST)
    of: int = Field(ge=1, le=MOST)
    segments: tuple[tuple[int, int], ...]
    transcript: _Text
    code: _Text
    reasons: dict[str, _Text]


class _Annotations(_Strict):
    version: _Text
    levels: tuple[int, ...]
    nonce: _Text
    merkleRoot: _Text
    publisherKey: _Text | None
    segments: _Count
    steps: _Count
    part: _Part


class _Configuration(_Strict):
    name: _Text
    annotations: _Annotations


class _Predicate(_Strict):
    result: Verdict
    configuration: tuple[_Configuration]
    passedTests: _Ids
    failedTests: _Ids
    warnedTests: _Ids
    environment: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """The statement of a part, read."""

    file: Path
    sha256: str
    """Of the file."""
    key: str
    """Fingerprint of the key that signed it, or an empty string."""
    said: _Annotations
    result: Result
    environment: dict[str, Any]

    @property
    def number(self) -> int:
        """The part's number, from 1."""
        return self.said.part.number

    @property
    def reasons(self) -> dict[str, str]:
        """Id of a test that did not pass to the bit -> why."""
        return self.said.part.reasons

    @property
    def machine(self) -> str:
        """Processor, accelerators, PyTorch and threads, in words."""
        read = self.environment.get
        gpus = read("gpus")
        names = [each.get("name") for each in gpus if isinstance(each, dict)] if isinstance(gpus, list) else []
        threads = f"{read('threads')} thread{'s' * (read('threads') != 1)}"
        words = [read("processor"), *names, read("system"), f"PyTorch {read('torch')}", threads]
        return ", ".join(str(word)[:100] for word in words if word)


@dataclass(frozen=True)
class Joined:
    """All parts of a re-execution."""

    pieces: tuple[Piece, ...]
    """In the order of their numbers."""
    manifest_sha256: str
    result: Result
    segments: tuple[int, int]
    """Number of segments trained again, and of all segments."""
    steps: tuple[int, int]
    """Number of steps trained again, and of all steps."""

    @property
    def signed(self) -> bool:
        """Whether a key signed each part; none is signed otherwise."""
        return bool(self.pieces[0].key)

    @property
    def machines(self) -> list[list[Piece]]:
        """Parts that ran on machines of the same description, each description once."""
        found: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            found.setdefault(json.dumps(piece.environment, sort_keys=True), []).append(piece)
        return list(found.values())

    @property
    def told(self) -> str:
        """How many parts on how many kinds of machine, in words."""
        return f"{amount(len(self.pieces), 'part')} on {amount(len(self.machines), 'kind')} of machine"

    def statement(self) -> dict[str, Any]:
        """The statement, ready to be signed: of whom has read the parts, and did nothing again."""
        last = self.pieces[-1].said
        annotations = last.model_dump(mode="json", exclude={"part"}) | {
            "segments": {"trained": self.segments[0], "of": self.segments[1]},
            "steps": {"trained": self.steps[0], "of": self.steps[1]},
            "joined": [
                {"part": each.number, "sha256": each.sha256, "key": each.key or None, "result": each.result.verdict}
                for each in self.pieces
            ],
            "transcript": last.part.transcript,
            "code": last.part.code,
        }
        machines = [
            {"parts": [each.number for each in pieces], "environment": pieces[0].environment}
            for pieces in self.machines
        ]
        return statement_of(self.manifest_sha256, self.result, annotations, {"machines": machines})


def join(root: Path, files: Sequence[Path], trusted: Sequence[PublicKey] = ()) -> Joined:
    """Join the statements of all parts of a re-execution of a release.

    Args:
        root: Folder of the release.
        files: The statements, in any order.
        trusted: Keys of which one must have signed each part; without keys no part may be signed.

    Raises:
        UserError: a file is no statement of a part, or the files are not all parts of one re-execution of this release.
    """
    manifest = read_manifest(root)
    digest = sha256_bytes(manifest.to_bytes())
    pieces = sorted((_read(file, digest, {key.fingerprint: key for key in trusted}) for file in files), key=_number)
    _refuse_other_set(pieces)
    try:
        release = open_release(root)
        every, head = every_segment(release), release.transcript.head
    except UserError:  # then every part found so too, and says so
        every, head = (), ""
    for piece, own in zip(pieces, divide(every, len(pieces)), strict=True):
        _refuse_other_steps(piece, [(each.begin, each.end) for each in own], head)
    result = _joined(pieces)
    decided = {id.rpartition(".")[2] for id in (*result.passed, *result.failed) if _is_training(id)}
    trained = [segment for segment in every if str(segment) in decided]
    steps = (sum(each.steps for each in trained), sum(each.steps for each in every))
    return Joined(tuple(pieces), digest, result, (len(trained), len(every)), steps)


def _number(piece: Piece) -> int:
    return piece.number


def _is_training(id: str) -> bool:
    return VERIFY_STEPS.covers(id) or VERIFY_DRIFT.covers(id)


def _joined(pieces: Sequence[Piece]) -> Result:
    """Result of each test over all parts: failed if one failed it, undecided if one left it so."""
    failed = {id: None for piece in pieces for id in piece.result.failed}
    undecided = {id: None for piece in pieces for id in piece.result.undecided if id not in failed}
    passed = {id: None for piece in pieces for id in piece.result.passed if id not in failed and id not in undecided}
    return Result(tuple(passed), tuple(failed), tuple(undecided))


# -- one statement ----------------------------------------------------------------------------------------------------


def _read(file: Path, digest: str, keys: dict[str, PublicKey]) -> Piece:
    """The statement of a part of this release's re-execution. Raises UserError."""
    where = str(file)
    raw = read_file(file, _LONGEST)
    content, key = _content(raw, where, keys)
    if content["predicateType"] != RESULT:
        raise UserError(f"{where}: says something else than the result of a verification")
    if [each["digest"].get("sha256") for each in content["subject"]] != [digest]:
        raise UserError(f"{where}: speaks of another release: its manifest is not the one of this folder")
    predicate = _predicate(content, where)
    said = predicate.configuration[0].annotations
    result = Result(predicate.passedTests, predicate.failedTests, predicate.warnedTests)
    if len(set(result.every)) < len(result.every) or result.verdict != predicate.result:
        raise UserError(f"{where}: altered: its result {predicate.result} does not follow from its tests")
    return Piece(file, sha256_bytes(raw), key, said, result, predicate.environment)


def _content(raw: bytes, where: str, keys: dict[str, PublicKey]) -> tuple[dict[str, Any], str]:
    """The statement and the fingerprint of its signer's key, or an empty string."""
    content = strict_json(raw, where)
    if "dsseEnvelope" not in content:
        if keys:
            raise UserError(
                f"{where}: nobody signed it, and --trust asks for signed parts: leave --trust out to join it"
            )
        return read_statement(raw, where), ""
    material = content.get("verificationMaterial")
    public = material.get("publicKey") if isinstance(material, dict) else None
    hint = public.get("hint") if isinstance(public, dict) else None
    if not isinstance(hint, str) or hint not in keys:
        raise UserError(f"{where}: signed with the key {hint!s:.64}: give its public key with --trust FILE.pub")
    return verify_statement(raw, keys[hint], where), hint


def _predicate(content: dict[str, Any], where: str) -> _Predicate:
    configuration = content["predicate"].get("configuration")
    first = configuration[0] if isinstance(configuration, list) and configuration else None
    annotations = first.get("annotations") if isinstance(first, dict) and first.get("name") == NAME else None
    if not isinstance(annotations, dict):
        raise UserError(f"{where}: not the statement of a clearseek verify --part")
    if (version := annotations.get("version")) != clearseek.__version__:
        raise UserError(
            f"{where}: made by ClearSeek {version!s:.40}, and this is {clearseek.__version__}: join with the version "
            "that made the parts"
        )
    if "part" not in annotations:
        raise UserError(f"{where}: the statement of a whole verification, not of a part: parts are made with --part")
    try:
        text = json.dumps(content["predicate"], allow_nan=False)
        predicate = _Predicate.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where}: not the statement of a part: {place:.100}: {fault['msg']:.200}") from None
    except ValueError:
        raise UserError(f"{where}: not the statement of a part: a number in it is too large") from None
    if len(json.dumps(predicate.environment)) > _LONGEST_ENVIRONMENT:
        raise UserError(f"{where}: not the statement of a part: its environment is too long")
    return predicate


# -- all of them ------------------------------------------------------------------------------------------------------


def _refuse_other_set(pieces: Sequence[Piece]) -> None:
    """Refuse pieces, in their order, that are not all the parts of one re-execution."""
    first = pieces[0]
    count = first.said.part.of
    for piece in pieces:
        same = {
            "the number of parts": (first.said.part.of, piece.said.part.of),
            "the levels": (first.said.levels, piece.said.levels),
            "the publisher's key": (first.said.publisherKey, piece.said.publisherKey),
        }
        for what, (one, other) in same.items():
            if one != other:
                raise UserError(f"{piece.file}: {what} is {other}, and {one} in {first.file}: not of one re-execution")
        if piece.number > count:
            raise UserError(f"{piece.file}: part {piece.number} of {count}: altered")
    for one, other in pairwise(pieces):
        if one.number == other.number:
            raise UserError(f"{other.file}: part {one.number} is here twice, also as {one.file}: give one of them")
    here = {piece.number for piece in pieces}
    if missing := [number for number in range(1, count + 1) if number not in here]:
        shown = ", ".join(map(str, missing[:12])) + ", ..." * (len(missing) > 12)
        raise UserError(f"{amount(len(missing), 'part')} of {count} missing: {shown}: join needs every part")
    _refuse_other_code(pieces)


def _refuse_other_code(pieces: Sequence[Piece]) -> None:
    """Refuse parts that other code trained, or that read another transcript; where none was read, they failed."""
    read = [piece for piece in pieces if piece.said.part.transcript]
    for piece in read[1:]:
        for what in ("transcript", "code"):
            if (one := getattr(read[0].said.part, what)) != (other := getattr(piece.said.part, what)):
                raise UserError(f"{piece.file}: another {what} ({other:.16}) than in {read[0].file} ({one:.16})")


def _refuse_other_steps(piece: Piece, own: list[tuple[int, int]], head: str) -> None:
    """Refuse a part that speaks of other steps than its own, or leaves some of its own out."""
    part, every = piece.said.part, piece.result.every
    if VERIFY_FILES.id not in every:
        raise UserError(f"{piece.file}: altered: it does not say whether the release's files are the manifest's")
    if not part.transcript and (piece.result.failed or not head):
        return  # the run could not be read there: all is said by what failed
    if part.transcript != head:
        raise UserError(f"{piece.file}: of another transcript ({part.transcript:.16}) than this release's ({head:.16})")
    if list(part.segments) != own:
        raise UserError(f"{piece.file}: it has other segments than part {part.number} of {part.of} of this run")
    spoken = sorted(id.rpartition(".")[2] for id in every if _is_training(id))
    if spoken != sorted(f"{begin + 1}-{end}" for begin, end in own):
        raise UserError(f"{piece.file}: altered: its tests are not of the steps of part {part.number} of {part.of}")
    if VERIFY_CODE.id not in every:
        raise UserError(f"{piece.file}: altered: it does not say by what code it trained")
