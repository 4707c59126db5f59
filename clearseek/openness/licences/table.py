"""Licences that models, code and data are published under, and what each allows: a table of facts.

A tag such as ``llama3.1`` or ``apache-2.0`` names a row; the row says whether the licence is open for the kind of thing
it is put on. "Open" follows the bodies that keep the words: code needs a licence that the Open Source Initiative
approved; data one that conforms to the Open Definition; weights either of these, without a field-of-use clause;
documents a free content licence. Ids are SPDX's where it has one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

Family = Literal["permissive", "copyleft", "public-domain", "content", "rail", "community", "research", "other"]
Kind = Literal["code", "weights", "data", "documents"]


@dataclass(frozen=True, slots=True)
class Licence:
    """What a licence is and does."""

    id: str
    """SPDX's, or ``LicenseRef-...`` where SPDX has none."""
    name: str
    family: Family
    aliases: tuple[str, ...] = ()
    """Other ways in which tags and cards write it."""
    osi: bool = False
    """Approved by the Open Source Initiative."""
    open_data: bool = False
    """Conforms to the Open Definition."""
    attribution: bool = True
    """Asks that names and notices are kept."""
    share_alike: bool = False
    """Asks that what is derived is licensed alike, or that its terms are passed on."""
    field_of_use: bool = False
    """Forbids some uses."""
    non_commercial: bool = False
    user_cap: int | None = None
    """Monthly users above which another licence is needed."""
    no_compete: bool = False
    """Forbids using outputs to improve other models."""
    naming: str = ""
    """A word that names of derived models must begin with."""
    notices: tuple[str, ...] = field(default=())
    """Words that must be shown with what is derived."""


def _osi(id: str, name: str, *aliases: str, family: Family = "permissive") -> Licence:
    return Licence(id, name, family, aliases, osi=True, open_data=False, share_alike=family == "copyleft")


def _content(id: str, name: str, *aliases: str, open_data: bool = True, alike: bool = False) -> Licence:
    return Licence(id, name, "content", aliases, open_data=open_data, share_alike=alike)


def _llama(id: str, version: str, *aliases: str, naming: str = "Llama") -> Licence:
    return Licence(
        f"LicenseRef-{id}", f"Llama {version} Community License", "community", aliases,
        share_alike=True, field_of_use=True, user_cap=700_000_000, no_compete=version in ("2", "3"),
        naming="" if version == "2" else naming,
        notices=() if version == "2" else ("Built with Meta Llama 3" if version == "3" else "Built with Llama",),
    )  # fmt: skip


def _rail(id: str, name: str, *aliases: str) -> Licence:
    return Licence(id, name, "rail", aliases, share_alike=True, field_of_use=True)


