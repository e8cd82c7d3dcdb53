"""Find the row and the column of a value that can't be passed to the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from prefiq_db.errors import UsageError


def placed(error: UsageError, rows: Sequence[Mapping[str, Any]], table: sa.Table, dialect: Any) -> UsageError:
    """Return the error that names the row and the column of *error*, which was raised for one of many *rows*.

    If none of the given values is refused for the same reason, that is *error* itself.
    """
    _, _, reason = str(error).partition(": ")
    for number, row in enumerate(rows):
        for name, value in row.items():
            column = table.c[name]
            if reason and _refusal(column, value, dialect) == reason:
                return UsageError(f"rows[{number}]: column {name}: {reason}", column=name, table=table.name)
    return error


def _refusal(column: sa.Column[Any], value: Any, dialect: Any) -> str:
    """Return why *value* can't be passed, or ``""``."""
    convert = column.type._cached_bind_processor(dialect)
    try:
        dialect.values.one({column.key: value if convert is None else convert(value)}, "", None, _knows_none)
    except (UsageError, sa_exc.StatementError) as error:
        return str(error).partition(": ")[2]
    except (TypeError, ValueError, AttributeError, LookupError):
        return ""  # the column type's own words, which the error has already
    return ""


def _knows_none(context: Any, kind: type) -> bool:
    return False
