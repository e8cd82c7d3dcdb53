"""``check`` and autogenerate: every change is found, nothing else is, and what is written can be run."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render
from alembic.autogenerate.api import AutogenContext
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from prefiq_db.engines import make_engine
from prefiq_db.migrate.autogenerate import autogenerate_options
from prefiq_db.settings import DatabaseSettings
from prefiq_db.types import ExactDecimal, Json, Money, StrEnum, UtcDateTime, Uuid, naming_convention
from tests.conftest import Backend


class Status(enum.StrEnum):
    NEW = "new"
    PAID = "it's paid"


class More(enum.StrEnum):
    NEW = "new"
    PAID = "it's paid"
    GONE = "gone"


@pytest.fixture
def engine(backend: Backend) -> Iterator[sa.Engine]:
    engine = make_engine(DatabaseSettings(url=backend.url))
    yield engine
    engine.dispose()


def metadata(change: Callable[[dict[str, sa.Column[Any]]], list[Any]] | None = None) -> sa.MetaData:
    """Return two tables with every portable type and every kind of default; *change* gets the columns of one."""
    made = sa.MetaData(naming_convention=naming_convention)
    sa.Table("customer", made, sa.Column("id", sa.Integer, primary_key=True))
    columns: dict[str, sa.Column[Any]] = {
        column.name: column
        for column in (
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), primary_key=True),
            sa.Column("customer_id", sa.ForeignKey("customer.id"), index=True),
            sa.Column("moment", UtcDateTime, nullable=False, server_default=sa.func.now()),
            sa.Column("changed", UtcDateTime, server_default=sa.func.current_timestamp()),
            sa.Column("price", Money, nullable=False, server_default="0.0000"),
            sa.Column("tax", ExactDecimal(12, 2), server_default="0"),
            sa.Column("rate", ExactDecimal(12, 2), server_default=sa.text("1.5")),
            sa.Column("weight", sa.Numeric(10, 2), server_default="0"),
            sa.Column("height", sa.Float, server_default="-1.5"),
            sa.Column("code", Uuid, unique=True),
            sa.Column("document", Json, server_default=sa.text("'{}'")),
            sa.Column("status", StrEnum(Status), nullable=False, server_default=Status.NEW),
            sa.Column("before", StrEnum(Status), server_default=Status.PAID),
            sa.Column("open", sa.Boolean(create_constraint=True), server_default=sa.false(), nullable=False),
            sa.Column("shut", sa.Boolean, server_default=sa.true()),
            sa.Column("quantity", sa.Integer, server_default="7"),
            sa.Column("minimum", sa.Integer, server_default=sa.text("7")),
            sa.Column("name", sa.String(20), server_default=""),
            sa.Column("nick", sa.String(20), server_default="it's (1) 100% \\o/"),
            sa.Column("digits", sa.String(20), server_default="0"),
            sa.Column("day", sa.Date, server_default=sa.text("'2020-01-01'")),
            sa.Column("plain", sa.DateTime, server_default=sa.func.now()),
            sa.Column("double", sa.Integer, sa.Computed("quantity * 2", persisted=True)),
            sa.Column("note", sa.Text),
            sa.Column("data", sa.LargeBinary),
        )
    }
    parts = [
        sa.CheckConstraint("quantity > 0", name="positive"),
        sa.UniqueConstraint("name", "digits"),
        sa.Index(None, "day"),
    ]
    if change is not None:
        parts = change(columns) or parts
    sa.Table("sale", made, *columns.values(), *parts)
    return made


def differences(connection: sa.Connection, target: sa.MetaData, **further: Any) -> list[Any]:
    options = {**autogenerate_options(), "target_metadata": target, **further}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), target))


def create(engine: sa.Engine, target: sa.MetaData) -> None:
    with engine.begin() as connection:
        target.create_all(connection)


# --- nothing else --------------------------------------------------------------------------------------


def test_there_is_no_drift_after_all_types_and_defaults_were_created(engine: sa.Engine) -> None:
    create(engine, metadata())
    with engine.connect() as connection:
        assert differences(connection, metadata()) == []


def test_alembic_alone_sees_drift_there(engine: sa.Engine) -> None:
    """Which shows that the comparison of ours has something to do; on PostgreSQL Alembic even fails."""
    create(engine, metadata())
    alone = {"autogenerate_plugins": ["alembic.autogenerate.*"]}
    with engine.connect() as connection:
        try:
            found = differences(connection, metadata(), **alone)
        except sa.exc.ProgrammingError:
            assert engine.dialect.name == "postgresql"
        else:
            assert found


def test_other_peoples_tables_are_not_looked_at(engine: sa.Engine) -> None:
    """A service's history doesn't see prefiq_db's tables, ours only them."""
    theirs, ours = sa.MetaData(), sa.MetaData()
    sa.Table("customer", theirs, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table(
        "prefiq_thing", ours, sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Integer, index=True)
    )
    create(engine, theirs)
    create(engine, ours)
    with engine.connect() as connection:
        assert differences(connection, theirs) == []
        assert differences(connection, ours, **autogenerate_options(ours=True)) == []


