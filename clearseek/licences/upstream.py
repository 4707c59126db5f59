"""What a base model's licence asks of whoever builds on it, as things that can be looked for in a release.

A licence tag on a derived model says what its makers allow. It does not undo what the base model's licence demanded:
a copy of the agreement, a notice with given words, words on the model card, a name that begins in a given way. These
are facts about files and names, so they can be checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from clearseek.licences.table import Licence

Check = Literal["copy", "notice", "shown", "name-prefix", "changes-marked", "restrictions-passed-on", "licence-kept"]
"""``copy``: the licence's text is in the release. ``notice``: a NOTICE file has these words. ``shown``: the card or the
documentation has these words. ``name-prefix``: the model's name begins so. ``restrictions-passed-on``: the release's
own licence has the base's restrictions. ``licence-kept``: the release is under the base's licence."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing a base's licence asks for."""

    id: str
    text: str
    check: Check
    value: str = ""
    """The words to look for, where the check needs some."""


def duties(base: Licence) -> tuple[Duty, ...]:
    """What a model built on one under this licence owes, as far as it shows in files and names."""
    owed: list[Duty] = []
    if base.attribution and not base.credit_only:
        owed.append(Duty("copy", f"A copy of {base.name} with its notices comes with the model.", "copy", base.id))
    if base.notice_text:
        owed.append(Duty("notice", f"A NOTICE file says: “{base.notice_text}”", "notice", base.notice_text))
    if base.shown:
        owed.append(Duty("shown", f"The card or the documentation shows “{base.shown[0]}”.", "shown", base.shown[0]))
    if prefix := base.name_prefix:
        owed.append(Duty("name", f"The model's name begins with “{prefix}”.", "name-prefix", prefix))
    if base.marks_changes:
        owed.append(Duty("changes", "Changed files say that they were changed.", "changes-marked"))
    if base.pass_on:
        owed.append(
            Duty("pass-on", f"The model's own licence has the restrictions of {base.name} as an enforceable provision.",
                 "restrictions-passed-on", base.id)
        )  # fmt: skip
    if base.share_alike:
        owed.append(Duty("share-alike", f"What is derived comes under {base.name} again.", "licence-kept", base.id))
    return tuple(owed)


def naming_problem(model_name: str, base: Licence) -> str | None:
    """Why the name of a model built on one under this licence breaks its rule; None if it does not."""
    name = model_name.rstrip("/").rpartition("/")[2]
    if _letters(name).startswith(_letters(base.name_prefix)):
        return None
    wanted = f"{base.name} asks that the name of a model made with it begin with “{base.name_prefix}”"
    return f"{wanted}; this one is “{name[:100]}”"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
