"""The table that rows go into: a Core ``Table``, an ORM class, or a name, which is looked up in the database once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, Table, UniqueConstraint
from sqlalchemy import exc as sa_exc
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.elements import ColumnClause

from prefiq_db.errors import SchemaError, SubKind, UsageError
from prefiq_db.memory import Memory

#: Reads a table's columns and keys from the database, by schema (``None``: the connection's own) and name.
Reflect = Callable[[str | None, str], Table]

_MOST_TABLES: Final = 256
# Longer than any database's names; an error message quotes no more of one.
_LONGEST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """Columns of which no two rows have the same values.

    Attributes:
        name: the constraint's or index's name; ``None`` if the metadata gives it none.
        columns: the keys of its columns in the ``Table``, in the key's order.
        is_primary: whether it is the primary key.
    """

    name: str | None
    columns: tuple[str, ...]
    is_primary: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A table, and the names by which rows may call its columns.

    Attributes:
        table: SQLAlchemy's table.
        names: a column's key in ``table.c`` by the name that rows use: the attribute of an ORM class, the key or the
            name of a column.
        is_reflected: it was given by name, so everything known of it was read from the database.
    """

    table: Table
    names: Mapping[str, str]
    is_reflected: bool = False

    def column(self, name: Any) -> Column[Any]:
        """Return the column that rows call *name*, or that a ``Column`` or an attribute of an ORM class stands for.

        Raises:
            UsageError: if there is none; it lists those that exist.
        """
        if isinstance(name, ColumnClause) and name.key in self.table.c:
            return self.table.c[name.key]  # an attribute of the ORM class may have that name, but another column
        called = name if isinstance(name, str) else getattr(name, "key", None)
        key = self.names.get(called) if isinstance(called, str) else None
        if key is None:
            shown = called[:_LONGEST_NAME] if isinstance(called, str) else f"<{type(name).__name__}>"
            raise UsageError(
                f"{self.table.name} has no column {shown}; it has {', '.join(self.names)}",
                table=self.table.name,
                sub_kind=SubKind.MISSING,
            )
        return self.table.c[key]

    def unique_keys(self) -> tuple[UniqueKey, ...]:
        """Return the keys that the ``Table`` knows, the primary key first; of a reflected one these are all.

        A unique index over an expression, or with a condition, is left out: no list of columns says when it conflicts.
        """
        return unique_keys(self.table)


class TargetTables:
    """The tables that one database was asked for by name; at most 256 are remembered.

    Attributes:
        schema: the namespace that a tenant's names without a schema are of; ``None``: the session's own.
    """

    def __init__(self, schema: str | None = None) -> None:
        self.schema = schema
        self._reflected: Memory[Table] = Memory(_MOST_TABLES)

    def resolve(self, table: Any, reflect: Reflect) -> Target:
        """Return the target for *table*; *reflect* is called for a name that is not remembered.

        Raises:
            UsageError: if it is neither a ``Table``, nor an ORM class with a table of its own, nor a name.
            SchemaError: if the database has no table of that name.
        """
        if isinstance(table, Table):
            return Target(table, _names_in(table))
        if isinstance(table, str):
            return self._named(table, reflect)
        return _mapped(table)

    def reflected(self, target: Target, reflect: Reflect) -> Table:
        """Return *target*'s table as the database describes it, with all its keys."""
        return target.table if target.is_reflected else self._look_up(target.table.schema, target.table.name, reflect)

    def forget(self, target: Target) -> None:
        """Read *target*'s table again when it is used next: it turned out to be another one by now."""
        self._reflected.kept.pop((target.table.schema, str(target.table.name)), None)

    def _named(self, name: str, reflect: Reflect) -> Target:
        schema, _, bare = name.rpartition(".")
        if not bare or name.startswith(".") or "\0" in name or len(name) > 2 * _LONGEST_NAME:
            raise UsageError(
                "table: expected a table's name such as 'item' or 'sales.item', without quotes; for a name with a dot "
                "in it pass a Table"
            )
        table = self._look_up(schema or None, bare, reflect)
        return Target(table, _names_in(table), is_reflected=True)

    def _look_up(self, schema: str | None, name: str, reflect: Reflect) -> Table:
        known = self._reflected.kept.get((schema, name))
        if known is not None:
            return known
        try:
            table = reflect(schema, name)
        except sa_exc.NoSuchTableError:
            pass  # raised below, where the error has no context
        else:
            return self._reflected.keep((schema, name), table, name, *table.c.keys())
        shown = name if schema is None else f"{schema}.{name}"
        raise SchemaError(f"there is no table {shown}", table=name, sub_kind=SubKind.MISSING)


