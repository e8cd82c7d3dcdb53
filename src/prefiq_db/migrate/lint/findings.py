"""The linter's findings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One unsafe operation of a revision, on one kind of database.

    Attributes:
        revision, file, line: where.
        dialect: on which database; empty if it is about the file itself.
        rule: its name, as in ``docs/layering-alembic.md``.
        message: what would happen.
        safe_way: what to do instead.
    """

    revision: str
    file: str
    line: int
    dialect: str
    rule: str
    message: str
    safe_way: str

    def __str__(self) -> str:
        where = f"{self.dialect}: " if self.dialect else ""
        return f"{self.file}:{self.line}: {where}{self.rule}: {self.message}. Safe: {self.safe_way}"
