"""Names of constraints and indexes that are the same, and short enough, on every database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa

#: PostgreSQL truncates names at 63 bytes, MariaDB refuses more than 64 characters, SQLite takes any.
MAX_NAME_BYTES: Final = 63
_HASH_DIGITS: Final = 8


def fit_name(name: str) -> str:
    """Return *name*, or if it is too long its beginning and a hash of all of it: the same on every database."""
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]
    kept = encoded[: MAX_NAME_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}_{digest}"


def _columns(constraint: Any) -> list[str]:
    if isinstance(constraint, sa.ForeignKeyConstraint):
        return list(constraint.column_keys)
    return [column.name for column in constraint.columns]


def _by_columns(prefix: str) -> Callable[[Any, sa.Table], str]:
    def name(constraint: Any, table: sa.Table) -> str:
        columns = _columns(constraint)
        if not columns:
            raise sa.exc.InvalidRequestError(f"an index or constraint of {table.name} without columns needs a name")
        return fit_name("_".join((prefix, table.name, *columns)))

    return name


def _primary_key(constraint: Any, table: sa.Table) -> str:
    return fit_name(f"pk_{table.name}")


def _foreign_key(constraint: sa.ForeignKeyConstraint, table: sa.Table) -> str:
    referred = constraint.elements[0].target_fullname.split(".")[-2]
    return fit_name("_".join(("fk", table.name, *constraint.column_keys, referred)))


def _check(constraint: Any, table: sa.Table) -> str:
    if isinstance(constraint.name, str):
        return fit_name(f"ck_{table.name}_{constraint.name}")
    if constraint._type_bound:  # Boolean and Enum with create_constraint=True: of one column
        return _check_of_column(constraint, table)
    raise sa.exc.InvalidRequestError(f"a CHECK of {table.name} needs a name: CheckConstraint(..., name='positive')")


_check_of_column = _by_columns("ck")

#: For ``MetaData(naming_convention=naming_convention)``: ``pk_<table>``, ``uq_``, ``ix_`` and ``fk_<table>_<columns>``
#: (and the referred table), ``ck_<table>_<name>``, each within 63 bytes.
naming_convention: Final[Mapping[str, Any]] = {
    "fitted_pk": _primary_key,
    "fitted_uq": _by_columns("uq"),
    "fitted_ix": _by_columns("ix"),
    "fitted_fk": _foreign_key,
    # Because "constraint_name" is in the token, SQLAlchemy requires explicit names for it, too.
    "fitted_constraint_name": _check,
    "pk": "%(fitted_pk)s",
    "uq": "%(fitted_uq)s",
    "ix": "%(fitted_ix)s",
    "fk": "%(fitted_fk)s",
    "ck": "%(fitted_constraint_name)s",
}


def misfit_names(metadata: sa.MetaData) -> list[str]:
    """Return what in *metadata* has a name that doesn't fit every database, or has none; for your own tests.

    A CHECK, unique constraint or foreign key without a name can't be dropped by the same SQL on all of them.
    """
    return sorted(misfit for table in metadata.tables.values() for misfit in _misfits(table))


def _misfits(table: sa.Table) -> Iterator[str]:
    for kind, name in _names(table):
        if name is None:
            yield f"{table.name}: {kind} without a name"
        elif len(name.encode()) > MAX_NAME_BYTES:
            yield f"{table.name}: {kind} {name} has more than {MAX_NAME_BYTES} bytes"


def _names(table: sa.Table) -> Iterable[tuple[str, str | None]]:
    yield "table", table.name
    for column in table.columns:
        yield "column", column.name
    for index in table.indexes:
        yield "index", index.name
    for constraint in table.constraints:
        if constraint is table.primary_key:
            if table.primary_key.name is not None:
                yield "primary key", str(table.primary_key.name)
        elif isinstance(constraint.name, str) or not _name_later(constraint, table):
            name = constraint.name
            yield type(constraint).__name__, name if isinstance(name, str) else None


def _name_later(constraint: Any, table: sa.Table) -> bool:
    """Return whether it is the CHECK of a Boolean or Enum, which the convention names when DDL is compiled."""
    return bool(getattr(constraint, "_type_bound", False)) and "ck" in table.metadata.naming_convention
