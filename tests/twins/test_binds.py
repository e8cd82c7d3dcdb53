"""Binds, lists and columns by name: nothing is dropped without a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa

from prefiq_db.errors import MappingError, PrefiqDbError, ResourceError, UsageError
from tests.conftest import Backend
from tests.twins.support import assert_silent

stock = sa.Table(
    "stock",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
)
ROWS = [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}, {"id": 3, "name": None}]


async def filled(db: Any) -> Any:
    await db.execute("create table stock (id integer primary key, name varchar(20))")
    await db.execute_many(sa.insert(stock), ROWS)
    return db


# --- lists ---------------------------------------------------------------------------------------

_FOUND: list[tuple[str, Any, list[int]]] = [
    ("id in :given", [1, 3], [1, 3]),
    ("id in (:given)", [1, 3], [1, 3]),
    ("id IN ( :given )", (2,), [2]),
    ("name in :given", ["A", "B"], [1, 2]),
    ("name in (:given)", ("B",), [2]),
    ("id not in :given", [1, 3], [2]),
    ("name not in (:given)", ["A"], [2]),
    ("id in :given", [], []),
    ("name in (:given)", (), []),
    ("id not in :given", [], [1, 2, 3]),
    ("name not in (:given)", [], [1, 2, 3]),
    ("not (id in :given)", [2], [1, 3]),
    ("(id, name) in :given", [(1, "A"), (2, "X")], [1]),
    ("(id, name) in :given", [], []),
    ("(id, name) not in (:given)", [], [1, 2, 3]),
    ("lower(name) in :given", ["a"], [1]),
    ("lower(name) in :given", [], []),
    ("substr(name, 1, 1) in :given", [], []),
    ("substr(name, 1, 1) not in :given", [], [1, 2, 3]),
    ("name in (:given)", "A", [1]),
]


async def test_a_list_behind_in_is_expanded(db: Any) -> None:
    """A list or tuple in ``IN :name`` and ``IN (:name)``; an empty one finds nothing, and NOT IN it everything."""
    await filled(db)
    for condition, given, expected in _FOUND:
        sql = f"select id from stock where {condition} order by id"
        for executor in (db.fetch_all, (await inside(db)).fetch_all):
            rows = await executor(sql, {"given": given})
            assert [row.id for row in rows] == expected, (condition, given)
    assert db.stats().pool.checked_out == 0


async def inside(db: Any) -> Any:
    """Return something whose verb runs in a transaction of its own."""

    class Inside:
        async def fetch_all(self, *args: Any) -> Any:
            async with db.transaction() as tx:
                return await tx.fetch_all(*args)

    return Inside()


async def test_lists_of_different_lengths_are_one_text(db: Any) -> None:
    """The same text with 1, 200 and no elements, with two lists, and with a list beside plain values."""
    await filled(db)
    sql = "select count(*) from stock where id in :ids and (name in (:names) or :all = 1)"
    for ids, names, everything, expected in (
        ([1], ["A"], 0, 1),
        (list(range(200)), ["A", "B"], 0, 2),
        ([], ["A"], 1, 0),
        ([1, 2, 3], [], 1, 3),
        ([1, 2, 3], [], 0, 0),
    ):
        given = {"ids": ids, "names": names, "all": everything}
        assert await db.fetch_value(sql, given) == expected
    assert (await db.execute("delete from stock where id in :ids", {"ids": [1, 2]})).rowcount == 2
    assert (await db.execute("delete from stock where id in :ids", {"ids": []})).rowcount == 0


async def test_lists_in_text_of_sqlalchemy(db: Any) -> None:
    """text() with types, with expanding binds of its own, and with columns."""
    await filled(db)
    text = sa.text("select id from stock where name in :names order by id")
    typed = text.bindparams(sa.bindparam("names", type_=sa.String))
    own = text.bindparams(sa.bindparam("names", expanding=True))
    for statement in (text, typed, own, text.columns(sa.column("id", sa.Integer))):
        assert [row.id for row in await db.fetch_all(statement, {"names": ["B", "A"]})] == [1, 2]
        assert await db.fetch_all(statement, {"names": []}) == []


async def test_a_list_elsewhere_goes_on_as_it_is(db: Any, backend: Backend) -> None:
    """PostgreSQL's arrays: ``= any(:ids)`` and a column of them."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL has arrays")
    await filled(db)
    assert await db.fetch_all("select id from stock where id = any(:ids) order by id", {"ids": [1, 3]}) == [(1,), (3,)]
    await db.execute("create table tagged (tags text[])")
    await db.execute("insert into tagged values (:tags)", {"tags": ["a", "b"]})
    await db.execute_many("insert into tagged values (:tags)", [{"tags": []}, {"tags": ["c"]}])
    assert await db.fetch_value("select count(*) from tagged where tags = :tags", {"tags": ["a", "b"]}) == 1


