"""Which licence a known base is under, and what it asks of whoever builds on it, as things to look for in a release.

A licence tag on a derived model says what its makers allow. It does not undo what the base model's licence demanded:
a copy of the agreement, a notice with given words, words on the model card, a name that begins in a given way. These
are facts about files and names, so they can be checked.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from clearseek.licences.table import LICENCES, Licence

Check = Literal["copy", "notice", "shown", "name-prefix", "changes-marked", "restrictions-passed-on", "licence-kept"]
"""``copy``: the licence's text is in the release. ``notice``: a NOTICE file has these words. ``shown``: the card or the
documentation has these words. ``name-prefix``: the model's name begins so. ``restrictions-passed-on``: the release's
own licence has the base's restrictions. ``licence-kept``: the release is under the base's licence."""


class Duty(NamedTuple):
    """One thing a base's licence asks for."""

    check: Check
    value: str = ""
    """The words to look for, where the check needs some."""


BASES: Final[tuple[tuple[re.Pattern[str], Licence], ...]] = tuple(
    (re.compile(pattern.replace("<end>", "(?=$|[-_ .:@])"), re.I), licence)
    for licence in LICENCES
    for pattern in licence.bases
)


def licence_of(base: str) -> Licence | None:
    """The licence that a known base is under, where it asks something of derived models."""
    name = base.rstrip("/").rpartition("/")[2]
    return next((licence for pattern, licence in BASES if pattern.search(name)), None)


def duties(base: Licence) -> tuple[Duty, ...]:
    """What a model built on one under this licence owes, as far as it shows in files and names."""
    owed: dict[Check, str | bool] = {
        "copy": base.attribution and not base.credit_only and base.id, "notice": base.notice_text,
        "shown": "".join(base.shown[:1]), "name-prefix": base.name_prefix, "changes-marked": base.marks_changes,
        "restrictions-passed-on": base.pass_on and base.id, "licence-kept": base.share_alike and base.id,
    }  # fmt: skip
    return tuple(Duty(check, value if isinstance(value, str) else "") for check, value in owed.items() if value)


def naming_problem(model_name: str, base: Licence) -> str | None:
    """Why the name of a model built on one under this licence breaks its rule; None if it does not."""
    name = model_name.rstrip("/").rpartition("/")[2]
    if _letters(name).startswith(_letters(base.name_prefix)):
        return None
    wanted = f"{base.name} asks that the name of a model made with it begin with “{base.name_prefix}”"
    return f"{wanted}; this one is “{name[:100]}”"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
