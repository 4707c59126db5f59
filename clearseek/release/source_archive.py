"""Archive of the source that made a release, with the same bytes every time.

Names are sorted, owners and times left out, the compression level fixed: the same files give the same archive, so the
archive's hash stands for the code. The archive holds what ``pip install`` needs and no more.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import clearseek
from clearseek.errors import UserError

ROOT: Final = Path(clearseek.__file__).resolve().parent.parent
FILES: Final = ("pyproject.toml", "README.md", "LICENSE", "Makefile", "CHANGELOG.md")
FOLDERS: Final = ("clearseek", "recipes", "docs")
_KEPT: Final = (".py", ".toml", ".md", ".txt", ".typed", ".png", ".jinja")


def source_files(root: Path = ROOT) -> list[Path]:
    """Files of the source, sorted by path. Raises UserError where ClearSeek runs without its source tree."""
    if not (root / "pyproject.toml").is_file():
        raise UserError(
            "a release carries ClearSeek's source, which this installation lacks: install from a checkout with "
            "pip install -e ."
        )
    found = [root / name for name in FILES if (root / name).is_file()]
    for folder in FOLDERS:
        found += [path for path in (root / folder).rglob("*") if path.is_file() and path.suffix in _KEPT]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def source_archive(root: Path = ROOT) -> tuple[str, bytes]:
    """Name and bytes of the archive."""
    stem = f"clearseek-{clearseek.__version__}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in source_files(root):
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{stem}/{path.relative_to(root).as_posix()}")
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return f"{stem}.tar.gz", _gzip(buffer.getvalue())


def _gzip(data: bytes) -> bytes:
    """A gzip file without time and name."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    return head + body + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


def environment_lock() -> str:
    """Installed packages with their exact versions, in pip's form; ClearSeek itself comes from the archive."""
    found = {dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in distributions()}
    found.pop("clearseek", None)
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))