class _Strange:
    def __iter__(self) -> Any:
        return iter(["planted"])


async def test_what_is_no_list_is_refused_by_its_type(db: Any) -> None:
    """Sets, generators, dicts and the like say what is expected, and never what is in them."""
    await filled(db)
    for given in (
        {"planted"},
        frozenset({"planted"}),
        (each for each in ["planted"]),
        {"planted": 1}.keys(),
        _Strange(),
    ):
        for sql in ("select id from stock where name in :given", "select id from stock where name in (:given)"):
            with pytest.raises(UsageError, match="expected a list or tuple") as failure:
                await db.fetch_all(sql, {"given": given})
            assert_silent(failure.value, "planted")
    with pytest.raises(UsageError, match="and elsewhere"):
        await db.fetch_all("select id from stock where id in :given or id = :given", {"given": [1]})
    with pytest.raises(UsageError, match=r"rows\[1\]: a list for IN :given"):
        await db.execute_many("delete from stock where id in :given", [{"given": 1}, {"given": [2]}])


# --- names ---------------------------------------------------------------------------------------


async def test_names_that_fit_no_bind_are_told(db: Any) -> None:
    """An unknown name and a missing one, in every verb, before anything is sent; never a value."""
    await filled(db)
    before = db.stats().statement_count
    sql = "select id from stock where name = :name"
    for verb in (db.fetch_all, db.fetch_one, db.fetch_value, db.execute):
        with pytest.raises(UsageError, match="no bind called nmae, other") as failure:
            await verb(sql, {"name": "planted", "nmae": "planted", "other": "planted"})
        assert_silent(failure.value, "planted")
        for nothing in (None, {}):
            with pytest.raises(UsageError, match="no value for name"):
                await verb(sql, nothing)
    with pytest.raises(UsageError, match="no bind called x"):
        await db.execute_many("insert into stock (id) values (:id)", [{"id": 8, "x": "planted"}])
    with pytest.raises(UsageError, match="no value for id"):
        await db.execute_many("insert into stock (id, name) values (:id, :name)", [{"name": "planted"}])
    assert db.stats().statement_count == before
    async with db.transaction() as tx:
        with pytest.raises(UsageError, match="no bind called other"):
            await tx.fetch_all(sql, {"name": "A", "other": 1})
        assert await tx.fetch_all(sql, {"name": "A"}) == [(1,)]
    assert await db.fetch_value(sa.text("select :a").bindparams(a=5)) in (5, "5")


async def test_rows_with_different_keys_are_told(db: Any) -> None:
    """A later row with a key more or a key less: the row's number and the key, before anything is sent."""
    await filled(db)
    for statement in (sa.insert(stock), "insert into stock (id, name) values (:id, :name)"):
        before = db.stats().statement_count
        for rows, told in (
            ([{"id": 8}, {"id": 9, "name": "planted"}], r"rows\[1\]: has name, which rows\[0\] lacks"),
            ([{"id": 8, "name": "planted"}, {"id": 9}], r"rows\[1\]: lacks name, which rows\[0\] has"),
            ([{"id": 8, "name": "x"}, {"id": 9, "nmae": "planted"}], r"rows\[1\]: has nmae.* and lacks name"),
        ):
            with pytest.raises(UsageError, match=told) as failure:
                await db.execute_many(statement, rows)
            assert_silent(failure.value, "planted")
            async with db.transaction() as tx:
                with pytest.raises(UsageError, match=told):
                    await tx.execute_many(statement, rows)
        assert db.stats().statement_count == before
    assert await db.fetch_value("select count(*) from stock") == 3


