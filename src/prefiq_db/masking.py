"""Keep secrets and values out of everything that leaves the process."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

MASK: Final = "***"

# True while whatever is raised will be translated by our border, so that nobody else needs to take the values out.
border_translates: ContextVar[bool] = ContextVar("prefiq_db_border_translates", default=False)

# Matched against whole lower-case words of a key, so "passenger" is not a password.
_SECRET_KEY = re.compile(
    r"(^|[_\-.])(pass|passwd|password|pwd|secret|token|credential|credentials|apikey|private[_-]?key)([_\-.]|$)"
    r"|^sslpassword$|^api[_-]?key$"
)


class Secret:
    """Hold a secret that can't print itself: ``repr``, ``str``, ``format`` and pickles show only ``***``.

    A pickled secret comes back empty-handed: :meth:`reveal` then raises ``LookupError``, because a secret that
    travels in a pickle ends in a queue, a cache or a crash report.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def reveal(self) -> str:
        """Return the secret itself. Call it at the last moment, where the driver needs it."""
        if self._value is None:
            raise LookupError("this secret was pickled, and pickles carry no secrets: load the settings again here")
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __getstate__(self) -> None:
        return None

    def __reduce__(self) -> tuple[object, ...]:
        return (_pickled_secret, ())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


def _pickled_secret() -> Secret:
    secret = Secret("")
    secret._value = None
    return secret


def is_secret_key(key: str) -> bool:
    """Return whether a setting, URL option or parameter called *key* must never be shown."""
    return _SECRET_KEY.search(key.lower()) is not None


def describe_value(value: object) -> str:
    """Return a parameter's type and length, never the value: ``<str:12>``, ``<int>``, ``<bytes:3>``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
        return f"<{name}:{len(value)}>"
    return f"<{name}>"


# Strings in their several quotings, comments (they may hold anything), and numbers that aren't part of a name.
_LITERAL = re.compile(
    r"""'(?:[^'\\]|''|\\.)*'?|\$(\w*)\$.*?(?:\$\1\$|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)|(?<![\w:$%@.])\d[\w.]*""", re.S
)


def mask_literals(sql: str) -> str:
    """Return *sql* with every literal and comment replaced by ``?``: bind markers and names stay."""
    return _LITERAL.sub("?", sql)
