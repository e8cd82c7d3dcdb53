"""What a statement of a batch sees of the one before, and how it is sent: as in a transaction."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert as mysql_insert

from prefiq_db.dialects import bursts_mariadb
from prefiq_db.dialects.bursts_postgresql import PostgresqlBursts
from prefiq_db.errors import PrefiqDbError
from tests.conftest import Backend
from tests.twins.support import in_engine_begin

on_mariadb = pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
on_postgresql = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)

METADATA = sa.MetaData()
PARENT = sa.Table("parent", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
CHILD = sa.Table(
    "child",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("parent_id", sa.Integer),
    sa.Column("n", sa.Integer),
)
#: its key comes from a trigger, and Core is told so
NAMED = sa.Table(
    "named", METADATA, sa.Column("id", sa.Integer, sa.FetchedValue(), primary_key=True), sa.Column("n", sa.Integer)
)
OTHER = sa.Table(
    "other", METADATA, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer)
)
#: Triggers, functions and views hide that they read what the statement before left on the connection.
SCHEMA = [
    "create table parent (id integer auto_increment primary key, n integer unique)",
    "create table child (id integer auto_increment primary key, parent_id integer, n integer)",
    "create table named (id integer auto_increment primary key, n integer)",
    "create table other (id integer primary key, n integer)",
    "create trigger belongs before insert on child for each row"
    " set new.parent_id = coalesce(new.parent_id, last_insert_id())",
    "create trigger names before insert on named for each row set new.id = new.n + 100",
    "create function last_key() returns integer return last_insert_id()",
    "create view last_one as select last_insert_id() as id",
]
TABLES = ("parent", "child", "named", "other")


async def _make(db: Any) -> None:
    def create(connection: sa.Connection) -> None:
        for each in SCHEMA:
            connection.exec_driver_sql(each)

    await in_engine_begin(db, create)  # a single statement that names last_insert_id() is refused, also in a view


async def _both(db: Any, statements: list[Any]) -> list[Any]:
    """Return what *statements* give and leave: one by one in a transaction, as a batch, as a batch in a transaction."""

    async def one_by_one() -> Any:
        async with db.transaction() as tx:
            return [await tx.execute(each) for each in statements]

    async def savepoint() -> Any:
        async with db.transaction() as tx:
            return await tx.batch(statements)

    answers = []
    for run in (one_by_one, lambda: db.batch(statements), savepoint):
        for table in TABLES:
            await db.execute(f"truncate table {table}")
        told: Any
        try:
            told = [
                (each.rowcount, each.inserted_primary_key, [tuple(row) for row in each.rows]) for each in await run()
            ]
        except PrefiqDbError as error:
            told = type(error), error.kind, error.code
        rows = [[tuple(row) for row in await db.fetch_all(f"select * from {table} order by id")] for table in TABLES]
        answers.append((told, rows))
    return answers


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The blocks that were sent."""
    sent: list[str] = []
    block_of = bursts_mariadb.block_of

    def noted(*args: Any) -> str:
        sent.append(block_of(*args))
        return sent[-1]

    monkeypatch.setattr(bursts_mariadb, "block_of", noted)
    return sent


THREE = sa.insert(PARENT).values(n=1), sa.insert(PARENT).values(n=2), sa.insert(PARENT).values(n=3)
READERS = {
    "a trigger": [*THREE, sa.insert(CHILD).values(n=1)],
    "a trigger after a text": ["insert into parent (n) values (1), (2)", sa.insert(CHILD).values(n=1)],
    "a trigger twice": [*THREE, sa.insert(CHILD).values(n=1), sa.insert(CHILD).values(n=2)],
    "a function": [*THREE, sa.insert(CHILD).values(parent_id=sa.func.last_key(), n=1)],
    "a function in a text": [
        *THREE,
        sa.insert(OTHER).values(id=9, n=1),
        "insert into child (parent_id) select last_key()",
    ],
    "a view": [*THREE, sa.insert(OTHER).values(id=9, n=1), "select id from last_one"],
}


