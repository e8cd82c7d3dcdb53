"""The statements of ``batch()``: check what the caller gave, and name the one that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable

from prefiq_db.call import Call, Overrides
from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.execution.binds import bind_params, check_params
from prefiq_db.execution.refused_statements import commit_refused, hidden_refused, refuse_everywhere
from prefiq_db.execution.shapes import OUTCOME
from prefiq_db.execution.statement_facts import as_executable, facts_of


def items_of(statements: Iterable[Any], given: Overrides, label: str) -> list[Call]:
    """Return a call for each of *statements*, for the database kind *label*.

    Raises:
        UsageError: if they aren't statements, or one can't be sent; ``statement_index`` tells which.
        StatementRefusedError: if one would end the transaction.
    """
    if isinstance(statements, (str, bytes, Mapping, Executable)) or not isinstance(statements, Iterable):
        raise UsageError("statements: expected a list of statements, or of pairs (statement, params)")
    return [_item(number, each, given, label) for number, each in enumerate(statements)]


def _item(number: int, given_statement: Any, given: Overrides, label: str) -> Call:
    try:
        statement, params = _pair(given_statement)
        executable = bind_params(as_executable(statement), check_params(params), label)
        refuse_in_transaction(executable, label)
        return Call("batch", executable, params, OUTCOME, given)
    except PrefiqDbError as error:
        name_statement(error, number)
        raise


def _pair(given: Any) -> Sequence[Any]:
    if not isinstance(given, (tuple, list)):
        return given, None
    if len(given) != 2:
        raise UsageError(f"expected a statement, or a pair (statement, params), not {len(given)} parts")
    return given


def refuse_in_transaction(statement: Executable, label: str) -> None:
    """Raise if *statement* can't be part of a transaction, as far as its text shows it."""
    facts = facts_of(statement, label)
    refuse_everywhere(facts)
    if facts.commits:
        raise commit_refused(label, facts.commits)
    if facts.hidden:
        raise hidden_refused(label)


def name_statement(error: PrefiqDbError, number: int) -> None:
    """Say in *error* that statement *number* of the batch, counted from 0, failed with it."""
    if error.statement_index is None:
        error.statement_index = number
        error.args = (f"statements[{number}]: {error}", *error.args[1:])
