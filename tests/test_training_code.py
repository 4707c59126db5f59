"""What decides bits: the import closure of the trainer, read from sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import clearseek
from clearseek.errors import UserError
from clearseek.training_code import CHILDS_ROOTS, code_hash, code_list, package_sources, trainers_code


@pytest.fixture(scope="module")
def sources() -> dict[str, bytes]:
    return package_sources()


def changed(sources: dict[str, bytes], path: str) -> dict[str, bytes]:
    assert path in sources
    return sources | {path: sources[path] + b"\n# more\n"}


@pytest.mark.parametrize("path", ["cli/__init__.py", "cli/progress.py", "hub/write.py", "audit/evidence.py",
                                  "release/gather.py", "verify/replay.py", "plan/plan.py", "inference/sampler.py",
                                  "__init__.py", "signing/merkle.py", "data/shards.py"])  # fmt: skip
def test_what_trains_nothing_decides_no_bits(sources: dict[str, bytes], path: str) -> None:
    assert trainers_code(changed(sources, f"clearseek/{path}")) == trainers_code(sources)


@pytest.mark.parametrize("path", ["ops/loss.py", "kernels/rows.py", "model/router.py", "data/loader.py",
                                  "config/model.py", "train/pretrain.py", "fp8/backends/triton/products.py",
                                  "fp8/backends/cublas.py", "evaluate/bits.py", "train/muon.py"])  # fmt: skip
def test_what_trains_decides_bits(sources: dict[str, bytes], path: str) -> None:
    before, after = trainers_code(sources), trainers_code(changed(sources, f"clearseek/{path}"))
    assert [name for name in before if before[name] != after[name]] == [f"clearseek/{path}"]
    assert code_hash(before) != code_hash(after)


def test_post_training_decides_the_bits_of_children_alone(sources: dict[str, bytes]) -> None:
    more = changed(sources, "clearseek/posttrain/losses.py")
    assert trainers_code(more) == trainers_code(sources)
    assert trainers_code(more, CHILDS_ROOTS) != trainers_code(sources, CHILDS_ROOTS)
    assert trainers_code(sources).items() <= trainers_code(sources, CHILDS_ROOTS).items()


def test_a_server_that_comes_later_decides_nothing(sources: dict[str, bytes]) -> None:
    more = sources | {"clearseek/serve/__init__.py": b"", "clearseek/serve/app.py": b"import clearseek.train.trainer\n"}
    assert trainers_code(more) == trainers_code(sources)


def test_every_module_that_a_trainer_loads_is_in_the_list(sources: dict[str, bytes]) -> None:
    """The list is read from sources; Python's own answer, in a fresh process, must be within it."""
    code = "import clearseek.train.trainer, clearseek.train.pretrain, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in trainers_code(sources)}
    assert {name for name in loaded if name.startswith("clearseek.")} <= modules


def test_imports_of_every_form_are_followed() -> None:
    sources = {
        "clearseek/__init__.py": b"from clearseek import hidden",
        "clearseek/train/__init__.py": b"",
        "clearseek/train/trainer.py": b"import clearseek.a\nfrom clearseek.b import c\nfrom . import sibling",
        "clearseek/train/pretrain.py": b"def f():\n    from ..late import x\n",
        "clearseek/train/sibling.py": (
            b"if TYPE_CHECKING:\n    import clearseek.typed\nelse:\n    import clearseek.other"
        ),
        "clearseek/a.py": b"KIND = 'clearseek.named:Thing'",
        "clearseek/b/__init__.py": b"",
        "clearseek/b/c.py": b"import_module(f'clearseek.family.{name}')",
        "clearseek/family/__init__.py": b"",
        "clearseek/family/one.py": b"",
        "clearseek/family/two.py": b"",
    } | {f"clearseek/{name}.py": b"" for name in ("late", "typed", "other", "named", "unused", "hidden")}
    left_out = {"clearseek/__init__.py", "clearseek/typed.py", "clearseek/unused.py", "clearseek/hidden.py"}
    assert trainers_code(sources).keys() == sources.keys() - left_out


def test_what_editors_leave_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "clearseek"
    package.mkdir()
    (package / "__init__.py").write_bytes(b"")
    (package / ".#trainer.py").symlink_to("ada@host.1")
    (package / "folder.py").mkdir()
    monkeypatch.setattr(clearseek, "__file__", str(package / "__init__.py"))
    assert package_sources() == {"clearseek/__init__.py": b""}


@pytest.mark.parametrize("content", [b"def (", b"\x00", b"(" * 5000])
def test_a_source_that_is_no_python_is_named(sources: dict[str, bytes], content: bytes) -> None:
    with pytest.raises(UserError, match=r"clearseek/ops/loss\.py: not Python"):
        trainers_code(sources | {"clearseek/ops/loss.py": content})


def test_without_a_trainer_there_is_no_list() -> None:
    with pytest.raises(UserError, match=r"no source of clearseek\.train\.trainer"):
        trainers_code({"clearseek/__init__.py": b""})


def test_the_list_has_one_hash(sources: dict[str, bytes]) -> None:
    listed = code_list(trainers_code(sources))
    assert listed["sha256"] == code_hash(listed["files"]) and list(listed["files"]) == sorted(listed["files"])
