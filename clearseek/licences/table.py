"""What the licences in use around models allow, as a table: one row each, and the rule that says "open for what".

"Open" is not a property of a licence alone. MIT is made for code and does weights no harm; CC-BY is made for texts and
data; a licence that lists forbidden uses is open for nothing, however generous the rest is. So a row says what a
licence demands (a cap on users, no commerce, no training of other models, a name), and `is_open_for` applies one rule
per kind of thing. A row says what was read in the licence's own text and in the lists of SPDX (``osi``,
``fsf_libre``) and the Open Definition (``open_data``). Of three texts only parts could be read (`READ_IN_PART`): what
their rows do not mention may be there all the same. A licence of which nothing could be read has no row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    fsf_libre: bool = False
    """On the Free Software Foundation's list, as SPDX repeats it."""
    open_data: bool = False
    """Meets the Open Definition: on its list, or the same freedoms without being listed (software licences, CDLA)."""
    field_of_use: bool = False
    """Some uses are forbidden."""
    user_cap: int | None = None
    """Monthly active users from which another licence must be asked for."""
    non_commercial: bool = False
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

    @property
    def restricted(self) -> bool:
        """Whether anybody or any use is shut out."""
        shut = (self.field_of_use, self.non_commercial, self.no_compete, self.output_restriction)
        return any(shut) or self.user_cap is not None or self.geo_exclusion is not None


