"""``check`` and autogenerate: every change is found, nothing else is, and what is written can be run."""

from __future__ import annotations

import datetime as dt
import enum
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render
from alembic.autogenerate.api import AutogenContext
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql

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


TEXT = sa.String(40)
MOMENT = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
#: Defaults that a database tells back in other words than it was told.
EQUAL: dict[str, list[tuple[Any, Any]]] = {
    "all": [
        (TEXT, "a :word b"),
        (TEXT, ":start"),
        (TEXT, sa.text(r"'a \:word b'")),
        (TEXT, "at 10:30, C:\\temp, a\\:b"),
        (TEXT, "'quoted'"),
        (TEXT, "line\nbreak"),
        (TEXT, sa.text("NULL")),
        (sa.Integer, sa.text("NULL")),
        (sa.Integer, "007"),
        (sa.Float, "1e2"),
        (Json, '{"a":1}'),
        (UtcDateTime, sa.text("'2020-01-01 00:00:00'")),
        (UtcDateTime, sa.literal(MOMENT, UtcDateTime)),
        (sa.Date, sa.func.current_date()),
    ],
    "postgresql": [
        (sa.Interval, sa.text("interval '1 day'")),
        (sa.Date, sa.text("DATE '2020-01-01'")),
        (sa.Time, "08:00"),
        (sa.DateTime, "2020-01-01"),
        (sa.DateTime(timezone=True), sa.text("'2020-01-01 02:00:00+02'::timestamptz")),
        (sa.Boolean, sa.text("TRUE::bool")),
        (sa.Boolean, "yes"),
        (sa.Numeric, sa.text("1e2")),
        (sa.Float, sa.text("'NaN'::float8")),
        (sa.Integer, sa.text("- 1")),
        (sa.SmallInteger, sa.text("CAST(3 AS smallint)")),
        (sa.Uuid, "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"),
        (sa.Text, sa.text("$$100%$$")),
        (sa.Text, sa.text("md5(random()::text)")),
        (sa.JSON, sa.text("json_build_object('a',1)")),
        (postgresql.JSONB, sa.text(r"""'{"b"\:1,"a"\:2}'""")),
        (postgresql.ARRAY(sa.Text), sa.text("array['a','b']")),
        (postgresql.CIDR, "10/8"),
        (postgresql.BYTEA, sa.text(r"'\xDEADBEEF'")),
        (sa.DateTime(timezone=True), sa.text("now() + interval '1 day'")),
    ],
    "mariadb": [
        (sa.Time, "08:00"),
        (sa.DateTime, "2020-01-01"),
        (sa.DateTime, sa.text("TIMESTAMP '2020-01-01 00:00:00'")),
        (sa.Uuid, "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"),
        (sa.Integer, sa.text("(1+2)")),
    ],
    "sqlite": [(sa.Integer, sa.text("(abs(-1))")), (sa.Time, "08:00")],
}


def with_defaults(engine: sa.Engine) -> sa.MetaData:
    made = sa.MetaData()
    columns = [
        sa.Column(f"c{number}", type_, server_default=default)
        for number, (type_, default) in enumerate(EQUAL["all"] + EQUAL[engine.dialect.name])
    ]
    sa.Table("defaults", made, sa.Column("id", sa.Integer, primary_key=True), *columns)
    return made


def test_a_default_that_is_told_back_in_other_words_is_the_same(engine: sa.Engine) -> None:
    create(engine, with_defaults(engine))
    with engine.connect() as connection:
        assert differences(connection, with_defaults(engine)) == []


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_to_ask_about_a_default_changes_nothing(engine: sa.Engine) -> None:
    """A default that the server refuses is another one and spoils nothing; and no sequence moves."""
    made = sa.MetaData()
    sequences = [sa.Sequence(name, metadata=made) for name in ("one", "other")]
    table = sa.Table("item", made, *(sa.Column(n, sa.Integer, server_default="7") for n in ("a", "b", "c")))
    create(engine, made)
    table.c.a.server_default = sa.DefaultClause(sequences[0].next_value())
    create_at = sa.text("alter table item alter a set default nextval('other')")
    table.c.b.server_default = sa.DefaultClause("no number")
    with engine.begin() as connection:
        connection.execute(create_at)
    with engine.connect() as connection:
        found = differences(connection, made)
        assert [(entry[0][0], entry[0][3]) for entry in found] == [("modify_default", "a"), ("modify_default", "b")]
        assert connection.scalar(sequences[0].next_value()) == 1
        assert connection.scalar(sequences[1].next_value()) == 1


class View:
    """What a plugin for views, functions or triggers compares: it has no table."""


def test_what_has_no_table_is_compared_too(engine: sa.Engine) -> None:
    """By a service's history, as any plugin of Alembic asks; and a service's own filter is heard."""
    with engine.connect() as connection:

        def takes_part(**options: Any) -> bool:
            context = MigrationContext.configure(connection, opts={**autogenerate_options(**options)})
            asked = AutogenContext(context, sa.MetaData())
            view: Any = View()
            return asked.run_object_filters(view, "public.total", "view", False, None)  # type: ignore[arg-type]

        assert takes_part()
        assert not takes_part(ours=True)
        assert not takes_part(include_object=lambda item, name, type_, *rest: type_ != "view")


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


