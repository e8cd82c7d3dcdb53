"""Whether a statement provably only reads, so that it may be sent again when its reply was lost."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from prefiq_db.dialects.functions import Functions
from prefiq_db.execution.sql_tokens import QUOTED, Tokens, is_word

DATA_CHANGING: Final = frozenset({"insert", "update", "delete", "merge", "replace", "truncate"})
LOCKING: Final = (("for", "update"), ("for", "share"), ("for", "no"), ("for", "key"), ("lock", "in"))
_SEQUENCE: Final = (("next", "value"), ("previous", "value"))
# Words before an opening parenthesis that don't make it a function call.
_BEFORE_PARENTHESIS: Final = frozenset(
    """select from where and or not in as on using over filter values exists any all some union except intersect join
    by having when then else case between like distinct with recursive materialized limit offset lateral is end
    within group partition row array grouping sets rollup cube interval""".split()  # noqa: SIM905 - reads better
)
# What precedes a type and its length: CAST(x AS VARCHAR(20)), x::numeric(10, 2).
_BEFORE_TYPE: Final = ("as", "::")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of what a statement reads and calls.

    Attributes:
        sure: nothing in it changes anything, if all its functions are built-in ones.
        by_words: nothing but a function in it can change anything.
        takable: functions in it whose names a user-defined function may have.
        only_built_in: every function that it calls is certainly a built-in one.
    """

    sure: bool = False
    by_words: bool = False
    takable: frozenset[str] = frozenset()
    only_built_in: bool = False


def reading(first: str, words: list[str], tokens: Tokens, functions: Functions) -> Reading:
    """Judge one statement."""
    if tokens.doubtful or tokens.code_comment:
        return Reading()
    called = _called(tokens, functions)
    only_built_in = functions.harmless.issuperset(called) and functions.takable.isdisjoint(called)
    by_words = not _may_write(first, words)
    if not functions.harmless.issuperset(called) or not by_words:
        return Reading(by_words=by_words, only_built_in=only_built_in)
    return Reading(True, True, functions.takable.intersection(called), only_built_in)


def _may_write(first: str, words: list[str]) -> bool:
    """Return whether the words are those of a statement that changes or locks something."""
    known = set(words)
    if first not in ("select", "with") or known & (DATA_CHANGING - {"replace"}):
        return True
    if not known.isdisjoint(("into", "nextval")):
        return True
    return any(pair in LOCKING or pair in _SEQUENCE for pair in itertools.pairwise(words))


def _called(tokens: Tokens, functions: Functions) -> list[str]:
    """Return the functions that are called; ``""`` for one that is not on the list of built-in ones."""
    texts, called = tokens.texts, []
    for place in range(1, len(texts)):
        name, before = texts[place - 1], texts[place - 2] if place > 1 else ""
        if texts[place] != "(" or not (name == QUOTED or is_word(name)):
            continue
        if name in _BEFORE_PARENTHESIS or (before in _BEFORE_TYPE and name != QUOTED):
            continue
        if before == "into" or (before, name) == ("on", "conflict"):  # a table and its columns
            continue
        # A quoted name can be a call too, and a function in a schema may have a standard function's name.
        own = name == QUOTED or before == "." or (functions.glued and not is_glued(tokens, place))
        called.append("" if own else name)
    return called


def is_glued(tokens: Tokens, place: int) -> bool:
    """Return whether the token at *place* directly follows the one before."""
    return tokens.spans[place - 1][1] == tokens.spans[place][0]