# --- every change --------------------------------------------------------------------------------------


def typed(name: str, type_: Any) -> Callable[[dict[str, sa.Column[Any]]], None]:
    return lambda columns: setattr(columns[name], "type", sa.types.to_instance(type_))


def replaced(column: sa.Column[Any]) -> Callable[[dict[str, sa.Column[Any]]], None]:
    return lambda columns: columns.__setitem__(column.name, column._copy())


def defaulted(name: str, default: Any) -> Callable[[dict[str, sa.Column[Any]]], None]:
    def change(columns: dict[str, sa.Column[Any]]) -> None:
        old = columns[name]
        columns[name] = sa.Column(name, old.type, nullable=old.nullable, server_default=default)

    return change


def dropped(name: str) -> Callable[[dict[str, sa.Column[Any]]], None]:
    return lambda columns: columns.__delitem__(name)


NEW_MEMBER = replaced(sa.Column("status", StrEnum(More), nullable=False, server_default=Status.NEW))
CHANGES: dict[str, tuple[Any, str]] = {
    "a new column": (lambda c: c.update(extra=sa.Column("extra", Money)), "add_column"),
    "a dropped column": (dropped("note"), "remove_column"),
    "NOT NULL": (lambda c: setattr(c["note"], "nullable", False), "modify_nullable"),
    "NULL": (lambda c: setattr(c["price"], "nullable", True), "modify_nullable"),
    "a longer text": (typed("name", sa.String(40)), "modify_type"),
    "another scale": (typed("tax", ExactDecimal(14, 4)), "modify_type"),
    "money to a number": (typed("price", sa.Integer), "modify_type"),
    "a UUID to a text": (typed("code", sa.String(40)), "modify_type"),
    "a document to bytes": (typed("document", sa.LargeBinary), "modify_type"),
    "an instant to a day": (typed("changed", sa.Date), "modify_type"),
    "an enum to a number": (typed("before", sa.Integer), "modify_type"),
    "another number": (defaulted("quantity", "8"), "modify_default"),
    "another decimal": (defaulted("price", "0.5000"), "modify_default"),
    "another text": (defaulted("nick", "it's (2)"), "modify_default"),
    "another case": (defaulted("nick", "IT's (1) 100% \\o/"), "modify_default"),
    "another truth": (defaulted("shut", sa.false()), "modify_default"),
    "another document": (defaulted("document", sa.text("'[]'")), "modify_default"),
    "another member": (defaulted("status", Status.PAID), "modify_default"),
    "a fixed time": (defaulted("plain", sa.text("'2020-01-01 00:00:00'")), "modify_default"),
    "no default": (defaulted("digits", None), "modify_default"),
    "a first default": (defaulted("minimum", None), "modify_default"),
    "a new index": (lambda c: c["quantity"].__setattr__("index", True), "add_index"),
    "a dropped index": (lambda c: [sa.UniqueConstraint("name", "digits")], "remove_index"),
    "a new unique": (lambda c: c["minimum"].__setattr__("unique", True), "add_constraint"),
    "a dropped unique": (lambda c: [sa.Index(None, "day")], "remove_constraint"),
    "a new member": (NEW_MEMBER, "add_constraint"),
}


