"""The page at ``/``: one file, and the policy under which a browser runs it.

``index.html`` is built by ``build.mjs`` (``npm ci && npm run build``) from ``src`` and the packages in
``package-lock.json``; only the built file is installed. The policy lets a browser run that file's one script and one
style, ask this server, and nothing else: what a model writes can neither run nor fetch anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("index.html")


def page() -> tuple[bytes, dict[str, str]]:
    """The page and its headers."""
    text = PAGE.read_bytes()
    policy = (
        "default-src 'none'",
        f"script-src {_hash(text, b'script')}",
        f"style-src {_hash(text, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
    return text, {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(text).hexdigest()[:32]}"',
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


def _hash(page: bytes, tag: bytes) -> str:
    """The hash of the one element with this tag, as a policy writes it."""
    inner = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    assert len(inner) == 1, f"{PAGE} has {len(inner)} elements {tag.decode()}: build it again"
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner[0]).digest()).decode()}'"
