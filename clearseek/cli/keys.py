"""Private keys that ``release`` and ``verify`` sign with, made on request."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clearseek.errors import UserError
from clearseek.signing.keys import PrivateKey, generate_key, is_encrypted, load_private_key


@contextmanager
def signing_key(path: Path | None, make: bool) -> Iterator[PrivateKey | None]:
    """The key in the file `path`, or with `make` a new key, which is deleted if the block raises; None without a path.

    Raises UserError for a missing file or a file without a key.
    """
    if path is None:
        yield None
        return
    if make:
        generate_key(path)
    elif not os.path.lexists(path):
        raise UserError(f"{path}: no such key: --make-key makes it, or give the file of an existing key")
    try:
        yield _load(path)
    except BaseException:
        if make:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".pub").unlink(missing_ok=True)
        raise


def _load(path: Path) -> PrivateKey:
    """A private key; an encrypted one is opened with CLEARSEEK_KEY_PASSWORD or a password from the terminal."""
    if not is_encrypted(path):
        return load_private_key(path)
    password = os.environ.get("CLEARSEEK_KEY_PASSWORD")
    if password is None and sys.stdin.isatty():
        password = getpass.getpass(f"password of {path}: ")
    if password is None:
        raise UserError(f"{path}: is encrypted: set CLEARSEEK_KEY_PASSWORD, or run it in a terminal")
    return load_private_key(path, password.encode())
