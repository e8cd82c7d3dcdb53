"""Comparisons in place of Alembic's own, so that ``check`` finds all changes and nothing else.

An Alembic plugin, for server defaults, computed columns, fractional seconds and the CHECKs of enums. Not Alembic's
``compare_server_default=function``: Alembic calls that for an identity column's default too, and fails there with an
AttributeError.
"""

from __future__ import annotations

import re
from typing import Any, Final

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy.dialects import mysql
from sqlalchemy.sql.elements import conv

from prefiq_db.migrate.defaults import NULL, Default, Literal, compile_sql, default_sql, read_default, read_reported_sql
from prefiq_db.migrate.expressions import same_default, same_expression
from prefiq_db.types import StrEnum, UtcDateTime
from prefiq_db.types.choices import CHECKS_COLUMN

PLUGIN: Final = "prefiq_db.autogenerate"
_COMPUTED: Final = "prefiq_computed"
_TEXTS: Final = re.compile(r"'((?:[^']|'')*)'")

_GO_ON, _DECIDED = PriorityDispatchResult.CONTINUE, PriorityDispatchResult.STOP


def setup(plugin: Plugin) -> None:
    """Register the comparators with Alembic."""
    plugin.add_autogenerate_comparator(
        compare_server_default, "column", "server_default", priority=DispatchPriority.FIRST
    )
    plugin.add_autogenerate_comparator(compare_fractions, "column", "types", priority=DispatchPriority.FIRST)
    plugin.add_autogenerate_comparator(compare_enum_checks, "table", "enum_checks")
    plugin.add_autogenerate_comparator(make_computed_anew, "table", "computed", priority=DispatchPriority.LAST)


def compare_fractions(
    context: AutogenContext,
    change: ops.AlterColumnOp,
    schema: str | None,
    table: str,
    column: str,
    found: sa.Column[Any],
    wanted: sa.Column[Any],
) -> PriorityDispatchResult:
    """Find MariaDB's DATETIME without fractions where an instant should be; for Alembic both are DATETIME."""
    counts_microseconds = getattr(found.type, "fsp", None) == 6
    if isinstance(wanted.type, UtcDateTime) and isinstance(found.type, mysql.DATETIME) and not counts_microseconds:
        change.existing_type = found.type
        change.modify_type = wanted.type
        return _DECIDED
    return _GO_ON


def compare_server_default(
    context: AutogenContext,
    change: ops.AlterColumnOp,
    schema: str | None,
    table: str,
    column: str,
    found: sa.Column[Any],
    wanted: sa.Column[Any],
) -> PriorityDispatchResult:
    """Compare values with values and ask the server about expressions; leave the undecided to Alembic."""
    assert context.migration_context is not None
    assert context.connection is not None
    if context.migration_context._user_compare_server_default is False:
        return _GO_ON
    dialect = context.migration_context.dialect
    if isinstance(wanted.server_default, sa.Identity) and not dialect.supports_identity_columns:
        return _DECIDED  # there it is AUTO_INCREMENT or a rowid, and not a default
    if isinstance(found.server_default, sa.Computed) or isinstance(wanted.server_default, sa.Computed):
        return _compare_computed(context.connection, change, found, wanted)
    is_now = read_default(found.server_default, wanted.type, dialect)
    should_be = read_default(wanted.server_default, wanted.type, dialect)
    if NULL in (is_now, should_be) and None in (found.server_default, wanted.server_default):
        return _DECIDED
    if is_now is None or should_be is None:
        return _GO_ON
    change.existing_server_default = found.server_default
    same = _same(context.connection, found, wanted, is_now, should_be)
    if same is None:
        return _GO_ON
    if not same:
        change.modify_server_default = wanted.server_default
    return _DECIDED


def _same(
    connection: sa.Connection, found: sa.Column[Any], wanted: sa.Column[Any], is_now: Default, should_be: Default
) -> bool | None:
    if is_now == should_be or is_now == _without_quotes(wanted, connection.dialect):
        return True
    told_back, in_metadata = (default_sql(each.server_default, connection.dialect) for each in (found, wanted))
    answer = same_default(found, told_back, in_metadata, connection)
    if answer is None and isinstance(is_now, Literal) and isinstance(should_be, Literal):
        return False  # two values, and not the same
    return answer


def _without_quotes(wanted: sa.Column[Any], dialect: sa.Dialect) -> Default | None:
    """Return the default that Alembic renders for the text ``"'new'"``: it takes the quotes for SQL's."""
    text = getattr(wanted.server_default, "arg", None)
    if not isinstance(text, str) or not text.startswith("'") or not text.endswith("'"):
        return None
    return read_default(sa.DefaultClause(text[1:-1]), wanted.type, dialect)


# --- computed columns --------------------------------------------------------------------------------


