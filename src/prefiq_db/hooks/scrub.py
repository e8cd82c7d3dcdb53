"""Take the values out of SQLAlchemy's own exceptions, for those who use ``engine`` and ``session()``.

The verbs translate what is raised. ``engine`` and ``session()`` promise SQLAlchemy's exceptions, and those quote
values: in the driver's text, in literals of the statement, in ``params`` and in pickles. Classes, codes and names stay.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import StatementError

from prefiq_db.dialects.translate import code_of, translate
from prefiq_db.masking import border_translates, mask_literals

# What names things among psycopg's DiagnosticField, by number; the others quote values.
_NAMING_FIELDS: Final = {
    83: "severity",
    67: "sqlstate",
    115: "schema_name",
    116: "table_name",
    99: "column_name",
    100: "datatype_name",
    110: "constraint_name",
}


def scrub_errors(engine: Engine, dialect: str, database: str) -> None:
    """Scrub every error of *engine* that our border does not translate."""

    @event.listens_for(engine, "handle_error")
    def scrub(context: ExceptionContext) -> None:
        if border_translates.get():
            return
        raised = context.sqlalchemy_exception
        original = context.original_exception
        if not isinstance(original, Exception):
            return
        code = code_of(original)
        message = str(translate(original, dialect=dialect, database=database))
        if context.statement is not None or code is not None:
            _scrub_driver(original, code, message)
        if raised is not None:
            _scrub_sqlalchemy(raised, message)


def _scrub_driver(error: Any, code: object, message: str) -> None:
    diagnostics = getattr(error, "diag", None)
    if diagnostics is not None and hasattr(error, "_info"):
        error._info = {
            field: value.encode()
            for field, name in _NAMING_FIELDS.items()
            if (value := getattr(diagnostics, name, None)) is not None
        }
    # PyMySQL's and asyncmy's errors carry their number first, and SQLAlchemy reads it there.
    error.args = (code, message) if isinstance(code, int) and error.args[:1] == (code,) else (message,)


def _scrub_sqlalchemy(error: StatementError, message: str) -> None:
    error.args = (f"({type(error.orig).__name__}) {message}",)
    error.params = None
    if error.statement is not None:
        error.statement = mask_literals(error.statement)
