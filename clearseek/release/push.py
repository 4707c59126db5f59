"""Publication of a release: one commit with every file, to a model repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from clearseek.audit.hub import ask, library
from clearseek.errors import UserError

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(repo: str) -> None:
    """Raise UserError unless `repo` is a repository's name and a user is signed in; called before the work begins."""
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"--push {repo}: give the repository as owner/name")
    hub = library()
    if not hub.get_token():
        raise UserError("--push: no user is signed in: set HF_TOKEN, or run: hf auth login")
    ask(repo, lambda: hub.HfApi().whoami())


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a release as one commit to the repository `repo` (``owner/name``), made where it does not exist.

    A repository that is made is its owner's alone if `private`. Returns the commit's id. Raises UserError where the hub
    refuses or cannot be reached; the release stays as it is.
    """
    api = library().HfApi()
    try:
        ask(repo, lambda: api.create_repo(repo, private=private, exist_ok=True))
        message = f"Release {folder.name}"
        commit = ask(repo, lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
    except UserError as error:
        raise UserError(f"{error}; the release is in {folder}: to try again: hf upload {repo} {folder} .") from None
    return str(commit.oid)
