"""Where in a statement a Decimal may be bound on SQLite, which calculates with floats.

The float for a decimal is right where SQLite stores it, or compares it with a column or with the result of a function
that returns a column unchanged (``coalesce``, ``max``, ``CASE``): those are such floats themselves. The result of
``+``, ``*`` or ``sum`` in a text statement may be off by its last bit, so that ``price * 3 <= :limit`` finds other rows
than the other databases. Inside ``round(..., digits)`` it is right again. What isn't understood counts as wrong.
"""

from __future__ import annotations

import re
from typing import Final

from prefiq_db.memory import Memory

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<quoted>'[^']*+(?:''[^']*+)*+(?:'|\Z))
      | (?P<name>"[^"]*+(?:""[^"]*+)*+(?:"|\Z)|`[^`]*+(?:`|\Z)|\[[^\]]*+(?:\]|\Z))
      | (?P<word>[^\W\d][\w$]*)
      | (?P<number>\d[\w.]*|\.\d\w*)
      | (?P<mark>\|\||<<|>>|<>|[<>=!]=|->>?|.)""",
    re.S | re.X,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC: Final = _words("+ - * / % || << >> & | ~ -> ->>")
# Words that end an expression; after them another one begins.
_ENDS: Final = _words(
    """select distinct all from where and or not on using having by set values returning limit offset order group union
    except intersect join left inner cross natural do update insert delete into conflict as asc desc
    nulls collate with recursive ; ,"""
)
#: Functions that return one of their arguments, or round it.
_PASSES_ON: Final = _words("coalesce ifnull nullif min max iif abs lag lead first_value last_value")
_ROUNDS: Final = _words("round prefiq_exact prefiq_exact_add prefiq_exact_sub prefiq_exact_mul")
#: Our own functions, which Core writes: they add exactly.
_SUMS: Final = _words("prefiq_sum_any") | {f"prefiq_sum_{scale}" for scale in range(23)}
_COUNTS: Final = _words("count length")
_NUMBERS: Final = _words("numeric decimal real")
_NOT_FUNCTIONS: Final = _ENDS | _words("in exists any case when then else end between is like glob filter over")
_SUBQUERY: Final = _words("select with values")
_SELECTS: Final = _words("select distinct all")


_known: Final[Memory[tuple[bool, ...]]] = Memory(1024)


def right_places(sql: str) -> tuple[bool, ...]:
    """Return, for each ``?`` of *sql*, whether a Decimal bound there is compared or stored unchanged."""
    known = _known.kept.get(sql)
    return _known.keep(sql, _found(sql), sql) if known is None else known


def _found(sql: str) -> tuple[bool, ...]:
    tokens = _tokens(sql)
    text = _Text(tokens, _pairs(tokens))
    return tuple(_is_right(text, place) for place, token in enumerate(tokens) if token == "?")


def _tokens(sql: str) -> list[str]:
    """Return words in lower case and marks; a quoted text is ``'``, a quoted name ``\"`` and a number ``0``."""
    tokens = []
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind in ("word", "mark"):
            tokens.append(match.group().lower())
        elif kind != "skip":
            tokens.append("'" if kind == "quoted" else '"' if kind == "name" else "0")
    return _without_between(tokens)


def _without_between(tokens: list[str]) -> list[str]:
    """Return *tokens* with ``between`` and its ``and`` as comparison operators: neither ends the expression."""
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
    """Return the index of the matching parenthesis for each parenthesis."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token == "(":
            opened.append(place)
        elif token == ")" and opened:
            pairs[place] = opened.pop()
            pairs[pairs[place]] = place
    return pairs


class _Text:
    """Tokens, and facts about each index among them; computed once for all, so that each bind costs little.

    Attributes:
        pairs: for each parenthesis the index of the matching one.
        enclosing: where the innermost parenthesis around an index opens.
        begins: where the expression around an index begins.
        ends: the index after the expression around an index.
        clauses: the word that begins the clause, such as ``where``, around an index.
        calculated: the next index, from this one on, where something is calculated outside ``round(...)``.
    """

    def __init__(self, tokens: list[str], pairs: dict[int, int]) -> None:
        self.tokens, self.pairs = tokens, pairs
        self.enclosing: list[int | None] = []
        self.begins: list[int] = []
        self.clauses: list[str] = []
        self._forwards()
        self.ends = [len(tokens)] * (len(tokens) + 1)
        self.calculated = [len(tokens)] * (len(tokens) + 1)
        self._backwards()

    def _forwards(self) -> None:
        tokens, pairs = self.tokens, self.pairs
        opened: list[int] = []
        for place, token in enumerate(tokens):
            if token == ")" and place in pairs:
                opened.pop()
            self.enclosing.append(opened[-1] if opened else None)
            if token == "(" and place in pairs:
                opened.append(place)
            before = tokens[place - 1] if place else "("
            if before == "(" or before in _ENDS:
                self.begins.append(place)
            else:
                self.begins.append(self.begins[pairs.get(place - 1, place - 1) if before == ")" else place - 1])
            if place == 0 or (token in _ENDS and token not in _NO_CLAUSES):
                self.clauses.append(token)
            else:
                further = pairs[place] - 1 if token == ")" and place in pairs else place - 1
                self.clauses.append(self.clauses[max(further, 0)])

    def _backwards(self) -> None:
        tokens, pairs = self.tokens, self.pairs
        for place in range(len(tokens) - 1, -1, -1):
            token = tokens[place]
            if token == ")" or token in _ENDS:
                self.ends[place] = place
            else:
                self.ends[place] = self.ends[pairs.get(place, place) + 1 if token == "(" else place + 1]
            self.calculated[place] = self._next_calculated(place, token)

    def _next_calculated(self, place: int, token: str) -> int:
        if token in _ARITHMETIC and not _is_sign(self.tokens, place) and not _is_star(self.tokens, place):
            return place
        if token == "(":
            function = _function(self.tokens, place)
            if function in _ROUNDS or function in _COUNTS or function in _SUMS:
                return self.calculated[self.pairs.get(place, place) + 1]
            if function is not None and not _passes_on(self.tokens, self.pairs, place):
                return place
        return self.calculated[place + 1]

    def is_plain(self, start: int, end: int, begin: int) -> bool:
        """Return whether nothing is calculated from *start* to *end* of the expression that begins at *begin*."""
        if start == begin < end and self.tokens[start] in "+-":
            start += 1  # a sign
        return self.calculated[start] >= end


_NO_CLAUSES: Final = frozenset({",", "as", "and", "or", "not"})


def _is_right(text: _Text, place: int) -> bool:
    """Check the whole expression around *place*, from the inside to the outside."""
    tokens = text.tokens
    first = last = judged = place
    while True:
        opens = text.enclosing[first]
        begin, end = text.begins[first], text.ends[last + 1]
        name = _function(tokens, opens)
        if name in _ROUNDS:
            return True
        if not (text.is_plain(begin, first, begin) and text.is_plain(judged, end, begin)):
            return _is_rounded(text, opens)
        if opens is None:
            return True
        if tokens[opens + 1] in _SUBQUERY:
            if text.clauses[max(begin - 1, 0)] not in _SELECTS:
                return True
        elif name is not None and not _passes_on(tokens, text.pairs, opens):
            return False
        first, last = (opens if name is None else opens - 1), text.pairs[opens]
        # Its neighbours in a list of values don't matter; the other arguments of a function do.
        judged = last if name in (None, "cast") else opens + 1


def _passes_on(tokens: list[str], pairs: dict[int, int], opens: int) -> bool:
    """Return whether the function whose arguments begin there returns one of them unchanged."""
    if tokens[opens - 1] == "cast":
        inside = tokens[opens : pairs.get(opens, opens)]
        return "as" in inside and not _NUMBERS.isdisjoint(inside[inside.index("as") + 1 :][:1])
    return tokens[opens - 1] in _PASSES_ON or tokens[opens - 1] in _SUMS


def _is_rounded(text: _Text, opens: int | None) -> bool:
    """Return whether a ``round`` encloses it, in the same query."""
    while opens is not None and text.tokens[opens + 1] not in _SUBQUERY:
        if _function(text.tokens, opens) in _ROUNDS:
            return True
        opens = text.enclosing[opens]
    return False


def _function(tokens: list[str], opens: int | None) -> str | None:
    if not opens:
        return None
    name = tokens[opens - 1]
    return name if (name[0].isalpha() or name[0] == "_") and name not in _NOT_FUNCTIONS else None


def _is_sign(tokens: list[str], place: int) -> bool:
    before = tokens[place - 1] if place else ""
    return tokens[place] in "+-" and (before in ("", "(", ",", "=", "<", ">", "<=", ">=", "<>", "!=", "==", "between"))


def _is_star(tokens: list[str], place: int) -> bool:
    return tokens[place] == "*" and tokens[place - 1] in ("(", ".", ",", "select", "distinct")