def _compare_computed(
    connection: sa.Connection, change: ops.AlterColumnOp, found: sa.Column[Any], wanted: sa.Column[Any]
) -> PriorityDispatchResult:
    is_now, should_be = found.server_default, wanted.server_default
    if isinstance(is_now, sa.Computed) and isinstance(should_be, sa.Computed):
        stored = {each.persisted for each in (is_now, should_be)} - {None}
        expressions = read_reported_sql(is_now.sqltext), compile_sql(should_be.sqltext, connection.dialect)
        same = len(stored) < 2 and same_expression(found, *expressions, connection)
        if same is None:
            return _GO_ON  # Alembic compares the texts, and warns
        if same:
            return _DECIDED
    change.existing_server_default, change.modify_server_default = is_now, should_be
    change.kw[_COMPUTED] = (found, wanted)
    return _DECIDED


def make_computed_anew(
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    table: str,
    found: sa.Table | None,
    wanted: sa.Table | None,
) -> PriorityDispatchResult:
    """Drop each computed column that has changed and add it again, with its indexes: no database alters one."""
    for change in list(changes.ops):
        if isinstance(change, ops.AlterColumnOp) and _COMPUTED in change.kw:
            changes.ops.remove(change)
            _make_anew(changes, schema, table, *change.kw[_COMPUTED])
    return _GO_ON


def _make_anew(
    changes: ops.ModifyTableOps, schema: str | None, table: str, found: sa.Column[Any], wanted: sa.Column[Any]
) -> None:
    old, new = _indexes(found), _indexes(wanted)
    names = {each.name for each in (*old, *new)}
    # We handle these indexes here: Alembic's own operations would meet a column that doesn't exist then.
    changes.ops = [each for each in changes.ops if _index_name(each) not in names]
    changes.ops += [_drop(each) for each in old]
    changes.ops += [
        ops.DropColumnOp.from_column_and_tablename(schema, table, found),
        ops.AddColumnOp.from_column_and_tablename(schema, table, wanted),
    ]
    changes.ops += [_create(each) for each in new]


def _indexes(column: sa.Column[Any]) -> list[sa.Index | sa.UniqueConstraint]:
    """Return the indexes that contain the column; the database reports a unique constraint as an index, too."""
    uniques = [each for each in column.table.constraints if isinstance(each, sa.UniqueConstraint)]
    all_: list[sa.Index | sa.UniqueConstraint] = [*column.table.indexes, *uniques]
    by_name = {str(each.name): each for each in all_}
    return [by_name[name] for name in sorted(by_name) if column in by_name[name].columns.values()]


def _index_name(change: Any) -> Any:
    index = isinstance(change, (ops.CreateIndexOp, ops.DropIndexOp))
    unique = isinstance(change, ops.CreateUniqueConstraintOp) or getattr(change, "constraint_type", "") == "unique"
    return change.index_name if index else change.constraint_name if unique else object()


def _drop(index: sa.Index | sa.UniqueConstraint) -> ops.MigrateOperation:
    return (
        ops.DropIndexOp.from_index(index)
        if isinstance(index, sa.Index)
        else ops.DropConstraintOp.from_constraint(index)
    )


def _create(index: sa.Index | sa.UniqueConstraint) -> ops.MigrateOperation:
    if isinstance(index, sa.Index):
        return ops.CreateIndexOp.from_index(index)
    return ops.CreateUniqueConstraintOp.from_constraint(index)


# --- enums -------------------------------------------------------------------------------------------


def compare_enum_checks(
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    table: str,
    found: sa.Table | None,
    wanted: sa.Table | None,
) -> PriorityDispatchResult:
    """Find an enum whose members differ from its CHECK; Alembic compares no CHECK."""
    if found is None or wanted is None or not any(isinstance(column.type, StrEnum) for column in wanted.columns):
        return _GO_ON
    inspector = sa.inspect(context.connection)
    assert inspector is not None
    told = {check["name"]: check["sqltext"] for check in inspector.get_check_constraints(table, schema=schema)}
    for check in wanted.constraints:
        column = _enum_column(check, wanted)
        if column is None or column.name not in found.columns:
            continue  # a new column brings its own
        name = conv(str(check.name))  # complete already: no convention may add to it
        if name in told and _values(told[name]) == set(column.type.values):
            continue
        if name in told:
            old = sa.CheckConstraint(sa.text(told[name]), name=name, table=found)
            changes.ops.append(ops.DropConstraintOp.from_constraint(old))
        changes.ops.append(ops.CreateCheckConstraintOp(name, table, column.type.check_sql(column.name), schema=schema))
    return _GO_ON


def _enum_column(constraint: Any, table: sa.Table) -> Any:
    column = table.columns.get(constraint.info.get(CHECKS_COLUMN, ""))
    return column if column is not None and isinstance(column.type, StrEnum) else None


def _values(sql: str) -> set[str]:
    """Return the texts in a CHECK, however the database formats it."""
    return {text.replace("''", "'").replace("\\'", "'") for text in _TEXTS.findall(sql.replace("\\'", "''"))}