# --- columns -------------------------------------------------------------------------------------


@dataclass
class Item:
    id: int
    name: str | None = None


class Model(pydantic.BaseModel):
    id: int
    name: str | None = None


async def test_two_columns_of_one_name_are_told(db: Any) -> None:
    """dict, dataclass and model would lose one: the column is named; rows keep both."""
    await filled(db)
    sql = "select a.id, a.name, b.id from stock a join stock b on b.id = a.id + 1 order by a.id"
    for into in (dict, Item, Model):
        for verb in (db.fetch_all, db.fetch_one):
            with pytest.raises(MappingError, match="more than one column is called id"):
                await verb(sql, into=into)
    row = await db.fetch_one(sql)
    assert (row[0], row[2]) == (1, 2)
    assert await db.fetch_all(sql, into=lambda row: row[2]) == [2, 3]
    assert await db.fetch_one("select id, name from stock where id = 1", into=Item) == Item(1, "A")


async def test_control_a_driver_would_say_nothing(db: Any) -> None:
    """Control: SQLAlchemy itself keeps the last of two columns, so that the check is ours."""
    await filled(db)
    row = await db.fetch_one("select 1 as a, 2 as a")
    assert len(dict(row._mapping)) == 1
    with pytest.raises(PrefiqDbError):
        await db.fetch_one("select 1 as a, 2 as a", into=dict)


async def test_a_text_is_never_compiled_for_another_kind_of_value(make_db: Any) -> None:
    """What SQLAlchemy keeps of a text is used for lists only, or for single values only: neither spoils the other."""
    db = make_db()
    await db.execute("create table word (id integer primary key, name varchar(10))")
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    await db.execute_many("insert into word (id, name) values (:id, :name)", rows)
    delete, count = "delete from word where name in :x", "select count(*) from word where id in :p"
    assert (await db.execute(delete, {"x": ["zz"]})).rowcount == 0
    with pytest.raises(PrefiqDbError):
        await db.execute(delete, {"x": "ab"})
    for wrong in (1, None, "ab"):
        with pytest.raises(PrefiqDbError):
            await db.fetch_value(count, {"p": wrong})
    assert await db.fetch_value(count, {"p": [1, 2]}) == 2
    assert await db.fetch_value("select count(*) from word where id in (:p)", {"p": 1}) == 1
    assert await db.fetch_value("select count(*) from word where id in (:p)", {"p": (1, 2)}) == 2
    assert await db.fetch_value("select count(*) from word where id in (:p)", {"p": 2}) == 1


async def test_core_drops_nothing_either(make_db: Any) -> None:
    """A name that is no column and no bind, and a key that only a later row has, are told."""
    db = make_db()
    word = sa.Table("word", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    await db.execute(sa.schema.CreateTable(word))
    for attempt in (
        lambda: db.execute(sa.insert(word), {"id": 1, "m": 5}),
        lambda: db.execute_many(sa.insert(word), [{"id": 1, "m": 5}]),
        lambda: db.execute(sa.update(word), {"m": 5}),
        lambda: db.execute(sa.insert(word).values([{"id": 5}, {"id": 6, "n": 3}])),
        lambda: db.fetch_all(sa.select(word).where(word.c.id == sa.bindparam("k", 1)), {"kk": 2}),
    ):
        with pytest.raises(UsageError, match=r"\bm\b|\bn\b|\bkk\b"):
            await attempt()
    assert (await db.execute(sa.insert(word), {"id": 1, "n": 5})).rowcount == 1
    changed = sa.update(word).where(word.c.id == sa.bindparam("which"))
    assert (await db.execute(changed, {"which": 1, "n": 6})).rowcount == 1
    assert await db.fetch_value(sa.select(word.c.n)) == 6


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_more_binds_than_the_protocol_has_is_no_lost_connection(make_db: Any) -> None:
    """The driver refuses it before it sends anything: nothing is unknown, and nothing is repeated."""
    db = make_db()
    await db.execute("create table word (id integer primary key)")
    for statement in ("select id from word where id in :ids", "delete from word where id in :ids"):
        with pytest.raises(ResourceError):
            await db.execute(statement, {"ids": list(range(70_000))})
    assert db.stats().retry_count == 0
