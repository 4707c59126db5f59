"""Strict JSON: one object, every key once, nothing that only Python would read."""

from __future__ import annotations

import json
import re
from sys import int_info
from typing import Any

from clearseek.errors import UserError


def strict_json(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object in which no key repeats. Raises UserError, whose message begins with `where`."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in pairs:
            if name in content:
                raise UserError(f"{where}: the JSON key {name!r:.80} appears twice: keep one")
            content[name] = value
        return content

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_int=_number)
        if b"\\ud" in raw.lower():  # half of a surrogate pair is text to JSON alone
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UserError:
        raise
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise UserError(
            f"{where}: not valid JSON: {half} is half of a surrogate pair: write whole characters"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid JSON: not UTF-8 (byte {error.start}): fetch it again") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply: fetch it again") from None
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a JSON object")
    return content


def is_later(stated: Any, ours: str | int) -> bool:
    """Whether a file states a later format than ours, such as "clearseek-code-2" after "clearseek-code-1"."""
    if isinstance(ours, int):
        return type(stated) is int and ours < stated < 10_000
    name, _, number = ours.rpartition("-")
    found = re.fullmatch(rf"{name}-([1-9][0-9]{{0,3}})", stated, re.ASCII) if isinstance(stated, str) else None
    return found is not None and int(found[1]) > int(number)


def _number(digits: str) -> float:
    """A whole number, or infinity for one with more digits than Python reads: valid JSON, but never a size or count."""
    return int(digits) if len(digits) < int_info.default_max_str_digits else float(digits)
