"""What is compared otherwise than Alembic does: so that ``check`` finds what changed, and only that.

An Alembic plugin, for server defaults, fractions of seconds and the CHECKs of enums. Not Alembic's
``compare_server_default=function``: that is called with an identity column's default too, and ends with an
AttributeError there.
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

from prefiq_db.migrate.defaults import Expression, default_of
from prefiq_db.types import StrEnum, UtcDateTime
from prefiq_db.types.choices import CHECKS_COLUMN

PLUGIN: Final = "prefiq_db.autogenerate"
_TEXTS: Final = re.compile(r"'((?:[^']|'')*)'")

_GO_ON, _DECIDED = PriorityDispatchResult.CONTINUE, PriorityDispatchResult.STOP


def setup(plugin: Plugin) -> None:
    """Tell Alembic what to call."""
    plugin.add_autogenerate_comparator(
        compare_server_default, "column", "server_default", priority=DispatchPriority.FIRST
    )
    plugin.add_autogenerate_comparator(compare_fractions, "column", "types", priority=DispatchPriority.FIRST)
    plugin.add_autogenerate_comparator(compare_enum_checks, "table", "enum_checks")


def compare_fractions(
    context: AutogenContext,
    change: ops.AlterColumnOp,
    schema: str | None,
    table: str,
    column: str,
    found: sa.Column[Any],
    wanted: sa.Column[Any],
) -> PriorityDispatchResult:
    """Find MariaDB's DATETIME without fractions where an instant should be; to Alembic it is a DATETIME, too."""
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
    """Compare values with values; what the server calculates is left to Alembic unless it is the same text."""
    assert context.migration_context is not None
    if context.migration_context._user_compare_server_default is False:
        return _GO_ON
    dialect = context.migration_context.dialect
    if isinstance(wanted.server_default, sa.Identity) and not dialect.supports_identity_columns:
        return _DECIDED  # there it is AUTO_INCREMENT or a rowid, and no default
    is_now = default_of(found.server_default, wanted.type, dialect)
    should_be = default_of(wanted.server_default, wanted.type, dialect)
    if is_now is None or should_be is None:
        return _GO_ON
    change.existing_server_default = found.server_default
    if is_now == should_be:
        return _DECIDED
    both_calculated = isinstance(is_now, Expression) and isinstance(should_be, Expression)
    if both_calculated and not _has_no_equality(wanted.type, dialect):
        return _GO_ON
    # Alembic would ask PostgreSQL whether the two are equal, without quotes around one of them.
    change.modify_server_default = wanted.server_default
    return _DECIDED


def _has_no_equality(type_: Any, dialect: sa.Dialect) -> bool:
    return dialect.name == "postgresql" and issubclass(type_._type_affinity, sa.JSON)


def compare_enum_checks(
    context: AutogenContext,
    changes: ops.ModifyTableOps,
    schema: str | None,
    table: str,
    found: sa.Table | None,
    wanted: sa.Table | None,
) -> PriorityDispatchResult:
    """Find an enum whose members are no longer those of its CHECK; Alembic looks at no CHECK by itself."""
    if found is None or wanted is None or not any(isinstance(column.type, StrEnum) for column in wanted.columns):
        return _GO_ON
    inspector = sa.inspect(context.connection)
    assert inspector is not None
    told = {check["name"]: check["sqltext"] for check in inspector.get_check_constraints(table, schema=schema)}
    for check in wanted.constraints:
        column = _enum_column(check, wanted)
        if column is None or column.name not in found.columns:
            continue  # a new column brings its own
        name = conv(str(check.name))  # whole already: no convention may add to it
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
    """Return the texts in a CHECK, in whatever words the database tells it."""
    return {text.replace("''", "'").replace("\\'", "'") for text in _TEXTS.findall(sql.replace("\\'", "''"))}
