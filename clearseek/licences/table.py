"""What each licence in use around models allows (``table.toml``), and for which kinds of thing it is open.

"Open" is not a property of a licence alone. MIT is made for code and does weights no harm; CC-BY is made for texts and
data; a licence that lists forbidden uses is open for nothing, however generous the rest is. So a row says what a
licence demands (a cap on users, no commerce, no training of other models, a name), and `is_open_for` applies one rule
per kind of thing. A row holds what was read in the licence's own text and in the lists of SPDX (``osi``,
``fsf_libre``) and the Open Definition (``open_data``). Three texts were read in part only (`READ_IN_PART`): their rows
may lack a restriction. A licence whose text could not be read has no row.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

Family = Literal[
    "permissive", "copyleft", "public-domain", "rail", "community", "research", "source-available", "content"
]
"""``rail``: open but for listed uses. ``community``: a company's own terms. ``research``: no commerce at all."""
Kind = Literal["code", "weights", "data", "documents"]


@dataclass(frozen=True, slots=True)
class Licence:
    """What one licence allows and asks."""

    id: str
    """SPDX id, or ``LicenseRef-...`` where SPDX has none."""
    name: str
    """Title of the licence."""
    family: Family
    suits: tuple[Kind, ...]
    """Kinds of thing that the licence was written for."""
    aliases: tuple[str, ...] = ()
    """Hugging Face tags and other spellings; `lookup` ignores case, spaces and punctuation."""
    osi: bool = False
    """Approved by the Open Source Initiative."""
    fsf_libre: bool = False
    """On the Free Software Foundation's list, as SPDX repeats it."""
    open_data: bool = False
    """Meets the Open Definition: listed there, or the same freedoms without being listed (software licences, CDLA)."""
    field_of_use: bool = False
    """Some uses are forbidden."""
    user_cap: int | None = None
    """Monthly active users from which a user must ask for another licence."""
    non_commercial: bool = False
    """Commercial use is forbidden."""
    no_compete: bool = False
    """Outputs or materials may not be used to improve other models."""
    output_restriction: bool = False
    """What the model produces is subject to conditions."""
    naming_rule: str | None = None
    """Words that must be shown, or with which a derived model's name must begin."""
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
    copy: bool = True
    """A copy of the licence must come along; false where credit and a link are enough."""
    notice: str = ""
    """Words that a NOTICE file must have."""
    shown: tuple[str, ...] = ()
    """Words that the card or the documentation must show: the first, or any of the others instead."""
    name_prefix: str = ""
    """Words with which a derived model's name must begin (Llama 3 and later: section 1.b.i; EXAONE: 2.1.c)."""
    changes_marked: bool = False
    """Changed files must say that they were changed."""

    @property
    def restricted(self) -> bool:
        """Whether anybody or any use is shut out."""
        shut = (self.field_of_use, self.non_commercial, self.no_compete, self.output_restriction)
        return any(shut) or self.user_cap is not None or self.geo_exclusion is not None


WEIGHTS_TOO = frozenset(
    ("CC0-1.0", "CC-BY-4.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "OpenMDW-1.0", "OpenMDW-1.1")
)
"""Licences open for weights without the OSI's approval, which is for software only."""
READ_IN_PART = frozenset(("LicenseRef-Qwen-Research", "LicenseRef-Mistral-MNPL-0.1", "LicenseRef-Grok-2"))
"""Licences whose rows hold only what others quote from the text: a flag that is not set is unknown."""
DOCUMENTS_TOO = frozenset(("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"))


def is_open_for(licence: Licence, kind: Kind) -> bool:
    """Whether a thing of this kind is open under this licence.

    Code: approved by the OSI. Weights: that, or CC0, CC-BY, CDLA-Permissive, OpenMDW. Data: conformant with the Open
    Definition. Documents: CC0, CC-BY, CC-BY-SA or approved by the OSI. Never where a use or a user is shut out.
    """
    if licence.restricted:
        return False
    match kind:
        case "code":
            return licence.osi
        case "weights":
            return licence.osi or licence.id in WEIGHTS_TOO
        case "data":
            return licence.open_data
        case "documents":
            return licence.osi or licence.id in DOCUMENTS_TOO


def lookup(name: str) -> Licence | None:
    """The row for an SPDX id, a hub's tag or another spelling; None for an unknown name."""
    return _BY_KEY.get(_key(name[:200]))


def choices(expression: str) -> tuple[Licence, ...]:
    """The licences of an SPDX expression, the deciding one first; empty for an unknown licence, or for one alone.

    Under ``A OR B`` everybody may choose the freest; under ``A AND B`` the strictest binds.
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
    rows = tomllib.loads((files(__package__) / "table.toml").read_text(encoding="utf-8"))
    return tuple(Licence(id, **{field: _frozen(value) for field, value in row.items()}) for id, row in rows.items())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


LICENCES = _read()


def _index() -> dict[str, Licence]:
    keys: dict[str, Licence] = {}
    for licence in LICENCES:
        for name in (licence.id, licence.id.removeprefix("LicenseRef-"), licence.name, *licence.aliases):
            other = keys.setdefault(_key(name), licence)
            assert other is licence, f"{name} names both {other.id} and {licence.id}"
    return keys


_BY_KEY = _index()
