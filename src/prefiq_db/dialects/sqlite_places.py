"""Where in a statement a Decimal may stand on SQLite, which has floats to calculate with.

The float that stands for a decimal is right where SQLite stores it, or compares it with a column or with what passes
columns on (``coalesce``, ``max``, ``CASE``): those are such floats themselves. What ``+``, ``*`` or ``sum`` of a text
statement gives may be off by a last bit, so that ``price * 3 <= :limit`` finds other rows than the other databases.
Inside ``round(..., digits)`` it is right again. What isn't understood counts as wrong.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<quoted>'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])
      | (?P<word>[^\W\d][\w$]*)
      | (?P<number>\d[\w.]*|\.\d\w*)
      | (?P<mark>\|\||<<|>>|<>|[<>=!]=|->>?|.)""",
    re.S | re.X,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC: Final = _words("+ - * / % || << >> & | ~ -> ->>")
# An expression ends here; what comes next is another one.
_ENDS: Final = _words(
    """select distinct all from where and or not on using having by set values returning limit offset order group union
    except intersect join left inner cross natural do update insert delete into conflict as asc desc
    nulls collate with recursive ; ,"""
)
#: They give one of their arguments, or round.
_PASSES_ON: Final = _words("coalesce ifnull nullif min max iif abs lag lead first_value last_value")
_ROUNDS: Final = _words("round prefiq_exact prefiq_exact_add prefiq_exact_sub prefiq_exact_mul")
#: Ours, which Core writes: they add exactly.
_SUMS: Final = _words("prefiq_sum_any") | {f"prefiq_sum_{scale}" for scale in range(23)}
_COUNTS: Final = _words("count length")
_NUMBERS: Final = _words("numeric decimal real")
_NOT_FUNCTIONS: Final = _ENDS | _words("in exists any case when then else end between is like glob filter over")
_SUBQUERY: Final = _words("select with values")
_SELECTS: Final = _words("select distinct all")


@lru_cache(maxsize=1024)
def right_places(sql: str) -> tuple[bool, ...]:
    """Return for each ``?`` of *sql* whether a Decimal that is bound there is compared or stored as it is."""
    tokens = _tokens(sql)
    pairs = _pairs(tokens)
    return tuple(_is_right(tokens, pairs, place) for place, token in enumerate(tokens) if token == "?")


def _tokens(sql: str) -> list[str]:
    """Return words in small letters and marks; a quoted text is ``'``, a quoted name ``\"`` and a number ``0``."""
    tokens = []
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind in ("word", "mark"):
            tokens.append(match.group().lower())
        elif kind != "skip":
            tokens.append("'" if kind == "quoted" else '"' if kind == "name" else "0")
    return _without_between(tokens)


def _without_between(tokens: list[str]) -> list[str]:
    """Return *tokens* with ``between`` and its own ``and`` as comparisons: neither ends the expression."""
    waiting: list[int] = []
    depth, found = 0, []
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "between":
            waiting.append(depth)
        elif token == "and" and waiting and waiting[-1] == depth:
            waiting.pop()
            found.append("between")
            continue
        found.append(token)
    return found


