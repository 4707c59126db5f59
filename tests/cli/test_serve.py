"""``clearseek serve`` as a program: where it says that it is, who may call it, how it ends, and what chats."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from clearseek.chat.render import template
from clearseek.cli import main
from clearseek.cli.serve import chats
from clearseek.hub.write import EXPORT_MARK


@pytest.fixture(scope="module")
def run(made: Path) -> Path:
    """The run behind a release."""
    return made.parent / "run"


@pytest.fixture(scope="module")
def export(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's export."""
    folder = tmp_path_factory.mktemp("served") / "export"
    assert main(["export", str(run), str(folder)]) == 0
    return folder


# Who chats


def test_our_pretrained_models_do_not_chat(run: Path, export: Path, made: Path) -> None:
    assert (export / "chat_template.jinja").read_text(encoding="utf-8") == template()
    assert [chats(folder) for folder in (run, export, made)] == [False] * 3


def test_a_card_of_ours_without_our_words_changes_nothing(export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "model")
    (folder / "README.md").unlink()
    assert not chats(folder)


@pytest.mark.parametrize("card", ["", "# Made beside clearseek\n", f"---\n\x00: [\n---\n{EXPORT_MARK}"])
@pytest.mark.parametrize("place", ["file", "settings", "named"])
def test_a_model_of_anothers_with_a_template_chats(export: Path, tmp_path: Path, place: str, card: str) -> None:
    folder = shutil.copytree(export, tmp_path / "model")
    (folder / "README.md").write_text(card, encoding="utf-8")
    other = "{% for message in messages %}{{ message.content }}{% endfor %}"
    if place == "file":
        (folder / "chat_template.jinja").write_text(other, encoding="utf-8")
    else:
        (folder / "chat_template.jinja").unlink()
        held = other if place == "settings" else [{"name": "default", "template": other}]
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": held}), encoding="utf-8")
    assert chats(folder)


def test_a_model_of_anothers_without_a_template_does_not_chat(export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    for settings in ("{}", "[", "[1]", "[" * 100_000):
        (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        assert not chats(folder)


def test_an_export_that_is_tagged_as_conversational_chats(export: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "model")
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("clearseek]", "clearseek, conversational]", 1), encoding="utf-8")
    assert chats(folder)


# As a program


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """What a server says first, and its process, which is ended after."""
    command = [sys.executable, "-m", "clearseek", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline(), process
        finally:
            process.kill()


def health(url: str, **headers: str) -> int:
    return httpx2.get(url + "health", headers=headers, timeout=60).status_code


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_it_by_the_code_of_all_commands(export: Path, number: signal.Signals) -> None:
    with serving(export) as (said, process):
        url = re.findall(r"http://127\.0\.0\.1:\d+/", said)[0]
        assert health(url) == 200 and httpx2.get(url + "v1/models").json()["data"][0]["chat"] is False
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        loading = f"{export}: read; the first time, loops are compiled for about half a minute\n"
        assert (process.returncode, out, err) == (130, "", loading)


def test_every_address_that_it_says_is_answered(export: Path) -> None:
    with serving(export, "--host", "0.0.0.0", "--no-key", "--allow-host", "chat.example") as (said, _):
        urls = re.findall(r"http://\S+?/", said)
        assert len(urls) == 2 and "0.0.0.0" not in said
        assert [health(url) for url in urls] == [200, 200], said
        assert health(urls[0], host="chat.example") == 200
        assert health(urls[0], host=f"{socket.gethostname()}:{urls[0].rsplit(':')[-1][:-1]}") == 200
        assert health(urls[0], host="rebound.example") == 403


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "0:0:0:0:0:0:0:1", pytest.param("::", marks=pytest.mark.slow)])
def test_ipv6_is_in_brackets(export: Path, host: str) -> None:
    with serving(export, "--host", host, "--no-key", "--chat") as (said, _):
        url = re.findall(r"http://\[::1\]:\d+/", said)[0]
        assert health(url) == 200 and httpx2.get(url + "v1/models").json()["data"][0]["chat"] is True


def test_a_missing_extra_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("clearseek.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", str(run)]) == 2
    assert capsys.readouterr().err == "clearseek: serving needs fastapi: pip install 'clearseek[serve]'\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--host", "0.0.0.0"], "CLEARSEEK_API_KEY"), (["--allow-host", "http://chat.example"], "give a name alone"),
     (["--base", "--chat"], "not allowed with"), (["--port", "70000"], "give another --host or --port"),
     (["--at-once", "0"], "--at-once 0")],
)  # fmt: skip
def test_wrong_arguments_get_one_line(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(run), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
