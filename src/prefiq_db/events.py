"""What happened, as frozen dataclasses: one event a statement, one an attempt. Never a value in any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefiq_db.errors import ErrorKind


@dataclass(frozen=True, slots=True)
class StatementStarted:
    """A statement is about to be sent.

    Attributes:
        database: the database's name.
        statement: the SQL text with bind markers (its literals masked).
        parameters: each bind's type and length: ``{"sku": "<str:2>"}``; for many rows, of the first.
        batch_size: how many rows the statement is executed with; 1 for a single one.
    """

    database: str
    statement: str
    parameters: Mapping[str, str]
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class StatementFinished:
    """A statement was answered. ``rows`` is the driver's row count, -1 where it can't tell."""

    database: str
    statement: str
    parameters: Mapping[str, str]
    duration_seconds: float
    rows: int
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class StatementFailed:
    """A statement failed."""

    database: str
    statement: str
    parameters: Mapping[str, str]
    duration_seconds: float
    kind: ErrorKind
    code: str | int | None
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt failed and another one follows after ``wait_seconds``."""

    database: str | None
    attempt: int
    wait_seconds: float
    kind: ErrorKind | None
    code: str | int | None


class Listener:
    """Base for listeners: override what you care for. One that raises is logged once and never breaks a query."""

    def statement_started(self, event: StatementStarted) -> None:
        """A statement is about to be sent."""

    def statement_finished(self, event: StatementFinished) -> None:
        """A statement was answered."""

    def statement_failed(self, event: StatementFailed) -> None:
        """A statement failed."""

    def attempt_failed(self, event: AttemptFailed) -> None:
        """An attempt failed and another one follows."""
