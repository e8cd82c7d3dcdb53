"""A count of rows is right, or None; and a key is the row's own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from prefiq_db.reports import ExecuteResult
from tests.conftest import Backend
from tests.twins.support import on_engine

CREATE = {
    "postgresql": "create table named (id serial primary key, name varchar(20) unique)",
    "mariadb": "create table named (id integer auto_increment primary key, name varchar(20) unique)",
    "sqlite": "create table named (id integer primary key, name varchar(20) unique)",
}
named = sa.Table(
    "named",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20), unique=True),
)


def rows(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def ignoring(backend: Backend) -> Any:
    """Return an INSERT that leaves out what is there already."""
    if backend.name == "mariadb":
        return sa.insert(named).prefix_with("IGNORE")
    insert = sqlite.insert if backend.name == "sqlite" else postgresql.insert
    return insert(named).on_conflict_do_nothing()


async def test_inserts_are_counted(db: Any, backend: Backend) -> None:
    """One row, many rows, in Core and in text, inside and outside a transaction."""
    await db.execute(CREATE[backend.name])
    sql = "insert into named (name) values (:name)"
    assert (await db.execute(sa.insert(named).values(name="a"))).rowcount == 1
    assert (await db.execute(sql, {"name": "b"})).rowcount == 1
    assert (await db.execute(sa.insert(named).values(rows("c", "d", "e")))).rowcount == 3
    assert (await db.execute("insert into named (name) select 'f' from named where id <= 1")).rowcount == 1
    assert await db.execute_many(sa.insert(named), rows("g", "h")) == 2
    assert await db.execute_many(sql, rows("i", "j", "k")) == 3
    assert await db.execute_many(sa.insert(named), rows(*(f"n{number}" for number in range(2500)))) == 2500
    async with db.transaction() as tx:
        assert await tx.execute_many(sa.insert(named), rows("l", "m")) == 2
        assert (await tx.execute(sa.insert(named).values(name="n"))).rowcount == 1
    assert await db.fetch_value("select count(*) from named") == 2514
    count = await on_engine(db, lambda c: c.execute(sa.insert(named).values(name="o")).rowcount)
    assert count == 1  # SQLAlchemy's own result, too


async def test_updates_and_deletes_are_counted(db: Any, backend: Backend) -> None:
    """What matched, also where nothing changed; batches are summed."""
    await db.execute(CREATE[backend.name])
    await db.execute_many(sa.insert(named), rows("a", "b", "c"))
    assert (await db.execute("update named set name = name where name <> 'a'")).rowcount == 2
    assert (await db.execute(sa.update(named).values(name=named.c.name))).rowcount == 3
    assert (await db.execute("update named set name = name where name = 'x'")).rowcount == 0
    change = sa.update(named).where(named.c.name == sa.bindparam("old")).values(name=sa.bindparam("new"))
    assert await db.execute_many(change, [{"old": "a", "new": "A1"}, {"old": "x", "new": "X"}]) == 1
    assert await db.execute_many("delete from named where name = :name", rows("b", "c", "x")) == 2
    assert (await db.execute(sa.delete(named))).rowcount == 1


async def test_returning_is_counted_and_its_rows_are_given(db: Any, backend: Backend) -> None:
    """``rows`` has what RETURNING gave, and the count is theirs, on every driver."""
    await db.execute(CREATE[backend.name])
    await db.execute_many(sa.insert(named), rows("a", "b", "c"))
    result = await db.execute("insert into named (name) values ('d') returning id, name")
    assert (result.rowcount, result.rows) == (1, [(4, "d")])
    result = await db.execute(sa.insert(named).values(name="e").returning(named.c.id))
    assert (result.rowcount, result.rows, result.inserted_primary_key) == (1, [(5,)], None)
    result = await db.execute("delete from named where id > 3 returning name")
    assert (result.rowcount, sorted(row.name for row in result.rows)) == (2, ["d", "e"])
    assert (await db.execute("delete from named where id > 3 returning name")).rowcount == 0
    assert await db.execute_many(sa.insert(named).returning(named.c.id), rows("x", "y")) == 2
    if backend.name != "mariadb":
        result = await db.execute("update named set name = name where id <= 3 returning id")
        assert (result.rowcount, len(result.rows)) == (3, 3)
        result = await db.execute("with a as (select 1 as id) update named set name = 'z' where id = 1 returning id")
        assert (result.rowcount, result.rows) == (1, [(1,)])
    # Whatever a driver makes of a batch with RETURNING in a text: never a wrong number.
    assert await db.execute_many("insert into named (name) values (:name) returning id", rows("v", "w")) in (2, None)
    assert await db.fetch_value("select count(*) from named where name in ('v', 'w')") == 2


async def test_an_ignored_insert_has_no_key(db: Any, backend: Backend) -> None:
    """Not inserted: no count, and no key of somebody else's row."""
    await db.execute(CREATE[backend.name])
    await db.execute("create table other (id integer primary key)")
    first = await db.execute(ignoring(backend).values(name="a"))
    assert (first.rowcount, first.inserted_primary_key) == (1, (1,))
    async with db.transaction() as tx:
        await tx.execute("insert into other values (4711)")
        again = await tx.execute(ignoring(backend).values(name="a"))
    assert again == ExecuteResult(0, None, ())
    assert await db.execute_many(ignoring(backend), rows("a", "b", "b", "c")) == 2
    words = {"mariadb": "insert ignore into", "sqlite": "insert or ignore into", "postgresql": "insert into"}
    end = " on conflict do nothing" if backend.name == "postgresql" else ""
    sql = f"{words[backend.name]} named (name) values (:name){end}"
    assert (await db.execute(sql, {"name": "a"})).rowcount == 0
    assert await db.execute_many(sql, rows("a", "d")) == 1


async def test_an_upsert_says_no_wrong_key(db: Any, backend: Backend) -> None:
    """Updated instead of inserted: the driver's last id is another row's. MariaDB's count is none of rows."""
    await db.execute(CREATE[backend.name])
    await db.execute_many(sa.insert(named), rows("a", "b"))
    if backend.name == "mariadb":
        upsert: Any = mysql.insert(named).values(name="a").on_duplicate_key_update(name="a")
    else:
        insert = sqlite.insert if backend.name == "sqlite" else postgresql.insert
        upsert = insert(named).values(name="a").on_conflict_do_update(index_elements=["name"], set_={"name": "a"})
    result = await db.execute(upsert)
    assert result.rowcount == (None if backend.name == "mariadb" else 1)
    assert result.inserted_primary_key == ((1,) if backend.name == "postgresql" else None)


async def test_other_statements_have_no_count(db: Any, backend: Backend) -> None:
    """A SELECT gives its rows, DDL nothing; never -1."""
    result = await db.execute(CREATE[backend.name])
    assert result == ExecuteResult(None, None, ())
    await db.execute(sa.insert(named).values(name="a"))
    result = await db.execute("select id, name from named")
    assert (result.rowcount, result.rows) == (None, [(1, "a")])
    result = await db.execute(sa.select(named.c.name))
    assert (result.rowcount, result.rows) == (None, [("a",)])
    assert (await db.execute("drop table named")).rowcount is None
