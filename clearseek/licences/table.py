"""What the licences in use around models allow, as a table: one row each, and the rule that says "open for what".

"Open" is not a property of a licence alone. MIT is made for code and does weights no harm; CC-BY is made for texts and
data; a licence that lists forbidden uses is open for nothing, however generous the rest is. So a row says what a
licence demands (a cap on users, no commerce, no training of other models, a name), and `is_open_for` applies one rule
per kind of thing. A row says what was read in the licence's own text and in the lists of SPDX (``osi``,
``fsf_libre``) and the Open Definition (``open_data``). Of three texts only parts could be read (``read_in_part``): what
their rows do not mention may be there all the same. A licence of which nothing could be read has no row. The rows are
in ``table.toml``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Family = Literal[
    "permissive", "copyleft", "public-domain", "rail", "community", "research", "source-available", "content"
]
"""``rail``: open but for listed uses. ``community``: a company's own terms. ``research``: no commerce at all."""
Kind = Literal["code", "weights", "data", "documents"]


@dataclass(frozen=True, slots=True)
class Licence:
    """What one licence allows and asks."""

    id: str
    """SPDX's name, or ``LicenseRef-...`` where SPDX has none."""
    name: str
    """Its title."""
    family: Family
    suits: frozenset[Kind]
    """What it was written for."""
    aliases: tuple[str, ...] = ()
    """Hugging Face tags and other spellings; `lookup` ignores case, spaces and punctuation."""
    osi: bool = False
    """Approved by the Open Source Initiative."""
    open_data: bool = False
    """Meets the Open Definition: on its list, or the same freedoms without being listed (software licences, CDLA)."""
    field_of_use: bool = False
    """Some uses are forbidden."""
    user_cap: int | None = None
    """Monthly active users from which another licence must be asked for."""
    non_commercial: bool = False
    no_derivatives: bool = False
    """What was changed may not be passed on."""
    no_compete: bool = False
    """Outputs or materials may not be used to improve other models."""
    output_restriction: bool = False
    """What the model produces is subject to conditions."""
    attribution: bool = True
    """Notices must be kept."""
    share_alike: bool = False
    """Derived works must come under the same licence."""
    pass_on: bool = False
    """Restrictions must be written into every later licence."""
    patent_termination: bool = False
    """Suing over patents (or any such right) ends the licence."""
    geo_exclusion: str | None = None
    """Where, or to whom there, nothing is granted."""
    weights_too: bool = False
    """Open for weights, though not software's licence."""
    documents_too: bool = False
    """Open for documents, though not approved by the OSI."""
    read_in_part: bool = False
    """The row holds what is quoted from the text elsewhere: a flag that is not set is not known to be absent."""
    name_prefix: str = ""
    """Beginning of the name of a model made with this one (Llama 3 and later: section 1.b.i; EXAONE: 2.1.c)."""
    shown: tuple[str, ...] = ()
    """Words one of which the card or the documentation must show."""
    notice_text: str = ""
    """Words that a NOTICE file must have."""
    marks_changes: bool = False
    """Changed files must say that they were changed."""
    bases: tuple[str, ...] = ()
    """Patterns of well-known models' names that are under it, where it asks something of what follows: how the name
    begins, for many have another model's inside (`open_llama_3b` is not Meta's), or what one was tuned from. Only what
    is known for certain; a base that is not listed is unknown, not free."""
    credit_only: bool = False
    """Credit and a link are enough: no copy of the text need come along."""

    @property
    def restricted(self) -> bool:
        """Whether anybody or any use is shut out."""
        shut = (self.field_of_use, self.non_commercial, self.no_compete, self.output_restriction)
        own_terms = self.family in ("rail", "community", "research")
        return own_terms or any(shut) or self.user_cap is not None or self.geo_exclusion is not None


