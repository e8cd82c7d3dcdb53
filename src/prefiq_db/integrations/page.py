"""The page itself: one file without external assets, and headers that let no other code run in it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final


def _hash(tag: str, page: str) -> str:
    """Return the Content-Security-Policy source of the one inline *tag*."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


_TEXT: Final = files(__package__).joinpath("page.html").read_text("utf-8")

PAGE: Final = _TEXT.encode()
PAGE_HEADERS: Final = (
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src {_hash('style', _TEXT)}; script-src {_hash('script', _TEXT)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