def test_every_change_is_found_and_nothing_else(engine: sa.Engine) -> None:
    expected = {what: [kind] for what, (_, kind) in CHANGES.items()}
    expected["a new member"] = ["remove_constraint", "add_constraint"]
    if engine.dialect.name == "mariadb":
        expected["a dropped unique"] = ["remove_index"]  # there a unique constraint is an index
    create(engine, metadata())
    found = {}
    with engine.connect() as connection:
        for what, (change, _) in CHANGES.items():
            entries = differences(connection, metadata(change))
            found[what] = [entry[0][0] if isinstance(entry, list) else entry[0] for entry in entries]
    assert found == expected


def test_a_time_that_loses_its_zone_or_its_microseconds_is_found(engine: sa.Engine) -> None:
    """A plain DateTime in the database is not UtcDateTime; to SQLite they are the same."""
    create(engine, metadata(typed("changed", sa.DateTime())))
    with engine.connect() as connection:
        found = differences(connection, metadata())
    assert [entry[0][0] for entry in found] == ([] if engine.dialect.name == "sqlite" else ["modify_type"])


# --- what is written -----------------------------------------------------------------------------------


def written(connection: sa.Connection, target: sa.MetaData) -> tuple[str, set[str]]:
    """Return the code of the upgrade to *target*, and its imports."""
    options = {**autogenerate_options(), "target_metadata": target}
    context = MigrationContext.configure(connection, opts=options)
    script = produce_migrations(context, target)
    prefixes = {"sqlalchemy_module_prefix": "sa.", "alembic_module_prefix": "op.", "user_module_prefix": None}
    autogen = AutogenContext(context, target, opts={**options, **prefixes, "render_as_batch": True})
    code = render._render_cmd_body(script.upgrade_ops, autogen)
    return code, set(autogen.imports)


def applied(connection: sa.Connection, target: sa.MetaData, code: str) -> None:
    import prefiq_db.types

    context = MigrationContext.configure(connection, opts={"target_metadata": target})
    with Operations.context(context) as op:
        exec(code, {"op": op, "sa": sa, "prefiq_db": prefiq_db})
    connection.commit()


def test_written_types_name_their_package_and_an_enum_its_values(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        code, imports = written(connection, metadata())
    for text in (
        "prefiq_db.types.UtcDateTime()",
        "prefiq_db.types.Money()",
        "prefiq_db.types.ExactDecimal(12, 2)",
        "prefiq_db.types.Uuid()",
        "prefiq_db.types.Json()",
        """prefiq_db.types.StrEnum(('new', "it's paid"))""",
    ):
        assert text in code
    assert imports == {"import prefiq_db.types"}
    assert "ck_sale_status" not in code  # it comes with the type


def test_what_is_written_makes_what_was_meant(engine: sa.Engine) -> None:
    target = metadata()
    with engine.connect() as connection:
        applied(connection, target, written(connection, target)[0])
        assert differences(connection, target) == []


def test_a_new_member_is_written_as_a_new_check(engine: sa.Engine) -> None:
    """Run, it lets the new member in and nothing else, and the other enum of the table keeps its CHECK."""

    def without_computed(columns: dict[str, sa.Column[Any]]) -> None:
        del columns["double"]  # Alembic's rebuild of a SQLite table would insert into it

    def changed(columns: dict[str, sa.Column[Any]]) -> None:
        without_computed(columns)
        NEW_MEMBER(columns)

    create(engine, metadata(without_computed))
    target = metadata(changed)
    with engine.connect() as connection:
        code, _ = written(connection, target)
        applied(connection, target, code)
        assert differences(connection, target) == []
        table = target.tables["sale"]
        connection.execute(sa.insert(table).values(id=1, status=More.GONE))
        connection.commit()
        for column in (table.c.status, table.c.before):
            none = sa.update(table).values({column: sa.literal("none", sa.String)})
            with pytest.raises((sa.exc.IntegrityError, sa.exc.OperationalError)):
                connection.execute(none)
            connection.rollback()
