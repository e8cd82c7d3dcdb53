"""Mistakes with names: which mistake it is, its message, and which names may be shown.

A name from a server's message is only a candidate: the statement itself decides whether it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prefiq_db.errors import SubKind
from prefiq_db.translation.driver_reports import IDENTIFIER
from prefiq_db.translation.messages import Details
from prefiq_db.translation.mistake_templates import OBJECT, ROWS_FAULT, TEMPLATES
from prefiq_db.translation.statement_names import Written, without_values

_MISSING, _DUPLICATE, _AMBIGUOUS = SubKind.MISSING, SubKind.DUPLICATE, SubKind.AMBIGUOUS
_DEPENDENT, _WRONG_TYPE = SubKind.DEPENDENT, SubKind.WRONG_TYPE

# The question for a missing table or column.
_MIGRATED: Final = "are all migrations applied?"
_ARGUMENTS: Final = "check its name, and the number and types of its arguments"
_UNIQUE_NAME: Final = "choose another name, or drop the one that is there"
_FIRST_DROP: Final = "drop or change first what depends on it"
_NO_NAME: Final = "see .original for the name"
_FORGOTTEN: Final = "its name stands where a value would: is a quote or a bind forgotten? See .original"
_IN_A_MIGRATION: Final = "check the name, and what the revisions before this one leave"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, as a server's code and text report it.

    Attributes:
        noun: the sort of object: ``table``, ``column``, ``function``, ``index``.
        name: the server's name for it, not yet checked; the last part of a qualified name.
        table: the table that it belongs to, not yet checked, if the server names one.
        types: further facts, about types and not names.
    """

    sub_kind: SubKind | None
    noun: str
    name: str | None = None
    table: str | None = None
    types: str | None = None

    def words(self) -> tuple[str, str]:
        """Return what happened, and what to try."""
        special = _WORDS.get((self.sub_kind, self.noun))
        if special is not None:
            return special
        what, advice = _ANY_NOUN[self.sub_kind]
        noun = {OBJECT: "what the statement names"}.get(self.noun, _with_article(self.noun))
        return what.format(noun), advice

    def fact(self) -> str:
        """Return the name with its noun, as shown in parentheses."""
        return f"{self.noun if self.noun != OBJECT else 'name'} {self.name}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


_ANY_NOUN: Final[Mapping[SubKind | None, tuple[str, str]]] = {
    _MISSING: ("{} is missing", "check its name"),
    _DUPLICATE: ("{} of that name is there already", _UNIQUE_NAME),
    _AMBIGUOUS: ("the name of {} is ambiguous", "say which one is meant"),
    _DEPENDENT: ("other objects depend on {}", _FIRST_DROP),
    _WRONG_TYPE: ("the name stands for something else than {}", "see what has it, and say so in the statement"),
    None: ("{} can't be as it is defined", "see .original for the reason"),
}

_WORDS: Final[Mapping[tuple[SubKind | None, str], tuple[str, str]]] = {
    (_MISSING, "table"): ("a table is missing", _MIGRATED),
    (_MISSING, "column"): ("a column is missing", _MIGRATED),
    (_MISSING, "table alias"): (
        "a table is used that the statement doesn't have",
        "check FROM, JOIN and their aliases",
    ),
    (_MISSING, "function"): ("a function is missing, or takes other arguments", _ARGUMENTS),
    (_MISSING, "procedure"): ("a procedure is missing, or takes other arguments", _ARGUMENTS),
    (_DUPLICATE, "table alias"): ("two tables have one name in the statement", "give one of them an alias"),
    (_AMBIGUOUS, "column"): (
        "a column's name is ambiguous: several tables have it",
        "say which one's: table.column",
    ),
    (_WRONG_TYPE, OBJECT): (
        "the name stands for something else than the statement expects",
        "see what has it, and say so in the statement",
    ),
    (_DUPLICATE, OBJECT): ("the name is taken already", _UNIQUE_NAME),
    (_WRONG_TYPE, "operator"): ("an operator doesn't take sides of these types", "cast one of them"),
    (_WRONG_TYPE, "column"): ("what is given to a column has the wrong type", "give or cast it to the column's type"),
    (None, "foreign key"): (
        "a foreign key can't be made",
        "the column it refers to must be there, have the same type, and be a key or the first column of an index",
    ),
}


def may_be_mistake(dialect: str, code: str | int | None) -> bool:
    """Return whether *code* may mean a mistake with a name."""
    return code in TEMPLATES.get(dialect, {}) or code in ROWS_FAULT.get(dialect, ())


def find_mistake(dialect: str, code: str | int | None, text: str, written: Written | None) -> Mistake | None:
    """Return the mistake that *code* and *text* report, or ``None`` if it is none with a name."""
    if written is not None and written.is_ddl and code in ROWS_FAULT.get(dialect, ()):
        return Mistake(_DEPENDENT, "table")
    for template in TEMPLATES.get(dialect, {}).get(code, ()):
        found = template.text.fullmatch(text) if template.text else None
        if found is not None:
            groups = found.groupdict()
            noun = (groups.get("noun") if template.noun == OBJECT else None) or template.noun
            if code == "42P07" and written is not None:
                noun = written.defines or noun
            types = groups.get("types")
            return Mistake(template.sub_kind, noun.lower(), groups.get("name"), groups.get("table"), types)
        if template.text is None:
            return Mistake(template.sub_kind, template.noun)
    return None


def describe_mistake(
    mistake: Mistake, written: Written | None, *, believed: bool, migrating: bool, sentences: tuple[str, ...]
) -> Details:
    """Return the details of a mistake with a name.

    Args:
        believed: these are the server's own words, which no user can imitate.
        migrating: a migration runs.
        sentences: the server's; empty if a user wrote them.
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
        without_values(". ".join(each.rstrip(".") for each in sentences), written)
        if written is not None and is_ddl
        else ""
    )
    if mistake.name and written is not None and written.doubts(mistake.name) and not believed:
        advice = _FORGOTTEN
    elif advice == _MIGRATED and (migrating or is_ddl):
        advice = _IN_A_MIGRATION
    elif not sentence and not facts:
        advice += f" S{_NO_NAME[1:]}" if advice.endswith("?") else f"; {_NO_NAME}"
    return Details(names, tuple(facts), mistake.sub_kind, (what, advice), sentence)
