"""Keep secrets and values out of everything that leaves the process."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

from prefiq_db.products import PRODUCTS

MASK: Final = "***"

# True while our border will translate every error, so that no other code needs to remove the values.
border_translates: ContextVar[bool] = ContextVar("prefiq_db_border_translates", default=False)

# Matched against whole lower-case words of a key, so "passenger" is not a password.
_SECRET_KEY = re.compile(
    r"(^|[_\-.])(pass|passwd|password|pwd|secret|token|credential|credentials|apikey|private[_-]?key)([_\-.]|$)"
    r"|^sslpassword$|^api[_-]?key$|^scram_(client|server)_key$"
)


class Secret:
    """A secret that can't be printed: ``repr``, ``str``, ``format`` and pickles show only ``***``.

    A pickled secret loses its value: :meth:`reveal` then raises ``LookupError``, because pickles end up in a queue, a
    cache or a crash report.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: str | None = value

    def reveal(self) -> str:
        """Return the secret itself. Call it as late as possible, where the driver needs it."""
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


def _pickled_secret() -> Secret:  # pickles name it, so the name stays
    secret = Secret("")
    secret._value = None
    return secret


def is_secret_key(key: str) -> bool:
    """Return whether a setting, URL option or parameter called *key* must never be shown."""
    return _SECRET_KEY.search(key.lower()) is not None


# Looked up, because it is done for each parameter of each statement that somebody listens to.
_UNSIZED: Final[dict[type, str]] = {type(None): "None", int: "<int>", float: "<float>", bool: "<bool>"}


def describe_value(value: object) -> str:
    """Return a parameter's type and length, never the value: ``<str:12>``, ``<int>``, ``<bytes:3>``, ``None``."""
    kind = type(value)
    if kind in _UNSIZED:
        return _UNSIZED[kind]
    name = kind.__name__
    if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
        return f"<{name}:{len(value)}>"
    return f"<{name}>"


# The meaning of a quote mark depends on the dialect; read wrongly, the inside of a string looks like names. Where a
# text can be read in two ways, the rest of it counts as a literal.
_REST: Final = r".*"
_QUOTED: Final = r"{0}(?:[^{0}\\]|{0}{0})*(?:{0}|\Z|\\.*)"  # a backslash escapes on some servers, in some modes
_IN_BACKTICKS: Final = r"(?P<name>`(?:[^`]|``)*(?:`|\Z))"
_BLOCK_COMMENT: Final = r"/\*(?:(?!/\*).)*?(?:\*/|\Z)|/\*.*"  # PostgreSQL nests them, the others don't
_LINE_COMMENT: Final = r"--[^\n]*"
_NUMBER: Final = r"(?<![\w:$@])\.?\d[\w.]*"


def _literals(*dialects: str) -> re.Pattern[str]:
    return re.compile("|".join((_QUOTED.format("'"), *dialects, _BLOCK_COMMENT, _NUMBER)), re.S)


_STRING_IN_DOUBLE_QUOTES: Final = _QUOTED.format('"')
_BLANK_AFTER_DASHES: Final = r"--(?=\s|\Z)[^\n]*"
_MYSQL_LITERAL: Final = _literals(_STRING_IN_DOUBLE_QUOTES, _IN_BACKTICKS, _BLANK_AFTER_DASHES, r"\#[^\n]*")
_BY_RULES: Final = {
    "postgresql": _literals(r"(?P<name>\"(?:[^\"]|\"\")*(?:\"|\Z))", r"\$(\w*)\$.*?(?:\$\2\$|\Z)", _LINE_COMMENT),
    # SQLite takes "x" for a string if no column is called x.
    "sqlite": _literals(_STRING_IN_DOUBLE_QUOTES, r"(?P<name>`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z))", _LINE_COMMENT),
    "mysql": _MYSQL_LITERAL,
    "": _literals(
        _STRING_IN_DOUBLE_QUOTES,
        _IN_BACKTICKS,
        rf"\$\w*\${_REST}",
        rf"\[[^\[\]'\"]*['\"]{_REST}",
        _BLANK_AFTER_DASHES,
        rf"--{_REST}",
        rf"\#{_REST}",
    ),
}
_LITERAL: Final = {product.dialect: _BY_RULES[product.literals] for product in PRODUCTS.values()}


#: How many characters of a statement are searched for names and may leave the process; see docs/observability.md.
LONGEST_SHOWN: Final = 10_000


def head_of(sql: str) -> str:
    """Return the beginning of *sql*, usually all of it. A literal that is cut in two is still masked."""
    return sql if len(sql) <= LONGEST_SHOWN else sql[:LONGEST_SHOWN]


def mask_statement(sql: str, dialect: str = "", *, masked: bool = True) -> str:
    """Return *sql* in a form that may leave the process: cut to a bounded length, and without its literals."""
    head = head_of(sql)
    made = mask_literals(head, dialect) if masked else head
    return made if len(head) == len(sql) else f"{made} ... (cut: it has {len(sql)} characters)"


def mask_literals(sql: str, dialect: str = "") -> str:
    """Return *sql* with every literal and comment replaced by ``?``: bind markers and names stay.

    Without *dialect* the result is safe for every dialect: more may be masked, including names in double quotes, which
    are strings on MariaDB and may be on SQLite.
    """
    return _LITERAL.get(dialect, _BY_RULES[""]).sub(_mask_match, sql)


_SQLITE_NAMES: Final = _literals(
    r"(?P<name>\"(?:[^\"]|\"\")*(?:\"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z))", _LINE_COMMENT
)
_LITERAL_AROUND_TABLES: Final = {
    product.dialect: {**_BY_RULES, "sqlite": _SQLITE_NAMES}[product.literals] for product in PRODUCTS.values()
}


def mask_for_tables(sql: str, dialect: str) -> str:
    """Return *sql* as :func:`mask_literals` does, but keep SQLite's ``"x"``, which is a name in a table's place.

    Only for code that uses nothing but the table names.
    """
    return _LITERAL_AROUND_TABLES.get(dialect, _BY_RULES[""]).sub(_mask_match, sql)


def _mask_match(match: re.Match[str]) -> str:
    return match.group() if match.lastgroup == "name" else "?"
