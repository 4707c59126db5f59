"""A licence row says no more than the texts do."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.evidence import Audit, Grade
from tests.licences.examples import LLAMA_3_1, MIT, standard
from tests.releases import audited

OPENMDW = """\
OpenMDW License Agreement, version 1.1 (OpenMDW-1.1)

If you claim that the Model Materials infringe any patent or copyright, your rights end.
"""


def audit_of(folder: Path, tag: str = "mit", card: str = "", **files: str) -> Audit:
    """A release of a card and these files; `__` in a name stands for a folder."""
    (folder / "README.md").write_text(f"---\nlicense: {tag}\n---\n# Tiny\n\n{card}\n", encoding="utf-8")
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return audited(folder)


def answers(found: Audit) -> tuple[str, str, str]:
    return found["licence.weights"].answer, found["licence.agreement"].answer, found["licence.freedom"].answer


def test_an_honest_release_is_open(tmp_path: Path) -> None:
    found = audit_of(tmp_path, LICENSE=MIT)
    assert answers(found) == ("yes", "yes", "yes")
    assert found["licence.weights"].grade == found["licence.freedom"].grade == Grade.CHECKED
    assert (found["barriers.geography"].answer, found["barriers.geography"].grade) == ("yes", Grade.PRESENT)


def test_a_text_longer_than_what_is_compared_is_unknown(tmp_path: Path) -> None:
    rule = "You may not use the weights for military purposes."
    found = audit_of(tmp_path, LICENSE=f"{MIT}\n{' ' * 201_000}\n{rule}\n")
    assert answers(found) == ("unknown", "unknown", "unknown")
    assert "too long" in found["licence.weights"].reason


def test_a_licence_that_was_not_read_is_said(tmp_path: Path) -> None:
    filler = "".join(f"{number} is a number. " for number in range(30_000))
    found = audit_of(tmp_path, LICENSE=MIT, **{"LICENSE-2.txt": filler})
    assert answers(found)[::2] == ("unknown", "unknown")
    assert "LICENSE-2.txt was not read" in found["licence.weights"].reason
    assert found["licence.data"].answer == "not applicable"
    (tmp_path / "LICENSE-2.txt").rename(tmp_path / "LICENSE-CODE-2.txt")
    assert audited(tmp_path)["licence.weights"].answer == "yes"


def test_a_title_proves_no_open_licence(tmp_path: Path) -> None:
    found = audit_of(tmp_path, "openmdw-1.1", LICENSE=OPENMDW)
    assert found["licence.weights"].answer == "yes" and found["licence.weights"].grade == Grade.CLAIMED
    assert found["licence.freedom"].grade == Grade.CLAIMED and "by its title" in found["licence.freedom"].reason
    assert found["licence.agreement"].grade == Grade.PRESENT
    limited = OPENMDW + "\nYou may not use the Model for any commercial purpose.\n"
    found = audit_of(tmp_path, "openmdw-1.1", LICENSE=limited)
    assert answers(found) == ("no", "no", "no")
    assert "any commercial purpose" in found["licence.weights"].reason


def test_no_derivatives_is_no_freedom(tmp_path: Path) -> None:
    assert audit_of(tmp_path, "cc-by-nd-4.0", LICENSE=standard("CC-BY-ND-4.0"))["licence.freedom"].answer == "no"


@pytest.mark.parametrize("folder", ["third_party", "vendor", "node_modules", "examples", "tests"])
def test_the_licence_of_other_code_is_not_the_releases(tmp_path: Path, folder: str) -> None:
    found = audit_of(tmp_path, "other", **{f"{folder}__LICENSE": MIT})
    assert found["licence.weights"].answer == "unknown" and found["licence.weights"].grade == Grade.CLAIMED


@pytest.mark.parametrize("name", ["LICENSE_MODEL.txt", "LICENSE-MODEL.md", "MODEL_LICENSE", "LICENSE-MODEL"])
def test_a_licence_of_the_model_is_seen_beside_a_general_one(tmp_path: Path, name: str) -> None:
    found = audit_of(tmp_path, LICENSE=MIT, **{name: standard("CC-BY-NC-4.0")})
    assert found["licence.weights"].answer == "no" and name in found["licence.weights"].reason
    assert found["licence.code"].answer == "yes"


@pytest.mark.parametrize(
    ("card", "files"),
    [
        ("This model is for non-commercial research purposes only.", {}),
        ("", {"USE_POLICY.md": "You agree not to use the model for military purposes."}),
        ("", {"ACCEPTABLE_USE.txt": "You may not use the model for military purposes."}),
    ],
)
def test_what_else_is_said_counts(tmp_path: Path, card: str, files: dict[str, str]) -> None:
    found = audit_of(tmp_path, "mit", card, LICENSE=MIT, **files)
    assert answers(found) == ("no", "no", "no")
    for row in ("weights", "agreement", "freedom"):
        assert "purposes" in found[f"licence.{row}"].reason
    assert found["licence.code"].answer == "yes"
    (tmp_path / "LICENSE").unlink()
    found = audited(tmp_path)
    assert found["licence.weights"].answer == "no" == found["licence.freedom"].answer


def test_a_second_licence_leaves_it_open(tmp_path: Path) -> None:
    found = audit_of(tmp_path, LICENSE=MIT, LICENSE_2=standard("CC-BY-NC-4.0"))
    assert found["licence.weights"].answer == found["licence.freedom"].answer == "unknown"
    found = audit_of(tmp_path, LICENSE=MIT, LICENSE_2=standard("Apache-2.0"))
    assert found["licence.weights"].answer == found["licence.freedom"].answer == "yes"


def test_places_that_are_shut_out(tmp_path: Path) -> None:
    assert audit_of(tmp_path)["barriers.geography"].answer == "unknown"
    card = "The rights are not granted to individuals domiciled in the European Union."
    row = audit_of(tmp_path, "llama4", card)["barriers.geography"]
    assert row.answer == "no" and "domiciled" in row.reason and row.evidence[0].where == "line 6"
    row = audit_of(tmp_path, "llama3.1", LICENSE=LLAMA_3_1)["barriers.geography"]
    assert row.answer == "no" and "European Union" in row.evidence[0].quote
    changed = MIT.replace("THE SOFTWARE IS", "Be kind to Ada, or pay.\n\nTHE SOFTWARE IS", 1)
    assert audit_of(tmp_path, LICENSE=changed)["barriers.geography"].answer == "unknown"