LICENCES: Final = (
    _osi("MIT", "MIT License", "the mit license", "expat"),
    _osi("MIT-0", "MIT No Attribution"),
    _osi("Apache-2.0", "Apache License 2.0", "apache", "apache license version 2.0", "apache2", "asl 2.0"),
    _osi("BSD-2-Clause", "BSD 2-Clause License", "simplified bsd"),
    _osi("BSD-3-Clause", "BSD 3-Clause License", "bsd", "new bsd", "modified bsd"),
    _osi("ISC", "ISC License"),
    _osi("0BSD", "BSD Zero Clause License"),
    _osi("Unlicense", "The Unlicense", family="public-domain"),
    _osi("PSF-2.0", "Python Software Foundation License 2.0", "python-2.0", "psf"),
    _osi("MPL-2.0", "Mozilla Public License 2.0", family="copyleft"),
    _osi("GPL-2.0", "GNU General Public License 2.0", "gpl-2.0-only", "gpl-2.0-or-later", family="copyleft"),
    _osi("GPL-3.0", "GNU General Public License 3.0", "gpl", "gpl-3.0-only", "gpl-3.0-or-later", family="copyleft"),
    _osi("LGPL-3.0", "GNU Lesser General Public License 3.0", "lgpl", "lgpl-3.0-only", family="copyleft"),
    _osi("AGPL-3.0", "GNU Affero General Public License 3.0", "agpl-3.0-only", family="copyleft"),
    Licence("CC0-1.0", "Creative Commons Zero 1.0", "public-domain", ("cc0",), open_data=True, attribution=False),
    Licence("PDDL-1.0", "Public Domain Dedication and License", "public-domain", open_data=True, attribution=False),
    _content("CC-BY-4.0", "Creative Commons Attribution 4.0", "cc by 4.0", "creative commons attribution 4.0"),
    _content("CC-BY-3.0", "Creative Commons Attribution 3.0", "cc by 3.0"),
    _content("CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0", "cc by-sa 4.0", alike=True),
    _content("CC-BY-SA-3.0", "Creative Commons Attribution-ShareAlike 3.0", "cc by-sa 3.0", alike=True),
    _content("CC-BY-ND-4.0", "Creative Commons Attribution-NoDerivatives 4.0", open_data=False),
    Licence("CC-BY-NC-4.0", "Creative Commons Attribution-NonCommercial 4.0", "research", non_commercial=True),
    Licence(
        "CC-BY-NC-SA-4.0", "Creative Commons Attribution-NonCommercial-ShareAlike 4.0", "research",
        non_commercial=True, share_alike=True,
    ),
    Licence(
        "CC-BY-NC-ND-4.0", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "research",
        non_commercial=True,
    ),
    _content("ODC-By-1.0", "Open Data Commons Attribution License 1.0", "odc-by"),
    _content("ODbL-1.0", "Open Database License 1.0", "odbl", alike=True),
    _content("CDLA-Permissive-2.0", "Community Data License Agreement Permissive 2.0"),
    _content("CDLA-Sharing-1.0", "Community Data License Agreement Sharing 1.0", alike=True),
    Licence("OpenMDW-1.0", "OpenMDW License Agreement 1.0", "permissive", open_data=True),
    Licence("OpenMDW-1.1", "OpenMDW License Agreement 1.1", "permissive", open_data=True),
    Licence("LicenseRef-arXiv", "arXiv.org perpetual non-exclusive license 1.0", "other", ("arxiv",)),
    Licence("JSON", "The JSON License", "other", ("json license",), field_of_use=True),
    _rail("LicenseRef-DeepSeek-1.0", "DeepSeek License Agreement 1.0", "deepseek", "deepseek license agreement"),
    _rail("LicenseRef-CreativeML-OpenRAIL-M", "CreativeML Open RAIL-M", "creativeml-openrail-m"),
    _rail("LicenseRef-BigScience-OpenRAIL-M", "BigScience Open RAIL-M", "bigscience-openrail-m"),
    _rail("LicenseRef-BigScience-BLOOM-RAIL-1.0", "BigScience RAIL License 1.0", "bigscience-bloom-rail-1.0"),
    _rail("LicenseRef-BigCode-OpenRAIL-M", "BigCode Open RAIL-M", "bigcode-openrail-m"),
    _rail("LicenseRef-OpenRAIL", "Open RAIL, of some kind", "openrail", "openrail++"),
    _llama("Llama-2", "2", "llama2", "llama-2", "llama 2 community license agreement"),
    _llama("Llama-3", "3", "llama3", "meta llama 3 community license", naming="Llama 3"),
    _llama("Llama-3.1", "3.1", "llama3.1", "llama 3.1 community license agreement", "llama3.1 license"),
    _llama("Llama-3.2", "3.2", "llama3.2", "llama 3.2 community license agreement", "llama3.2 license"),
    _llama("Llama-3.3", "3.3", "llama3.3", "llama 3.3 community license agreement", "llama3.3 license"),
    _llama("Llama-4", "4", "llama4", "llama 4 community license agreement"),
    Licence("LicenseRef-Gemma", "Gemma Terms of Use", "community", ("gemma",), share_alike=True, field_of_use=True),
    Licence("LicenseRef-Qwen", "Tongyi Qianwen License", "community", ("tongyi-qianwen", "qwen"), user_cap=100_000_000),
    Licence("LicenseRef-Qwen-Research", "Qwen Research License", "research", ("qwen-research",), non_commercial=True),
    Licence("LicenseRef-MRL", "Mistral AI Research License", "research", ("mrl",), non_commercial=True),
    Licence("LicenseRef-MNPL", "Mistral AI Non-Production License", "research", ("mnpl",), non_commercial=True),
)  # fmt: skip
"""Facts from the licences' texts; OSI's and the Open Definition's lists of approved licences."""


def _key(name: str) -> str:
    text = re.sub(r"\b(?:the|licen[cs]e|version|v(?=\d))\b|(?<=\b)v(?=\d)", " ", name.lower())
    return re.sub(r"[^a-z0-9.+]", "", text)


@lru_cache(maxsize=1)
def _index() -> dict[str, Licence]:
    index: dict[str, Licence] = {}
    for licence in LICENCES:
        for name in (licence.id, licence.id.removeprefix("LicenseRef-"), licence.name, *licence.aliases):
            known = index.setdefault(_key(name), licence)
            assert known is licence, f"{name} names {known.id} and {licence.id}"
    return index


def lookup(name: str) -> Licence | None:
    """The licence of this id, tag or name; case, spaces and dashes do not matter."""
    return _index().get(_key(name))


def is_open_for(licence: Licence, kind: Kind) -> bool:
    """Whether things of this kind under this licence are open."""
    if licence.field_of_use or licence.non_commercial or licence.user_cap or licence.no_compete:
        return False
    if kind == "code":
        return licence.osi
    if kind == "data":
        return (
            licence.open_data or licence.family == "public-domain" or (licence.osi and licence.family == "permissive")
        )
    return licence.osi or licence.open_data
