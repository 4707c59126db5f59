"""Small releases of one kind of difficulty each, with what an audit must and must not say of them.

``tests/fixtures/audit/NAME/files/`` is a release and ``expect.json`` beside it says why it is there and what is right:
row -> allowed answers, or an object with ``answer`` (allowed answers), ``reason`` (words of which the row's reason has
one or, as text, the one that it has) and ``not_reason`` (words that it must not have). The row ``headline`` is the
verdict.
Every release is audited twice, the second time in a folder with a name that says nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clearseek.audit.audit import audit_release
from clearseek.audit.verdict import verdict

FOLDER = Path(__file__).parents[1] / "fixtures" / "audit"
CASES = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*/expect.json"))}


def check(found: str, answer: str | None, wanted: Any) -> None:
    """Compare a row's answer and reason with what is expected of them."""
    wanted = wanted if isinstance(wanted, dict) else {"answer": wanted}
    told = f"{answer}: {found}"
    if "answer" in wanted:
        assert answer in wanted["answer"], told
    if "reason" in wanted:
        words = [wanted["reason"]] if isinstance(wanted["reason"], str) else wanted["reason"]
        assert any(word in found for word in words), told
    if "not_reason" in wanted:
        words = [wanted["not_reason"]] if isinstance(wanted["not_reason"], str) else wanted["not_reason"]
        assert not any(word in found for word in words), told


@pytest.mark.parametrize("renamed", [False, True], ids=["", "renamed"])
@pytest.mark.parametrize("name", CASES)
def test_a_case_is_answered_as_expected(name: str, renamed: bool, tmp_path: Path) -> None:
    folder = tmp_path / ("x" if renamed else name)
    shutil.copytree(FOLDER / name / "files", folder)
    audit = audit_release(folder)
    for id, wanted in CASES[name]["rows"].items():
        row = audit.get(id)
        if id == "headline":
            check(json.dumps(verdict(audit).as_json(), ensure_ascii=False), None, wanted)
        elif row is not None:
            check(row.reason, row.answer, wanted)
        else:  # a row of which the audit says nothing accuses nobody
            allowed = wanted.get("answer", []) if isinstance(wanted, dict) else wanted
            optional = isinstance(wanted, dict) and wanted.get("optional")
            assert optional or "not applicable" in allowed, f"there is no row {id}"