def _pairs(tokens: list[str]) -> dict[int, int]:
    """Return for each parenthesis the place of the other one."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token == "(":
            opened.append(place)
        elif token == ")" and opened:
            pairs[place] = opened.pop()
            pairs[pairs[place]] = place
    return pairs


def _is_right(tokens: list[str], pairs: dict[int, int], place: int) -> bool:
    """Look at the whole expression that *place* takes part in, from the inside to the outside."""
    first = last = judged = place
    while True:
        opens = _enclosing(pairs, first)
        begin, end = _begin(tokens, pairs, first), _end(tokens, pairs, last)
        name = _function(tokens, opens)
        if name in _ROUNDS:
            return True
        if not (_is_plain(tokens, pairs, begin, first) and _is_plain(tokens, pairs, judged, end, begin)):
            return _is_rounded(tokens, pairs, opens)
        if opens is None:
            return True
        if tokens[opens + 1] in _SUBQUERY:
            if _clause(tokens, pairs, begin) not in _SELECTS:
                return True
        elif name is not None and not _passes_on(tokens, pairs, opens):
            return False
        first, last = (opens if name is None else opens - 1), pairs[opens]
        # Its neighbours in a list of values are no business of it; what else a function is given is.
        judged = last if name in (None, "cast") else opens + 1


def _passes_on(tokens: list[str], pairs: dict[int, int], opens: int) -> bool:
    """Return whether the function whose arguments begin there gives one of them as it is."""
    if tokens[opens - 1] == "cast":
        inside = tokens[opens : pairs[opens]]
        return "as" in inside and inside[inside.index("as") + 1] in _NUMBERS
    return tokens[opens - 1] in _PASSES_ON or tokens[opens - 1] in _SUMS


def _is_rounded(tokens: list[str], pairs: dict[int, int], opens: int | None) -> bool:
    """Return whether a ``round`` stands around it, in the same query."""
    while opens is not None and tokens[opens + 1] not in _SUBQUERY:
        if _function(tokens, opens) in _ROUNDS:
            return True
        opens = _enclosing(pairs, opens)
    return False


def _clause(tokens: list[str], pairs: dict[int, int], begin: int) -> str:
    """Return the word that begins the clause, such as ``where``, in which an expression begins there."""
    place = begin - 1
    while place > 0 and (tokens[place] not in _ENDS or tokens[place] in (",", "as", "and", "or", "not")):
        place = pairs[place] - 1 if tokens[place] == ")" and place in pairs else place - 1
    return tokens[max(place, 0)]


def _enclosing(pairs: dict[int, int], place: int) -> int | None:
    """Return where the innermost parenthesis around *place* opens."""
    return max((opens for opens, closes in pairs.items() if opens < place < closes), default=None)


def _function(tokens: list[str], opens: int | None) -> str | None:
    if not opens:
        return None
    name = tokens[opens - 1]
    return name if (name[0].isalpha() or name[0] == "_") and name not in _NOT_FUNCTIONS else None


def _begin(tokens: list[str], pairs: dict[int, int], place: int) -> int:
    """Return where the expression around *place* begins."""
    while place > 0:
        before = tokens[place - 1]
        if before == "(" or before in _ENDS:
            return place
        place = pairs.get(place - 1, place - 1) if before == ")" else place - 1
    return 0


def _end(tokens: list[str], pairs: dict[int, int], place: int) -> int:
    """Return the place behind the expression around *place*."""
    place += 1
    while place < len(tokens):
        token = tokens[place]
        if token == ")" or token in _ENDS:
            return place
        place = pairs.get(place, place) + 1 if token == "(" else place + 1
    return len(tokens)


def _is_plain(tokens: list[str], pairs: dict[int, int], start: int, end: int, begin: int | None = None) -> bool:
    """Return whether nothing in a part of an expression is calculated, other than inside ``round(...)``."""
    place, begin = start, start if begin is None else begin
    while place < end:
        token = tokens[place]
        if token in _ARITHMETIC and not _is_sign(tokens, place, begin) and not _is_star(tokens, place):
            return False
        if token == "(":
            function = _function(tokens, place)
            if function in _ROUNDS or function in _COUNTS or function in _SUMS:
                place = pairs.get(place, place)
            elif function is not None and not _passes_on(tokens, pairs, place):
                return False
        place += 1
    return True


def _is_sign(tokens: list[str], place: int, begin: int) -> bool:
    before = tokens[place - 1] if place > begin else ""
    return tokens[place] in "+-" and (before in ("", "(", ",", "=", "<", ">", "<=", ">=", "<>", "!=", "==", "between"))


def _is_star(tokens: list[str], place: int) -> bool:
    return tokens[place] == "*" and tokens[place - 1] in ("(", ".", ",", "select", "distinct")
