"""A licence as a web page: the words without the markup.

Only a text that begins as an HTML page counts as one: a licence in plain text may hold ``<year>`` and
``<name of author>``.
"""

from __future__ import annotations

import re
from html import unescape

_PAGE = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!doctype html\b|<html[\s>])", re.I)
_LEFT_OUT = re.compile(r"<!--.*?-->|<(head|script|style)\b.*?</\1\s*>", re.I | re.S)
_BLOCK = re.compile(r"</?(?:p|h\d|div|li|ul|ol|br|tr|pre|body|section|article|table|blockquote)\b[^>]*>", re.I)
_TAG = re.compile(r"</?[a-z!][^>]*>", re.I)


def without_markup(text: str) -> str:
    """The text of an HTML page; anything else as it is."""
    if not _PAGE.match(text):
        return text
    blocks = _BLOCK.sub("\n\n", _LEFT_OUT.sub("", text))
    return unescape(_TAG.sub("", blocks)).strip() + "\n"
