"""Which files hold the licences of a release."""

from __future__ import annotations

import pytest

from clearseek.licences.places import covers, is_licence, is_notice_file, is_policy, perhaps_of_weights


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("LICENSE", ()), ("LICENSE.txt", ()), ("LICENCE.md", ()), ("COPYING", ()), ("OPEN_SOURCE_LICENSE", ()),
        ("LICENSES/MIT.license", ()),
        ("LICENSE_MODEL.txt", ("weights",)), ("LICENSE-MODEL.md", ("weights",)), ("MODEL_LICENSE", ("weights",)),
        ("LICENSE-MODEL", ("weights",)), ("weights/LICENSE", ("weights",)), ("LICENSE_CODE", ("code",)),
        ("CODE_LICENSE.txt", ("code",)), ("data/LICENSE", ("data",)), ("docs/LICENSE", ("documents",)),
        ("third_party/LICENSE", None), ("vendor/LICENSE", None), ("node_modules/LICENSE", None),
        ("examples/LICENSE", None), ("tests/LICENSE", None), ("encoder/LICENSE", None), ("flash_attn/LICENSE", None),
        ("LICENSE-THIRD-PARTY", None), ("a/b/LICENSE", None),
    ],
)  # fmt: skip
def test_a_licence_covers_what_it_is_named_after(path: str, kinds: tuple[str, ...] | None) -> None:
    assert is_licence(path) and covers(path) == kinds


@pytest.mark.parametrize("path", ["README.md", "licensed.py", "check_license.sh", "licenses.json", "licensing.md"])
def test_others_are_no_licences(path: str) -> None:
    assert not is_licence(path)


def test_policies_and_notices() -> None:
    for path in (
        "USE_POLICY.md",
        "ACCEPTABLE_USE.txt",
        "acceptable-use-policy.md",
        "llama_policy.md",
        "docs/use-policy.md",
    ):
        assert is_policy(path), path
    for path in ("SECURITY_POLICY.md", "privacy_policy.md", "NOTICE", "vendor/USE_POLICY.md", "policy.py"):
        assert not is_policy(path), path
    assert is_notice_file("NOTICE") and is_notice_file("notice.txt") and not is_notice_file("noticeable.md")


def test_lists_agreements_and_folders() -> None:
    for path, kinds in (("licenses/weights.txt", ("weights",)), ("model_licenses/LICENSE-FOO-dev", ("weights",))):
        assert is_licence(path) and covers(path) == kinds
    for path in ("EULA.md", "WEIGHTS_TERMS.md", "terms-of-use.txt"):
        assert is_policy(path), path
    assert not is_licence("licenses/README.md") and not is_licence("licenses/NOTICE.txt")
    assert perhaps_of_weights("third_party_weights/LICENSE") and not perhaps_of_weights("vendor/LICENSE")
