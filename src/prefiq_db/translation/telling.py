"""Say a mistake with a name: which names may be told, in which words, and a definition's error in the server's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from prefiq_db.errors import SubKind
from prefiq_db.translation.mistakes import MIGRATED, Mistake
from prefiq_db.translation.written import Written, without_values

# Identifiers as people write them. Anything else (blanks, quotes, a name longer than any server allows) could be a
# value in disguise and is left out.
IDENTIFIER: Final = re.compile(r"[^\W\d][\w$]{0,63}")

# SQLSTATE classes of what a definition meets in the rows, or in who uses them: the first sentence has only names.
_OF_DEFINITIONS: Final = ("23", "40", "55", "57")
_NO_NAME: Final = "see .original for the name"
_FORGOTTEN: Final = "its name stands where a value would: is a quote or a bind forgotten? See .original"
_IN_A_MIGRATION: Final = "check the name, and what the revisions before this one leave"


@dataclass(frozen=True, slots=True)
class Telling:
    """What is told of an error besides its kind.

    Attributes:
        names: constraint, table and column, for the error's attributes.
        facts: what stands in brackets.
        words: what happened and what to try, instead of the kind's own words.
        sentence: the server's own words, of a definition (DDL); ``""`` otherwise.
        place: host and port, or a path, of a connection that could not be made.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    sub_kind: SubKind | None = None
    words: tuple[str, str] | None = None
    sentence: str = ""
    place: str = ""


def tell_names(names: Mapping[str, str], written: Written | None) -> Telling:
    """Tell the names that a server's template gave, without those that are values of the statement."""
    kept = {noun: name for noun, name in names.items() if written is None or not written.quotes(name)}
    return Telling(kept, tuple(f"{noun} {name}" for noun, name in kept.items()))


def tell_definition(told: Telling, dialect: str, code: object, sentence: str, written: Written | None) -> Telling:
    """Tell what a server said of a definition (DDL) that broke on rows or locks."""
    if dialect != "postgresql" or str(code)[:2] not in _OF_DEFINITIONS or written is None or not written.is_ddl:
        return told
    return replace(told, sentence=without_values(sentence, written))


def tell_mistake(
    mistake: Mistake, written: Written | None, *, believed: bool, migrating: bool, said: tuple[str, ...]
) -> Telling:
    """Tell a mistake with a name.

    Args:
        believed: the server's own words, which nobody can imitate.
        migrating: a migration runs.
        said: the server's sentences; none, when somebody else wrote them.
    """

    def is_shown(name: str) -> bool:
        if IDENTIFIER.fullmatch(name) is None:
            return False
        if believed:
            return written is None or not written.quotes(name)
        return written is not None and written.says(name)

    names: dict[str, str] = {}
    if mistake.table and is_shown(mistake.table):
        names["table"] = mistake.table
    facts = [f"{noun} {name}" for noun, name in names.items()]
    if mistake.name and is_shown(mistake.name):
        facts.append(mistake.fact())
        if mistake.noun in ("table", "column"):
            names[mistake.noun] = mistake.name
    if mistake.types:
        facts.append(f"operator {mistake.types}" if mistake.noun == "operator" else mistake.types)
    is_ddl = written is not None and written.is_ddl
    what, advice = mistake.words()
    sentence = (
        without_values(". ".join(each.rstrip(".") for each in said), written) if written is not None and is_ddl else ""
    )
    if mistake.name and written is not None and written.doubts(mistake.name) and not believed:
        advice = _FORGOTTEN
    elif advice == MIGRATED and (migrating or is_ddl):
        advice = _IN_A_MIGRATION
    elif not sentence and not facts:
        advice += f" S{_NO_NAME[1:]}" if advice.endswith("?") else f"; {_NO_NAME}"
    return Telling(names, tuple(facts), mistake.sub_kind, (what, advice), sentence)
