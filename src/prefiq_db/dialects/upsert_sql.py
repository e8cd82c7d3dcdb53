"""INSERT that updates the row it conflicts with, in each database's words."""

from __future__ import annotations

import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql import visitors

from prefiq_db.dialects.sending import ONE_STATEMENT
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, UniqueViolationError, UnsupportedError, UsageError
from prefiq_db.memory import Memory

#: Returns a column's new value, as an expression, given the columns of the stored row and those of the given row.
NewValue = Callable[[Any, Any], Any]

#: What SQLAlchemy may put into one INSERT; our chunks are smaller.
_ONE_BATCH: Final = 10**9

# Building a statement costs more than sending it.
_kept: Final[Memory[Any]] = Memory(512)


def _keep(asked: Hashable, make: Callable[[], Any]) -> Any:
    known = _kept.kept.get(asked)
    return _kept.keep(asked, make()) if known is None else known


@dataclass(frozen=True, slots=True)
class Wanted:
    """One upsert, without its rows.

    Attributes:
        table: the table.
        key: the keys, in ``table.c``, of the columns that may conflict.
        update: for each column to update, its key and its new value; empty: leave the stored row as it is.
        returning: the columns to return.
        signature: the same for two upserts whose statements are the same; ``None``: it can't be known.
    """

    table: sa.Table
    key: tuple[str, ...]
    update: Mapping[str, NewValue]
    returning: tuple[sa.Column[Any], ...] = ()
    signature: Hashable = None

    @property
    def key_columns(self) -> list[sa.Column[Any]]:
        return [self.table.c[name] for name in self.key]


class UpsertSql(ABC):
    """How one database words an upsert.

    Attributes:
        returns_all: RETURNING has a row for each given row, also where nothing was to be updated.
        looks_first: whether a row was there can only be seen by looking before, under a lock that keeps others out.
        refuses_same: the database itself refuses a statement in which it takes two keys for the same.
        names_no_key: the statement doesn't name the key, so a key that the database doesn't have would never conflict.
    """

    returns_all: ClassVar[bool] = False
    looks_first: ClassVar[bool] = False
    refuses_same: ClassVar[bool] = False
    names_no_key: ClassVar[bool] = False

    def statement(self, wanted: Wanted, *, returns: bool = True, tells: bool = True) -> Any:
        """Return the INSERT for any number of rows.

        Its result has first whether the row was inserted, then as many columns as the key, then ``wanted.returning``.

        Args:
            returns: whether the server has INSERT ... RETURNING.
            tells: whether the table lets the server tell an inserted row from an updated one.
        """
        if wanted.signature is None:
            return self._statement(wanted, returns, tells)
        asked = (type(self), wanted.table, wanted.signature, wanted.returning, returns, tells)
        return _keep(asked, lambda: self._statement(wanted, returns, tells))

    def _statement(self, wanted: Wanted, returns: bool, tells: bool) -> Any:
        made = self._insert(wanted, tells=returns and tells)
        if not returns:
            return made
        mark = self._mark() if tells else [sa.null()]
        columns = [each.label(f"prefiq_mark_{place}") for place, each in enumerate(mark)]
        listed = [*wanted.key_columns, *wanted.returning] if wanted.returning else []
        # Labels: a column may be listed twice.
        named = [each.label(f"prefiq_{place}") for place, each in enumerate(listed)]
        options = {ONE_STATEMENT: True, "insertmanyvalues_page_size": _ONE_BATCH}
        return made.returning(*columns, *named).execution_options(**options)

    @property
    def mark_width(self) -> int:
        """How many columns of the result say whether the row was inserted."""
        return 1

    @abstractmethod
    def _insert(self, wanted: Wanted, *, tells: bool) -> Any: ...

    @abstractmethod
    def _mark(self) -> list[Any]: ...

    def asks_about(self, table: sa.Table, dialect: Any) -> sa.Executable | None:
        """Return the question whether a row of *table* tells if it was inserted; ``None``: it always does."""
        return None

    def explained(self, error: PrefiqDbError, wanted: Wanted) -> PrefiqDbError | None:
        """Return the error that *error* of an upsert stands for, if it is another one."""
        return None


