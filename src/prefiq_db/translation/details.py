"""Details of an error besides its kind: names, facts, and the server's own sentence about a definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from sqlalchemy import exc

from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.connecting import find_noted, find_reason
from prefiq_db.translation.driver_reports import Report
from prefiq_db.translation.messages import Details
from prefiq_db.translation.name_mistakes import describe_mistake, find_mistake, may_be_mistake
from prefiq_db.translation.statement_names import Written, may_define, read_statement, without_values

# SQLSTATE classes of definitions that fail on existing rows or locks: the first sentence holds only names.
_OF_DEFINITIONS: Final = ("23", "40", "55", "57")


def describe_statement(error: Exception, report: Report, dialect: str, *, migrating: bool) -> Details:
    """Return the details of a statement's error; *error* is SQLAlchemy's, which holds the statement."""
    mixes_values = report.driver is not None and report.driver.mixes_values
    statement = getattr(error, "statement", None) if isinstance(error, exc.StatementError) else None
    if not may_be_mistake(dialect, report.code) and not (mixes_values and report.names) and not may_define(statement):
        return _describe_names(report.names, None)
    written = read_statement(statement, getattr(error, "params", None), dialect)
    # SIGNAL can set any number and any text.
    details = _describe_names(report.names, written if mixes_values else None)
    mistake = find_mistake(dialect, report.code, "" if report.by_user else report.text, written)
    if mistake is None:
        return details if report.by_user else _add_definition(details, dialect, report, written)
    if details.facts and not mistake.name:
        return replace(details, sub_kind=mistake.sub_kind, words=mistake.words())
    # In SQLite, nobody can raise one of its codes with a text of his own, except code 1, in a virtual table.
    believed = dialect == "sqlite" and report.code != 1
    sentences = () if report.by_user else (report.text, *report.more)
    return describe_mistake(mistake, written, believed=believed, migrating=migrating, sentences=sentences)


def _describe_names(names: Mapping[str, str], written: Written | None) -> Details:
    """Return the server's names, without those that are values of the statement."""
    kept = {noun: name for noun, name in names.items() if written is None or not written.quotes(name)}
    return Details(kept, tuple(f"{noun} {name}" for noun, name in kept.items()))


def _add_definition(details: Details, dialect: str, report: Report, written: Written | None) -> Details:
    """Add the server's sentence about a definition (DDL) that failed on rows or locks."""
    if dialect != "postgresql" or str(report.code)[:2] not in _OF_DEFINITIONS or written is None or not written.is_ddl:
        return details
    return replace(details, sentence=without_values(report.text, written))


def describe_connecting(error: Exception, original: Exception, found: ErrorClass, text: str) -> Details:
    """Return the details of a failed connection attempt."""
    connecting = find_noted(error, getattr(error, "orig", None), original)
    why = None
    if found.kind is ErrorKind.CONNECT_FAILED:
        why = find_reason(original, text or str(original), connecting)
    return Details(words=why, place="" if connecting is None else connecting.place)