@on_mariadb
async def test_a_statement_sees_the_key_that_the_one_before_left(db: Any, backend: Backend, blocks: list[str]) -> None:
    await _make(db)
    for name, statements in READERS.items():
        one_by_one, batch, savepoint = await _both(db, statements)
        assert batch == savepoint == one_by_one, name
    assert len(blocks) == 2 * len(READERS)


@on_mariadb
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_control_a_reset_between_them_is_seen(db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    await _make(db)
    block_of = bursts_mariadb.block_of

    def resetting(burst: Any, statements: Any, mark: str) -> str:
        return block_of(burst, [(f"DO LAST_INSERT_ID(0);\n{sql}", wants) for sql, wants in statements], mark)

    monkeypatch.setattr(bursts_mariadb, "block_of", resetting)
    for name, statements in READERS.items():
        one_by_one, batch, savepoint = await _both(db, statements)
        assert batch == savepoint != one_by_one, name


def _upsert(**values: Any) -> Any:
    return mysql_insert(PARENT).values(**values).on_duplicate_key_update(n=50)


@on_mariadb
async def test_a_batch_tells_the_keys_that_a_transaction_tells(db: Any, backend: Backend, blocks: list[str]) -> None:
    """Also where LAST_INSERT_ID() would tell that of a statement before: it is never taken for this one's."""
    await _make(db)
    ignored = sa.insert(PARENT).prefix_with("IGNORE")
    cases: dict[str, list[Any]] = {
        "generated": [*THREE],
        "equal in two tables": [sa.insert(PARENT).values(n=1), sa.insert(CHILD).values(n=1)],
        "given": [*THREE, sa.insert(PARENT).values(id=50, n=4), sa.insert(PARENT).values(id=None, n=5)],
        "given as zero": [*THREE, sa.insert(PARENT).values(id=0, n=4)],
        "not generated": [*THREE, sa.insert(OTHER).values(id=9, n=1)],
        "ignored": [*THREE, ignored.values(n=1), sa.insert(PARENT).values(n=4)],
        "not ignored": [*THREE, ignored.values(n=4)],
        "several": [*THREE, sa.insert(PARENT).values([{"n": 4}, {"n": 5}])],
        "selected": [*THREE, sa.insert(PARENT).from_select(["n"], sa.select(sa.literal(9)))],
        "inline": [*THREE, sa.insert(PARENT).inline().values(n=4)],
        "returned": [*THREE, sa.insert(PARENT).values(n=4).returning(PARENT.c.id)],
        "upserted": [*THREE, _upsert(n=4), _upsert(n=4)],
        "text": [*THREE, "insert into parent (n) values (4)", "insert ignore into parent (n) values (4)"],
        "set by hand": [*THREE, sa.insert(PARENT).values(n=sa.func.last_insert_id(33)), ignored.values(n=33)],
        "from a trigger": [*THREE, sa.insert(NAMED).values(n=1)],
    }
    for name, statements in cases.items():
        one_by_one, batch, savepoint = await _both(db, statements)
        assert batch == savepoint == one_by_one, name
    assert len(blocks) >= 2 * len(cases) - 4


NUMBERED = ["select $1", "select $1::integer + 1", "select 'costs $5' as price", "select $1 from no_such_table"]


@on_postgresql
@pytest.mark.parametrize("text", NUMBERED)
async def test_a_numbered_parameter_without_a_value_is_the_callers_mistake(
    db: Any, backend: Backend, text: str
) -> None:
    """The server must not be asked in the protocol for parameters: it would report a broken connection."""
    for table in TABLES:
        await db.execute(sa.schema.CreateTable(METADATA.tables[table]))
    one_by_one, batch, savepoint = await _both(db, [sa.insert(OTHER).values(id=1, n=1), text])
    assert batch == savepoint == one_by_one


@on_postgresql
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_control_in_one_message_it_looks_like_a_lost_connection(
    db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in TABLES:
        await db.execute(sa.schema.CreateTable(METADATA.tables[table]))
    monkeypatch.setattr(PostgresqlBursts, "burst_statement", lambda dialect, pending: None)
    one_by_one, batch, _ = await _both(db, [sa.insert(OTHER).values(id=1, n=1), NUMBERED[0]])
    assert one_by_one[0][2] == "42P02"
    assert batch[0][2] == "08P01"
