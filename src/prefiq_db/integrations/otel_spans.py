"""One span for each logical call, over all its attempts.

The span is created when the call has ended, with its start time and in the context in which it began: only then can the
sampler see its name and all attributes. See decisions/0050-why-is-a-span-made-when-its-call-has-ended.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind, StatusCode, Tracer

from prefiq_db.events import Origin, StatementEvent
from prefiq_db.integrations.conventions import (
    BATCH_SIZE,
    COLLECTION,
    ERROR_KIND,
    ERROR_TYPE,
    FILE,
    FUNCTION,
    LINE,
    NAMESPACE,
    OPERATION,
    RETRIES,
    RETURNED_ROWS,
    STATUS_CODE,
    SUMMARY,
    SYSTEM,
    TEXT,
    Value,
)
from prefiq_db.integrations.operations import Operation
from prefiq_db.products import dialects
from prefiq_db.urls import MEMORY

# The conventions: "The value of db.query.summary SHOULD be truncated to 255 characters".
_LONGEST_SUMMARY: Final = 255
_FILES: Final = dialects(where=lambda product: product.is_file)
# The conventions have no name for a request's tags.
_TAG: Final = "prefiq_db.tag."
# Verbs that take a table and an operation as arguments. Other calls have them only in their text, and the
# conventions rule out taking either attribute from there.
_NAMING_VERBS: Final = frozenset({"bulk_insert", "upsert"})
# Their statements are commands, which have a name and a collection of their own.
_SEND_COMMANDS: Final = dialects(where=lambda product: product.keeps_documents)


class Spans:
    """Creates the spans of one database."""

    def __init__(self, tracer: Tracer, identity: Mapping[str, Value]) -> None:
        self._tracer = tracer
        self._identity = identity
        # The conventions allow INTERNAL for in-memory databases; other processes can use a file too.
        in_memory = identity.get(NAMESPACE) == MEMORY and identity[SYSTEM] in _FILES
        self._kind = SpanKind.INTERNAL if in_memory else SpanKind.CLIENT

    def operation_ended(self, operation: Operation) -> None:
        attributes = {**self._identity, **describe_request(operation, self._identity), **describe_failure(operation)}
        span = self._tracer.start_span(
            self._name(attributes, operation),
            context=operation.context,
            kind=self._kind,
            attributes=attributes,
            start_time=operation.started_ns,
        )
        if span.is_recording():
            span.set_attributes(_describe_result(operation))
            if operation.kind is not None:
                # No description: the conventions put the server's message there, which quotes values.
                span.set_status(StatusCode.ERROR)
        span.end(operation.ended_ns)

    def _name(self, attributes: Mapping[str, Value], operation: Operation) -> str:
        if summary := attributes.get(SUMMARY):
            return str(summary)
        statement = operation.statement
        target = str(attributes.get(NAMESPACE, ""))
        if statement is not None and statement.operation:
            return " ".join(filter(None, (statement.operation, next(iter(statement.tables), target))))
        return target or str(self._identity[SYSTEM])


def describe_request(operation: Operation, identity: Mapping[str, Value]) -> dict[str, Value]:
    """Return the attributes that describe the statement to the database of *identity*."""
    statement = operation.statement
    if statement is None:
        return {}
    attributes: dict[str, Value] = {TEXT: statement.statement}
    if summary := summary_of(statement):
        attributes[SUMMARY] = summary
    if statement.batch_size > 1:
        attributes[BATCH_SIZE] = statement.batch_size
    return attributes | describe_names(operation, identity)


def describe_names(operation: Operation, identity: Mapping[str, Value]) -> dict[str, Value]:
    """Return the names of the operation and of what it is about, where they are known and not read from a text."""
    statement = operation.statement
    is_command = identity.get(SYSTEM) in _SEND_COMMANDS
    if statement is None or not statement.operation or not (is_command or operation.verb in _NAMING_VERBS):
        return {}
    attributes: dict[str, Value] = {OPERATION: ("" if is_command else _batch(statement)) + statement.operation}
    if len(statement.tables) == 1:
        attributes[COLLECTION] = statement.tables[0]
    return attributes


def summary_of(statement: StatementEvent) -> str:
    """Return ``db.query.summary``; ``""`` when there is none."""
    return (_batch(statement) + statement.summary)[:_LONGEST_SUMMARY] if statement.summary else ""


def _batch(statement: StatementEvent) -> str:
    return "BATCH " if statement.batch_size > 1 else ""


def describe_failure(operation: Operation) -> dict[str, Value]:
    """Return the attributes that describe the failure: codes and kinds, never a message."""
    if operation.kind is None:
        return {}
    attributes: dict[str, Value] = {ERROR_TYPE: operation.kind.value}
    if operation.code is not None:
        attributes[ERROR_TYPE] = attributes[STATUS_CODE] = str(operation.code)
    return attributes


def _describe_result(operation: Operation) -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    if operation.rows >= 0:
        attributes[RETURNED_ROWS] = operation.rows
    if operation.retries:
        attributes[RETRIES] = operation.retries
    if operation.kind is not None:
        attributes[ERROR_KIND] = operation.kind.value
    if operation.statement is not None:
        attributes |= {f"{_TAG}{name}": value for name, value in operation.statement.tags.items()}
    if origin := operation.origin or (operation.statement and operation.statement.origin):
        attributes |= _where(origin)
    return attributes


def _where(origin: Origin) -> dict[str, Value]:
    return {FILE: origin.file, LINE: origin.line, FUNCTION: origin.function}