WEIGHTS_TOO = frozenset(
    ("CC0-1.0", "CC-BY-4.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "OpenMDW-1.0", "OpenMDW-1.1")
)
"""Not approved by the OSI, which looks at software only, and open for weights."""
READ_IN_PART = frozenset(("LicenseRef-Qwen-Research", "LicenseRef-Mistral-MNPL-0.1", "LicenseRef-Grok-2"))
"""Rows that hold what is quoted from these texts elsewhere; a flag that is not set there is not known to be absent."""
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
    """The row for an SPDX id, a hub's tag or another spelling; None if there is none."""
    return _BY_KEY.get(_key(name[:200]))


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


_ANY: frozenset[Kind] = frozenset(("code", "weights", "data", "documents"))
_CODE: frozenset[Kind] = frozenset(("code", "weights"))
_DATA: frozenset[Kind] = frozenset(("data",))
_WORKS: frozenset[Kind] = frozenset(("data", "documents"))
_WEIGHTS: frozenset[Kind] = frozenset(("weights",))
_DOCUMENTS: frozenset[Kind] = frozenset(("documents",))


def _software(id: str, name: str, *aliases: str, patent: bool = False, family: Family = "permissive",
              fsf: bool = True, notice: bool = True) -> Licence:  # fmt: skip
    """A licence approved by the OSI."""
    return Licence(
        id, name, family, _CODE, aliases, osi=True, fsf_libre=fsf, open_data=True, attribution=notice,
        share_alike=family == "copyleft", patent_termination=patent,
    )  # fmt: skip


def _llama(version: str, *aliases: str, shown: str, begins: str, compete: bool, geo: str | None = None) -> Licence:
    return Licence(
        f"LicenseRef-Llama-{version}", f"Llama {version} Community License", "community", _WEIGHTS,
        (f"llama{version}", f"Llama {version}", *aliases), field_of_use=True, user_cap=700_000_000, no_compete=compete,
        output_restriction=True, naming_rule=f"show “{shown}”; names begin with “{begins}”", patent_termination=True,
        geo_exclusion=geo,
    )  # fmt: skip


def _rail(id: str, name: str, *aliases: str) -> Licence:
    return Licence(
        f"LicenseRef-{id}", name, "rail", _WEIGHTS, aliases, field_of_use=True, output_restriction=True, pass_on=True,
        patent_termination=True,
    )  # fmt: skip


LICENCES: tuple[Licence, ...] = (
    _software("MIT", "MIT License", "Expat", "mit license"),
    _software("MIT-0", "MIT No Attribution", fsf=False, notice=False),
    _software("Apache-2.0", "Apache License 2.0", "apache2", "apache", "apache-2", "ASL 2.0", patent=True),
    _software("BSD-2-Clause", 'BSD 2-Clause "Simplified" License', "Simplified BSD", "FreeBSD", "bsd2", "BSD 2-Clause"),
    _software("BSD-3-Clause", 'BSD 3-Clause "New" or "Revised" License', "New BSD", "Modified BSD", "bsd3",
              "BSD 3-Clause"),
    _software("ISC", "ISC License"),
    _software("0BSD", "BSD Zero Clause License", "Zero-Clause BSD", fsf=False, notice=False),
    _software("Unlicense", "The Unlicense", family="public-domain", notice=False),
    _software("MPL-2.0", "Mozilla Public License 2.0", "MPL 2", "mpl", family="copyleft", patent=True),
    _software("GPL-2.0-only", "GNU General Public License v2.0", "gpl-2.0", "gpl2", "GPL-2.0-or-later", "GPL-2.0+",
              "GNU GPL v2", family="copyleft"),
    _software("GPL-3.0-only", "GNU General Public License v3.0", "gpl-3.0", "gpl3", "GPL-3.0-or-later", "GPL-3.0+",
              "GNU GPL v3", family="copyleft", patent=True),
    _software("LGPL-2.1-only", "GNU Lesser General Public License v2.1", "lgpl-2.1", "LGPL-2.1-or-later",
              family="copyleft"),
    _software("LGPL-3.0-only", "GNU Lesser General Public License v3.0", "lgpl-3.0", "LGPL-3.0-or-later",
              family="copyleft", patent=True),
    _software("AGPL-3.0-only", "GNU Affero General Public License v3.0", "agpl-3.0", "agpl3", "AGPL-3.0-or-later",
              family="copyleft", patent=True),
    Licence("PSF-2.0", "Python Software Foundation License 2.0", "permissive", _CODE, ("PSF", "PSFL"), open_data=True),
    Licence("JSON", "JSON License", "source-available", _CODE, ("Good, not Evil",), field_of_use=True),
    # Creative Commons and the licences for data
    Licence("CC0-1.0", "Creative Commons Zero v1.0 Universal", "public-domain", _WORKS, ("cc0", "CC Zero"),
            fsf_libre=True, open_data=True, attribution=False),
    Licence("CC-BY-4.0", "Creative Commons Attribution 4.0 International", "content", _WORKS,
            ("cc-by", "Creative Commons Attribution 4.0"), fsf_libre=True, open_data=True),
    Licence("CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0 International", "content", _WORKS,
            ("cc-by-sa", "Creative Commons Attribution Share Alike 4.0"), fsf_libre=True, open_data=True,
            share_alike=True),
    Licence("CC-BY-NC-4.0", "Creative Commons Attribution-NonCommercial 4.0 International", "content", _WORKS,
            ("cc-by-nc", "Creative Commons Attribution Non Commercial 4.0"), non_commercial=True),
    Licence("CC-BY-NC-SA-4.0", "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "content",
            _WORKS, ("cc-by-nc-sa",), non_commercial=True, share_alike=True),
    Licence("CC-BY-ND-4.0", "Creative Commons Attribution-NoDerivatives 4.0 International", "content", _WORKS,
            ("cc-by-nd",)),
    Licence("CC-BY-NC-ND-4.0", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International", "content",
            _WORKS, ("cc-by-nc-nd",), non_commercial=True),
    Licence("ODC-By-1.0", "Open Data Commons Attribution License v1.0", "content", _DATA, ("odc-by", "ODC Attribution"),
            open_data=True),
    Licence("ODbL-1.0", "Open Data Commons Open Database License v1.0", "content", _DATA,
            ("odbl", "Open Database License"), fsf_libre=True, open_data=True, share_alike=True),
    Licence("PDDL-1.0", "Open Data Commons Public Domain Dedication & License 1.0", "public-domain", _DATA,
            ("pddl", "ODC-PDDL-1.0"), open_data=True, attribution=False),
    Licence("CDLA-Permissive-1.0", "Community Data License Agreement Permissive 1.0", "permissive", _DATA,
            open_data=True, patent_termination=True),
    Licence("CDLA-Permissive-2.0", "Community Data License Agreement Permissive 2.0", "permissive", _DATA,
            ("cdla-permissive",), open_data=True),
    Licence("CDLA-Sharing-1.0", "Community Data License Agreement Sharing 1.0", "content", _DATA, ("cdla-sharing",),
            open_data=True, share_alike=True, patent_termination=True),
    Licence("C-UDA-1.0", "Computational Use of Data Agreement v1.0", "source-available", _DATA, ("c-uda",),
            field_of_use=True, pass_on=True),
    Licence("LicenseRef-arXiv-1.0", "arXiv.org non-exclusive license to distribute", "source-available", _DOCUMENTS,
            ("arxiv", "arXiv non-exclusive", "arXiv nonexclusive-distrib 1.0", "arXiv license")),
    # Models
    Licence("OpenMDW-1.0", "OpenMDW License Agreement, version 1.0", "permissive", _ANY, ("openmdw",), open_data=True,
            patent_termination=True),
    Licence("OpenMDW-1.1", "OpenMDW License Agreement, version 1.1", "permissive", _ANY, open_data=True,
            patent_termination=True),
    _rail("BigScience-RAIL-1.0", "BigScience RAIL License v1.0", "bigscience-bloom-rail-1.0", "bigscience-rail-1.0",
          "BigScience RAIL"),
    _rail("BigScience-OpenRAIL-M", "BigScience Open RAIL-M License", "bigscience-openrail-m"),
    _rail("BigCode-OpenRAIL-M-1.0", "BigCode Open RAIL-M v1 License Agreement", "bigcode-openrail-m"),
    _rail("CreativeML-OpenRAIL-M", "CreativeML Open RAIL-M", "creativeml-openrail-m"),
    _rail("CreativeML-OpenRAIL++-M", "CreativeML Open RAIL++-M License", "openrail++", "openrail++-m"),
    _rail("DeepSeek-1.0", "DeepSeek License Agreement, version 1.0", "deepseek", "deepseek-license",
          "DeepSeek Model License", "deepseek-la-1.0", "LicenseRef-scancode-deepseek-la-1.0"),
    Licence("LicenseRef-Llama-2", "Llama 2 Community License", "community", _WEIGHTS, ("llama2", "Llama 2"),
            field_of_use=True, user_cap=700_000_000, no_compete=True, output_restriction=True, patent_termination=True),
    _llama("3", "Meta Llama 3 Community License", "Meta Llama 3", shown="Built with Meta Llama 3", begins="Llama 3",
           compete=True),
    _llama("3.1", shown="Built with Llama", begins="Llama", compete=False),
    _llama("3.2", shown="Built with Llama", begins="Llama", compete=False,
           geo="multimodal models: licensees in the European Union"),
    _llama("3.3", shown="Built with Llama", begins="Llama", compete=False),
    _llama("4", shown="Built with Llama", begins="Llama", compete=False,
           geo="multimodal models: licensees in the European Union"),
    Licence("LicenseRef-Gemma", "Gemma Terms of Use", "community", _WEIGHTS, ("gemma",), field_of_use=True,
            pass_on=True),
    Licence("LicenseRef-Tongyi-Qianwen", "Tongyi Qianwen License Agreement", "community", _WEIGHTS,
            ("tongyi-qianwen", "tongyi-qianwen-license-agreement"), user_cap=100_000_000, no_compete=True,
            output_restriction=True, patent_termination=True),
    Licence("LicenseRef-Qwen", "Qwen License Agreement", "community", _WEIGHTS, ("qwen",), user_cap=100_000_000,
            naming_rule="show “Built with Qwen” or “Improved using Qwen”", patent_termination=True),
    Licence("LicenseRef-Qwen-Research", "Qwen Research License Agreement", "research", _WEIGHTS, ("qwen-research",),
            non_commercial=True, naming_rule="show “Built with Qwen” or “Improved using Qwen”"),
    Licence("LicenseRef-Mistral-MRL-0.1", "Mistral AI Research License", "research", _WEIGHTS,
            ("mrl", "mrl-0.1", "Mistral Research License"), field_of_use=True, non_commercial=True,
            output_restriction=True, pass_on=True, patent_termination=True),
    Licence("LicenseRef-Mistral-MNPL-0.1", "Mistral AI Non-Production License", "research", _WEIGHTS,
            ("mnpl", "mnpl-0.1"), field_of_use=True, non_commercial=True),
    Licence("LicenseRef-Falcon-2-11B-1.0", "Falcon 2 11B TII License Version 1.0", "community", _WEIGHTS,
            ("falcon-2", "falcon-2-11b", "Falcon 2 11B TII License"), field_of_use=True, output_restriction=True,
            naming_rule="state “built using Falcon LLM technology from the Technology Innovation Institute”",
            pass_on=True, patent_termination=True),
    Licence("LicenseRef-Grok-2", "Grok 2 Community License Agreement", "community", _WEIGHTS,
            ("grok2-community", "grok-2", "Grok 2 Community License"), field_of_use=True, no_compete=True,
            output_restriction=True, naming_rule="show “Powered by xAI”", patent_termination=True),
    Licence("LicenseRef-NVIDIA-Open-Model", "NVIDIA Open Model License Agreement", "community", _WEIGHTS,
            ("nvidia-open-model-license", "NVIDIA Open Model License"), field_of_use=True, patent_termination=True),
    Licence("LicenseRef-EXAONE-1.1-NC", "EXAONE AI Model License Agreement 1.1 - NC", "research", _WEIGHTS,
            ("exaone", "exaone-1.1-nc"), field_of_use=True, non_commercial=True, no_compete=True,
            output_restriction=True, naming_rule="names begin with “EXAONE”"),
    Licence("LicenseRef-Stability-Community", "Stability AI Community License Agreement", "community", _WEIGHTS,
            ("stabilityai-ai-community", "stability-community", "Stability AI Community License"), field_of_use=True,
            no_compete=True, output_restriction=True, naming_rule="show “Powered by Stability AI”",
            patent_termination=True),
    Licence("LicenseRef-Stability-NC", "Stability AI Non-Commercial Research Community License Agreement", "research",
            _WEIGHTS, ("stabilityai-nc-research-community",), field_of_use=True, non_commercial=True,
            share_alike=True, patent_termination=True),
)  # fmt: skip


def _index() -> dict[str, Licence]:
    keys: dict[str, Licence] = {}
    for licence in LICENCES:
        for name in (licence.id, licence.id.removeprefix("LicenseRef-"), licence.name, *licence.aliases):
            other = keys.setdefault(_key(name), licence)
            assert other is licence, f"{name} names both {other.id} and {licence.id}"
    return keys


_BY_KEY = _index()