class _OnConflict(UpsertSql):
    """``ON CONFLICT (key) DO UPDATE``: a conflict of any other key is an error of the server's."""

    make: ClassVar[Callable[..., Any]]

    def _insert(self, wanted: Wanted, *, tells: bool) -> Any:
        made = type(self).make(wanted.table)
        if not wanted.update:
            return made.on_conflict_do_nothing(index_elements=wanted.key_columns)
        values = {name: new(wanted.table.c, made.excluded) for name, new in wanted.update.items()}
        return made.on_conflict_do_update(index_elements=wanted.key_columns, set_=values)


class PostgresqlUpsert(_OnConflict):
    """The server tells: a row that an UPDATE wrote has the number of its transaction in xmax, a new one has 0."""

    make: ClassVar[Callable[..., Any]] = staticmethod(postgresql.insert)
    refuses_same = True

    def _mark(self) -> list[Any]:
        return [sa.literal_column("(xmax = 0)", sa.Boolean())]

    def asks_about(self, table: sa.Table, dialect: Any) -> sa.Executable | None:
        # A partitioned table and a view have no system columns. A name that isn't there fails in the INSERT.
        name = dialect.identifier_preparer.format_table(table)
        return sa.text(
            "SELECT NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class"
            " WHERE oid = pg_catalog.to_regclass(:name) AND relkind <> 'r')"
        ).bindparams(name=name)

    def explained(self, error: PrefiqDbError, wanted: Wanted) -> PrefiqDbError | None:
        return same_for_the_database(wanted, error) if error.code == "21000" and wanted.update else None


class SqliteUpsert(_OnConflict):
    """Nothing in the result tells, but a transaction that writes is alone, so it may look first."""

    make: ClassVar[Callable[..., Any]] = staticmethod(sqlite.insert)
    looks_first = True

    def _mark(self) -> list[Any]:
        return [sa.literal_column("1", sa.Integer())]


class MariadbUpsert(UpsertSql):
    """``ON DUPLICATE KEY UPDATE`` with a guard: it updates the row that any unique key meets, whichever comes first.

    The first assignment fails the whole statement unless the row that was met has the given key. It is evaluated
    under the lock of that row. See docs/decisions/0107-why-mariadbs-upsert-has-a-guard.md.
    """

    returns_all = True
    names_no_key = True
    _TOO_MANY_ROWS: ClassVar[int] = 1242

    def _insert(self, wanted: Wanted, *, tells: bool) -> Any:
        table = wanted.table
        made = mysql.insert(table)
        values = {name: new(table.c, made.inserted) for name, new in wanted.update.items()}
        ordered = in_order_of_assignment(values, table)
        if not ordered:
            ordered = [(wanted.key[0], table.c[wanted.key[0]])]
        (name, first), *others = ordered
        same = self._has_the_key(wanted, made.inserted)
        if tells:
            # Always true. Called when the row was there; a call with a constant would also run before the first row.
            of_the_row = sa.case((made.inserted[wanted.key[0]].is_(None), sa.literal_column("0")), else_=_mark_bind())
            same = sa.and_(same, sa.func.last_insert_id(of_the_row) > sa.literal_column("0"))
        guarded = sa.func.if_(same, first, _fails(), type_=table.c[name].type)
        return made.on_duplicate_key_update([(name, guarded), *others])

    def _has_the_key(self, wanted: Wanted, given: Any) -> Any:
        """Return the condition that the row that was met has the key that was given."""
        return sa.and_(*(each.bool_op("<=>")(given[each.key]) for each in wanted.key_columns))

    def _mark(self) -> list[Any]:
        # For each row in turn: the guard's number is there only if the guard ran for this row.
        return [sa.func.last_insert_id() != _mark_bind(), sa.func.last_insert_id(sa.literal_column("0"))]

    @property
    def mark_width(self) -> int:
        return 2

    def explained(self, error: PrefiqDbError, wanted: Wanted) -> PrefiqDbError | None:
        if error.code != self._TOO_MANY_ROWS:
            return None
        return UniqueViolationError(
            f"a row of the upsert meets another row of {wanted.table.name} by a unique key other than "
            f"({', '.join(wanted.key)}); nothing was changed",
            code=error.code,
            database=error.database,
            table=wanted.table.name,
            classification=ErrorClass(ErrorKind.UNIQUE),
            original=error.original,
        )