def written(
    connection: sa.Connection, target: sa.MetaData, *, down: bool = False, **further: Any
) -> tuple[str, set[str]]:
    """Return the code of the upgrade to *target* (or of the way back), and its imports."""
    options = {**autogenerate_options(**further), "target_metadata": target}
    context = MigrationContext.configure(connection, opts=options)
    script = produce_migrations(context, target)
    prefixes = {"sqlalchemy_module_prefix": "sa.", "alembic_module_prefix": "op.", "user_module_prefix": None}
    autogen = AutogenContext(context, target, opts={**options, **prefixes, "render_as_batch": True})
    assert script.downgrade_ops is not None
    assert script.upgrade_ops is not None
    code = render._render_cmd_body(script.downgrade_ops if down else script.upgrade_ops, autogen)
    return code, set(autogen.imports)


DIALECTS = ("postgresql", "mysql", "sqlite")


def applied(connection: sa.Connection, target: sa.MetaData, code: str, dropping: str | None = None) -> None:
    import prefiq_db.types

    if dropping is not None:
        connection.execute(sa.text(f"drop table {dropping}"))
    context = MigrationContext.configure(connection, opts={"target_metadata": target})
    with Operations.context(context) as op:
        exec(code, {"op": op, "sa": sa, "prefiq_db": prefiq_db, **{n: getattr(sa.dialects, n) for n in DIALECTS}})
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


def test_a_service_writes_its_own_types_beside_ours(engine: sa.Engine) -> None:
    """A ``render_item`` of theirs is asked first, and what it leaves is written as always, with its import."""

    def theirs(type_: str, item: Any, context: AutogenContext) -> str | Literal[False]:
        return "mine.Price()" if type_ == "type" and isinstance(item, Money) else False

    with engine.connect() as connection:
        code, imports = written(connection, metadata(), render_item=theirs)
    assert "mine.Price()" in code
    assert "prefiq_db.types.Money()" not in code
    assert "prefiq_db.types.UtcDateTime()" in code
    assert imports == {"import prefiq_db.types"}


def test_a_written_default_with_a_colon_can_be_run(engine: sa.Engine) -> None:
    """Written from the metadata and, in a downgrade, from what the database told."""
    target = with_defaults(engine)
    with engine.connect() as connection:
        applied(connection, target, written(connection, target)[0])
        assert differences(connection, target) == []
        applied(connection, target, written(connection, sa.MetaData(), down=True)[0], dropping="defaults")
        assert differences(connection, target) == []


# --- computed columns ----------------------------------------------------------------------------------


def computed(double: Any, *, persisted: bool = True, extra: str = "upper(name)") -> sa.MetaData:
    made = sa.MetaData()
    sa.Table(
        "sale",
        made,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("quantity", sa.Integer),
        sa.Column("name", sa.String(20)),
        sa.Column("double", sa.Integer, double),
        sa.Column("shout", sa.String(40), sa.Computed(extra, persisted=persisted)),
        sa.Index("ix_sale_double", "double", "quantity"),
        sa.UniqueConstraint("id", "double", name="uq_sale_double"),
    )
    return made


DOUBLE = sa.Computed("(quantity*2)", persisted=True)


def test_a_computed_column_that_is_told_back_in_other_words_is_the_same(engine: sa.Engine) -> None:
    create(engine, computed(DOUBLE))
    with engine.connect() as connection, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert differences(connection, computed(sa.Computed("quantity  * 2"), extra="UPPER( name )")) == []


CHANGED: dict[str, Any] = {
    "another factor": sa.Computed("quantity * 3", persisted=True),
    "other parentheses": sa.Computed("(quantity + 1) * 2", persisted=True),
    "no longer computed": None,
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_computed_column_is_found_and_made_anew_with_its_indexes(engine: sa.Engine, change: str) -> None:
    before, target = (computed(each) for each in (sa.Computed("quantity + 1 * 2", persisted=True), CHANGED[change]))
    create(engine, before)
    if engine.dialect.name == "sqlite":  # Alembic's rebuild would insert into the other computed column
        for made in (before, target):
            made.tables["sale"]._columns.remove(made.tables["sale"].c.shout)
        with engine.begin() as connection:
            connection.exec_driver_sql("alter table sale drop column shout")
    with engine.connect() as connection:
        code, back = (written(connection, target, down=down)[0] for down in (False, True))
        assert "drop_column('double')" in code
        applied(connection, target, code)
        assert differences(connection, target) == []
        indexes = {each["name"] for each in sa.inspect(connection).get_indexes("sale")}
        uniques = {each["name"] for each in sa.inspect(connection).get_unique_constraints("sale")}
        assert ("ix_sale_double" in indexes, "uq_sale_double" in uniques) == (True, True)
        applied(connection, before, back)
        assert differences(connection, before) == []
