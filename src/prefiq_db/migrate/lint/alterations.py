"""Parse the ALTER TABLE text of a revision, clause by clause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from alembic.operations import ops

from prefiq_db.migrate.lint.revision_reader import Step
from prefiq_db.migrate.lint.texts import split

_ALTER: Final = re.compile(r"ALTER (?:ONLINE |IGNORE )*TABLE (?:IF EXISTS )?(?:ONLY )?(?P<table>\S+) (?:\* )?", re.I)
_COLUMN: Final = r"(?P<column>[^\s()]+)"
_ADDED: Final = rf"(?:IF NOT EXISTS )?{_COLUMN}"
_KINDS: Final = tuple(
    (kind, re.compile(pattern, re.I))
    for kind, pattern in (
        ("add-unique", r"ADD (?:CONSTRAINT (?:\S+ )?)?UNIQUE\b"),
        ("add-checked", r"ADD (?:CONSTRAINT (?:\S+ )?)?(?P<column>FOREIGN KEY|CHECK)\b"),
        ("", r"ADD (?:CONSTRAINT|PRIMARY|INDEX|KEY|FULLTEXT|SPATIAL|PARTITION|EXCLUDE|PERIOD|SYSTEM)\b"),
        ("add-columns", r"ADD (?:COLUMN )?\("),
        ("add-column", rf"ADD (?:COLUMN )?{_ADDED}"),
        ("set-not-null", rf"ALTER (?:COLUMN )?{_COLUMN} SET NOT NULL\b"),
        ("type", rf"ALTER (?:COLUMN )?{_COLUMN} (?:SET DATA )?TYPE\b"),
        ("modify", rf"MODIFY (?:COLUMN )?(?:IF EXISTS )?{_COLUMN}"),
        ("change", rf"CHANGE (?:COLUMN )?(?:IF EXISTS )?{_COLUMN} (?P<new>\S+)"),
        ("", r"RENAME (?:CONSTRAINT|INDEX|KEY)\b"),
        ("rename", r"RENAME\b"),
        ("", r"DROP (?:CONSTRAINT|INDEX|KEY|CHECK|FOREIGN|PRIMARY|PARTITION|PERIOD|SYSTEM)\b"),
        ("drop-column", rf"DROP (?:COLUMN )?(?:IF EXISTS )?{_COLUMN}"),
    )
)


@dataclass(frozen=True, slots=True)
class Clause:
    """One change in an ALTER TABLE.

    Attributes:
        kind: as in ``_KINDS``; empty if no rule is about it.
        column: the column it changes, if that is known.
        sql: its text; what stands in parentheses is left out.
        renames: whether a ``CHANGE`` gives another name.
    """

    table: str
    kind: str
    column: str
    sql: str
    renames: bool = False

    def says(self, words: str) -> bool:
        return re.search(rf"\b(?:{words})\b", self.sql, re.I) is not None

    @property
    def subject(self) -> str:
        return f"{self.table}.{self.column}" if self.column else self.table


def clauses_of(step: Step) -> Iterator[Clause]:
    """Yield the clauses of an ALTER TABLE that a revision contains as text."""
    if not isinstance(step.operation, ops.ExecuteSQLOp):
        return
    for sql in step.sql:
        if altered := _ALTER.match(sql):
            table = altered["table"].split(".")[-1].strip('`"[]')
            for part in split(sql[altered.end() :].split(" "), ","):
                yield from _clauses(table, part)


def _clauses(table: str, words: list[str]) -> Iterator[Clause]:
    sql = _outside(words)
    kind, found = next(((kind, found) for kind, pattern in _KINDS if (found := pattern.match(sql))), ("", None))
    if kind == "add-columns":
        inside = words[words.index("(") + 1 : -1]
        for part in split(inside, ","):
            yield from _clauses(table, ["ADD", "COLUMN", *part])
        return
    named = {} if found is None else found.groupdict()
    column = (named.get("column") or "").strip('`"[]')
    new = (named.get("new") or "").strip('`"[]')
    yield Clause(table, kind, column, sql, renames=bool(new) and new.lower() != column.lower())


def _outside(words: list[str]) -> str:
    depth, kept = 0, []
    for word in words:
        depth -= word == ")"
        if depth == 0:
            kept.append(word)
        depth += word == "("
    return " ".join(kept)