def is_open_for(licence: Licence, kind: Kind) -> bool:
    """Whether a thing of this kind is open under this licence.

    Code: approved by the OSI, or a licence for software that is free by the FSF's or permissive by the Blue Oak
    Council's list. Weights: that, or CC0, CC-BY, CC-BY-SA, CDLA-Permissive. Data: conformant with the Open Definition.
    Documents: CC0, CC-BY, CC-BY-SA or as for code. Never where a use or a user is shut out.
    """
    if licence.restricted or licence.no_derivatives:
        return False
    free = licence.family in ("permissive", "copyleft", "public-domain")
    software = licence.osi or (free and "code" in licence.suits)
    match kind:
        case "code":
            return software
        case "weights":
            return software or licence.weights_too
        case "data":
            return licence.open_data or software
        case "documents":
            return software or licence.documents_too


def lookup(name: str) -> Licence | None:
    """The row for an SPDX id, a hub's tag or another spelling; None if there is none."""
    key = _key(name[:200])
    return _BY_KEY.get(key) or spdx().get(key)


@cache
def spdx() -> dict[str, Licence]:
    """The licences of SPDX's list that have no row of their own, by their ids and names."""
    found: dict[str, Licence] = {}
    lines = (files(__package__) / "spdx.tsv").read_text(encoding="utf-8").split("\n")
    for line in lines[1:]:
        if not line:
            continue
        id, name, flags = line.split("\t")
        licence = _BY_KEY.get(_key(id)) or _by_flags(id, name, flags)
        for each in (id, name):
            if (key := _key(each)) not in _BY_KEY:
                found.setdefault(key, licence)
    return found


def _by_flags(id: str, name: str, flags: str) -> Licence:
    """A row from what SPDX's list says, and from what an id of Creative Commons or PolyForm spells out."""
    commons = id.startswith("CC-BY")
    shut = "-NC" in id or "oncommercial" in id
    no_changes = commons and "-ND" in id
    plain = commons and not shut and not no_changes
    software = bool(set("OFP") & set(flags))
    family: Family = "content" if commons else "permissive" if software else "source-available"
    return Licence(
        id, name, family, frozenset(("data", "documents")) if commons else frozenset(("code", "weights")),
        osi="O" in flags, open_data=plain, weights_too=plain, documents_too=plain,
        non_commercial=shut, no_derivatives=no_changes, share_alike="-SA" in id,
        read_in_part=not software and not commons,
    )  # fmt: skip


def choices(expression: str) -> tuple[Licence, ...]:
    """The licences of an SPDX expression, the one that decides first; empty where one is not known, or for one alone.

    Under ``A OR B`` everybody may choose the freest, under ``A AND B`` the strictest binds.
    """
    words = expression[:400].strip("() ")
    either = re.search(r"\sor\s", words, re.I) is not None
    names = re.split(r"\s+or\s+" if either else r"\s+and\s+", words, flags=re.I)
    found = [licence for name in names if (licence := lookup(name)) is not None]
    if len(names) < 2 or len(found) < len(names):
        return ()
    return tuple(sorted(found, key=lambda licence: licence.restricted, reverse=not either))


def _key(name: str) -> str:
    words = re.findall(r"[a-z]+|\d+|\+", name.lower().replace("licence", "license"))
    return "".join(word for word in words if word not in ("the", "license", "agreement", "version", "v"))


def _read() -> tuple[Licence, ...]:
    """The rows of ``table.toml``, in its order."""
    content = tomllib.loads((files(__package__) / "table.toml").read_text(encoding="utf-8"))
    lists = {"suits": frozenset, "aliases": tuple, "shown": tuple, "bases": tuple}
    return tuple(
        Licence(id, **{key: lists.get(key, lambda value: value)(value) for key, value in row.items()})
        for id, row in content.items()
    )


LICENCES: tuple[Licence, ...] = _read()


def _index() -> dict[str, Licence]:
    keys: dict[str, Licence] = {}
    for licence in LICENCES:
        for name in (licence.id, licence.id.removeprefix("LicenseRef-"), licence.name, *licence.aliases):
            other = keys.setdefault(_key(name), licence)
            assert other is licence, f"{name} names both {other.id} and {licence.id}"
    return keys


_BY_KEY = _index()