def _mark_bind() -> Any:
    # A new number for each execution: the session still has the number of a statement that failed.
    return sa.bindparam("prefiq_mark", callable_=_new_mark, type_=sa.BigInteger())


def _new_mark() -> int:
    return next(_marks)


# Not of the module random, which an application may seed: then two executions would have the same number.
_marks: Final = itertools.count((secrets.randbits(30) << 32) + 1)


def _fails() -> Any:
    """Return a subquery of two rows: an error wherever one value is expected, in every SQL mode."""
    return sa.select(sa.null()).union_all(sa.select(sa.null())).scalar_subquery()


def in_order_of_assignment(values: Mapping[str, Any], table: sa.Table) -> list[tuple[str, Any]]:
    """Return *values* so that none reads a column of *table* that was assigned before it.

    MariaDB assigns from left to right, and an expression sees what was assigned already; in standard SQL all of them
    see the row as it was.

    Raises:
        UnsupportedError: if two columns need each other's old value.
    """
    reads = {name: _columns_read(value, table) & values.keys() - {name} for name, value in values.items()}
    ordered: list[tuple[str, Any]] = []
    while reads:
        # A column may be assigned when nothing that is still to come reads it.
        free = [name for name in reads if not any(name in read for other, read in reads.items() if other != name)]
        if not free:
            raise UnsupportedError(
                f"update: {' and '.join(sorted(reads))} need each other's old value, and MariaDB assigns one after the "
                "other; update them in a statement of their own",
                table=table.name,
            )
        ordered += [(name, values[name]) for name in free]
        for name in free:
            del reads[name]
    return ordered


def _columns_read(value: Any, table: sa.Table) -> set[str]:
    return {
        each.key
        for each in visitors.iterate(value)
        if isinstance(each, sa.Column)
        and each.key in table.c
        and each.shares_lineage(table.c[each.key])
        # The columns of the given row are those of an alias, which share the lineage, too.
        and not isinstance(each.table, sa.Alias)
    }


def same_for_the_database(wanted: Wanted, error: PrefiqDbError | None = None) -> UsageError:
    """Return the error for two keys that only the database takes for the same."""
    return UsageError(
        f"rows: two of them have the same key ({', '.join(wanted.key)}) for the database, which may ignore the case of "
        "letters, accents, blanks at the end or digits; nothing was changed",
        table=wanted.table.name,
        database=None if error is None else error.database,
        code=None if error is None else error.code,
        original=None if error is None else error.original,
    )


# --- the rows of some keys -----------------------------------------------------------------------------------------

KEYS: Final = "prefiq_keys"


def _with_keys(wanted: Wanted) -> Any:
    columns = wanted.key_columns
    asked: Any = sa.bindparam(KEYS, expanding=True)
    return columns[0].in_(asked) if len(columns) == 1 else sa.tuple_(*columns).in_(asked)


def count_of_keys(wanted: Wanted) -> Any:
    """Return the SELECT for how many rows have the keys in the bind :data:`KEYS`."""

    def make() -> Any:
        # Locked, or MariaDB would count what the transaction saw when it began to read.
        counted = sa.select(sa.func.count()).select_from(wanted.table)
        return counted.where(_with_keys(wanted)).with_for_update(read=True)

    return _keep(("count", wanted.table, wanted.key), make)


def rows_of_keys(wanted: Wanted) -> Any:
    """Return the SELECT for the rows with the keys in the bind :data:`KEYS`, locked: key columns first."""
    listed = [*wanted.key_columns, *wanted.returning]
    named = [each.label(f"prefiq_{place}") for place, each in enumerate(listed)]
    return sa.select(*named).where(_with_keys(wanted)).with_for_update(read=True)


def bound_keys(keys: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the params for both."""
    return {KEYS: [key[0] for key in keys] if len(keys[0]) == 1 else list(keys)}


def widths(names: Iterable[str], table: sa.Table) -> int:
    """Return how many binds one row has, when *names* are given: SQLAlchemy adds the Python-side defaults."""
    given = set(names)
    return len(given) + sum(1 for each in table.c if each.key not in given and each.default is not None)