def reflect_on(connection: Connection) -> Reflect:
    """Return a function that reads tables on *connection*; SQLAlchemy quotes the names."""

    def reflect(schema: str | None, name: str) -> Table:
        # resolve_fks: the tables that it refers to are of no interest.
        return Table(name, MetaData(), schema=schema, autoload_with=connection, resolve_fks=False)

    return reflect


def unique_keys(table: Table) -> tuple[UniqueKey, ...]:
    """Return the unique keys that *table* knows, the primary key first."""
    found: dict[tuple[str, ...], UniqueKey] = {}
    primary = table.primary_key
    if len(primary.columns):
        columns = tuple(column.key for column in primary.columns)
        found[columns] = UniqueKey(_written(primary.name), columns, is_primary=True)
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            columns = tuple(column.key for column in constraint.columns)
            found.setdefault(columns, UniqueKey(_written(constraint.name), columns))
    for index in table.indexes:
        expressions = list(index.expressions)
        if index.unique and not _has_condition(index) and all(isinstance(each, Column) for each in expressions):
            columns = tuple(each.key for each in expressions if isinstance(each, Column))
            found.setdefault(columns, UniqueKey(_written(index.name), columns))
    return tuple(sorted(found.values(), key=lambda key: (not key.is_primary, key.columns)))


def update_key(target: Target, keys: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the columns that find the row to update: the primary key, or else the one unique key that is given."""
    whole = [key for key in target.unique_keys() if set(key.columns) <= set(keys)]
    if len(whole) > 1 and not whole[0].is_primary:
        named = "; ".join(", ".join(key.columns) for key in whole)
        raise UsageError(f"on_conflict='update': several unique keys are given ({named}); use upsert(key=...)")
    if not whole:
        exist = "; ".join(", ".join(key.columns) for key in target.unique_keys()) or "none"
        raise UsageError(
            "on_conflict='update': the rows need all columns of the primary key or of a unique key; "
            f"{target.table.name} has: {exist}"
        )
    return tuple(target.table.c[name] for name in whole[0].columns)


def _has_condition(index: Any) -> bool:
    return any(options.get("where") is not None for options in index.dialect_options.values())


def _written(name: Any) -> str | None:
    return str(name) if isinstance(name, str) else None


def _names_in(table: Table) -> Mapping[str, str]:
    names = {column.key: column.key for column in table.c}
    for column in table.c:
        names.setdefault(column.name, column.key)
    return names


def _mapped(given: Any) -> Target:
    mapper: Any = sa_inspect(given, raiseerr=False) if isinstance(given, type) else None
    if not isinstance(mapper, Mapper) or not isinstance(mapper.local_table, Table):
        shown = given.__name__ if isinstance(given, type) else type(given).__name__
        raise UsageError(f"table: expected a Table, an ORM class mapped to one, or a table's name, not {shown}")
    table = mapper.local_table
    names: dict[str, str] = {}
    for attribute in mapper.column_attrs:
        for column in attribute.columns:
            if isinstance(column, Column) and column.table is table:
                names[attribute.key] = column.key
    for name, key in _names_in(table).items():
        names.setdefault(name, key)
    return Target(table, names)
