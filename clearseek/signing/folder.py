"""A signature over a whole release, in the form of OpenSSF model-signing 1.0 (OMS).

The signed statement lists every file with its SHA-256; its subject is one digest for all, the SHA-256 over the files'
digests in the order listed (sorted by the parts of the path). So `model_signing verify key` checks what
:func:`sign_folder` makes, and :func:`verify_folder` checks what `model_signing sign key` makes. Format:
https://github.com/ossf/model-signing-spec.

What a signature leaves out matters as much as what it covers: an unsigned file beside signed ones is a problem here,
and what the statement tells readers to ignore is listed in the result. Stricter than OMS: a path that is listed
twice, lies outside, or is both signed and ignored makes the statement invalid.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearseek.errors import UserError
from clearseek.files import write_atomic
from clearseek.signing.dsse import LONGEST_BUNDLE, STATEMENT_TYPE, SignatureError, sign_statement, verify_statement
from clearseek.signing.hashing import Progress, hash_files
from clearseek.signing.keys import PrivateKey, PublicKey
from clearseek.signing.manifest import NOT_CONTENT, SIGNATURE, sound_tree
from clearseek.signing.tree import Tree, is_below, name_problem, path_bytes, read_bytes, read_file, visible, walk

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Verification:
    """What came out of checking a signed folder."""

    fingerprint: str
    """Fingerprint of the key that the signature was checked against."""
    invalid: str = ""
    """Why the signature is not by this key; the files were then not looked at."""
    name: str = ""
    """What the signer called the folder."""
    signed: int = 0
    """Files that the signature lists."""
    missing: tuple[str, ...] = ()
    """Signed, not in the folder."""
    extra: tuple[str, ...] = ()
    """In the folder, not signed."""
    changed: tuple[str, ...] = ()
    """Signed with another content."""
    odd: tuple[str, ...] = ()
    """Links out, fifos, names that mislead: not opened."""
    ignored: tuple[str, ...] = ()
    """In the folder, but the signature says nothing about them on purpose. Does not count as a problem."""

    @property
    def ok(self) -> bool:
        """Whether the folder is what was signed."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each thing that is wrong."""
        named = ((self.missing, "is missing"), (self.extra, "is not signed"), (self.changed, "is not what was signed"))
        lines = [f"{visible(path)}: {what}" for paths, what in named for path in paths]
        return (*([self.invalid] if self.invalid else []), *lines, *self.odd)


@dataclass(frozen=True, slots=True)
class _Signed:
    """A statement about a folder, read."""

    name: str
    digests: dict[str, str]
    ignore: tuple[str, ...]


def sign_folder(
    root: Path,
    key: PrivateKey,
    bundle: Path | None = None,
    ignore: Iterable[str] = NOT_CONTENT,
    progress: Progress | None = None,
) -> Path:
    """Sign every file of a folder.

    Args:
        root: The folder.
        key: Signs.
        bundle: Where the signature goes; ``model.sig`` in the folder if left out. An old one is replaced.
        ignore: Paths, of files or whole folders, to say nothing about; the statement lists them. The signature itself
            is added.
        progress: Told about the hashing.

    Returns:
        The signature's file.

    Raises:
        UserError: the folder is empty or holds what a release may not hold, or cannot be read or written.
    """
    bundle = bundle or root / SIGNATURE
    ignored = _with_bundle(root, bundle, ignore)
    tree = sound_tree(root, ignored)
    if not tree.files:
        raise UserError(f"{root}: there is no file to sign")
    hashes = hash_files(root, tree.files, progress)
    write_atomic(bundle, sign_statement(_statement(root.resolve().name, tree, hashes, ignored), key))
    return bundle


def verify_folder(
    root: Path, key: PublicKey, bundle: Path | bytes | None = None, progress: Progress | None = None
) -> Verification:
    """Check a folder against its signature.

    Args:
        root: The folder.
        key: Public key of whoever should have signed.
        bundle: The signature's file or bytes; ``model.sig`` in the folder if left out.
        progress: Told about the hashing.

    Raises:
        UserError: there is no signature, or it is none of the kind that is understood here. A signature by another key
            and a folder that differs are results, not errors.
    """
    where = str(bundle) if isinstance(bundle, Path) else f"{root}: {SIGNATURE}"
    if bundle is None:
        raw = read_bytes(root, SIGNATURE, LONGEST_BUNDLE)
        bundle = root / SIGNATURE
    else:
        raw = bundle if isinstance(bundle, bytes) else read_file(bundle, LONGEST_BUNDLE)
    try:
        statement = verify_statement(raw, key, where)
    except SignatureError as error:
        return Verification(key.fingerprint, invalid=str(error))
    signed = _signed(statement, where)
    tree = walk(root, _with_bundle(root, bundle, signed.ignore) if isinstance(bundle, Path) else signed.ignore)
    hashes = hash_files(root, [file for file in tree.files if file.path in signed.digests], progress)
    found = {file.path for file in tree.files}
    return Verification(
        key.fingerprint,
        name=signed.name,
        signed=len(signed.digests),
        missing=tuple(path for path in signed.digests if path not in found),
        extra=tuple(file.path for file in tree.files if file.path not in signed.digests),
        changed=tuple(path for path, digest in hashes.items() if digest != signed.digests[path]),
        odd=tuple(map(str, tree.problems)),
        ignored=tree.skipped,
    )


def root_digest(digests: Iterable[str]) -> str:
    """OMS's digest of a whole folder, from its files' digests in the statement's order; names are not in it."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _with_bundle(root: Path, bundle: Path, ignore: Iterable[str]) -> tuple[str, ...]:
    """The ignored paths, and the signature's own where it lies in the folder."""
    inside = bundle.parent.resolve() / bundle.name
    paths = set(ignore)
    if inside.is_relative_to(root.resolve()):
        paths.add(inside.relative_to(root.resolve()).as_posix())
    return tuple(sorted(paths, key=path_bytes))


def _statement(name: str, tree: Tree, hashes: dict[str, str], ignored: tuple[str, ...]) -> dict[str, Any]:
    ordered = sorted(hashes, key=lambda path: path.split("/"))
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root_digest(hashes[path] for path in ordered)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": any(file.link for file in tree.files),
                "ignore_paths": list(ignored),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": hashes[path]} for path in ordered],
        },
    }


def _signed(statement: dict[str, Any], where: str) -> _Signed:
    """Read what a statement says about a folder. Raises UserError where OMS 1.0 allows no such statement."""
    if statement["predicateType"] != PREDICATE_TYPE:
        raise UserError(
            f"{where}: signed, but not a signature over a model: {visible(statement['predicateType'][:100])}"
        )
    predicate, subjects = statement["predicate"], statement["subject"]
    serialization, resources = predicate.get("serialization"), predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list) or len(subjects) != 1:
        raise UserError(f"{where}: a signature over a model must have one subject, serialization and resources")
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        raise UserError(
            f"{where}: only whole files with sha256 are supported: use OpenSSF's tool (model_signing verify)"
        )
    ignore = serialization.get("ignore_paths", [])
    if not isinstance(ignore, list) or not all(isinstance(path, str) and not name_problem(path) for path in ignore):
        raise UserError(f"{where}: ignore_paths must be a list of paths inside the folder")
    outside, digests = frozenset(ignore), dict[str, str]()
    for number, resource in enumerate(resources):
        name, digest = _resource(resource, f"{where}: resources[{number}]")
        if name in digests:
            raise UserError(f"{where}: {visible(name)} is listed twice")
        if is_below(name, outside):
            raise UserError(f"{where}: {visible(name)} is both signed and ignored")
        digests[name] = digest
    if not digests:
        raise UserError(f"{where}: the signature covers no file")
    if subjects[0]["digest"].get("sha256") != root_digest(digests.values()):
        raise UserError(f"{where}: the subject's digest does not belong to the files listed")
    return _Signed(subjects[0].get("name", ""), digests, tuple(ignore))


def _resource(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, dict) or value.get("algorithm") != "sha256":
        raise UserError(f"{where} must have a name, the algorithm sha256 and a digest")
    name, digest = value.get("name"), value.get("digest")
    if not isinstance(name, str) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise UserError(f"{where} must have a name and a digest of 64 hex digits")
    if what := name_problem(name):
        raise UserError(f"{where}: {visible(name)}: {what}")
    return name, digest.lower()
