"""A construct that is known takes the short way, with its own values as they are now, and is kept alive by nobody."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from prefiq_db.errors import SchemaError, UnsupportedError, UsageError
from prefiq_db.events import CallFinished, Listener
from prefiq_db.execution import prepared
from prefiq_db.types import ExactDecimal
from tests.twins.short_way import noted_short_way

thing = sa.Table(
    "thing",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("day", sa.Date),
)
IDS = range(8)


def _with(number: int) -> Any:
    return sa.select(thing.c.id).where(thing.c.id == number)


def _road(db: Any) -> Any:
    return getattr(db, "_wrapped", db)._core.road


async def _with_things(db: Any) -> None:
    await db.execute(sa.schema.CreateTable(thing))
    await db.execute_many(sa.insert(thing), [{"id": number, "day": None} for number in IDS])


# --- whose values ------------------------------------------------------------------------------------


async def _read_by_many(db: Any) -> list[int]:
    """Return what eight constructs read at the same time, again and again; they differ by a value alone."""
    known = [_with(number) for number in IDS]
    for each in known:
        await db.fetch_value(each)
    asked = [*IDS] * 20
    if hasattr(db, "_wrapped"):
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(lambda number: db._wrapped.fetch_value(known[number]), asked))
    return list(await asyncio.gather(*(db.fetch_value(known[number]) for number in asked)))


async def test_constructs_that_differ_by_a_value_send_their_own(db: Any) -> None:
    await _with_things(db)
    with noted_short_way() as taken:
        assert await _read_by_many(db) == [*IDS] * 20
    assert len(taken) > 20, "hardly anything took the short way"


async def test_constructs_that_are_built_for_each_call_send_their_own_values_and_know_their_own_columns(
    db: Any,
) -> None:
    """What SQLAlchemy compiles alike shares what is known of it, also among threads and tasks."""
    await _with_things(db)

    def built(number: int) -> tuple[Any, Any]:
        more = (thing.c.id + number).label("more")
        return more, sa.select(more, thing.c.id).where(thing.c.id == number)

    def seen(row: Any, more: Any) -> tuple[int, int]:
        return row._mapping[more], row._mapping[thing.c.id]

    asked = [*IDS] * 10
    with noted_short_way() as taken:
        if hasattr(db, "_wrapped"):

            def read(number: int) -> tuple[int, int]:
                more, statement = built(number)
                return seen(db._wrapped.fetch_one(statement), more)

            with ThreadPoolExecutor(4) as threads:
                found = list(threads.map(read, asked))
        else:

            async def read_soon(number: int) -> tuple[int, int]:
                more, statement = built(number)
                return seen(await db.fetch_one(statement), more)

            found = list(await asyncio.gather(*map(read_soon, asked)))
    assert found == [(2 * number, number) for number in asked]
    assert len(taken) > 20


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_control_the_columns_of_another_are_found(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_columns_of", lambda statement: (thing,))
    await _with_things(db)
    for number in (1, 2):
        more = (thing.c.id + number).label("more")
        row = await db.fetch_one(sa.select(more, thing.c.id).where(thing.c.id == number))
    with pytest.raises(sa.exc.NoSuchColumnError):
        row._mapping[more]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_control_the_values_of_another_are_found(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared.Prepared, "for_another", lambda known, statement, extracted: known)
    await _with_things(db)
    assert await _read_by_many(db) != [*IDS] * 20


async def test_a_value_that_is_changed_in_the_construct_is_sent(db: Any) -> None:
    """SQLAlchemy reads it each time, too."""
    await _with_things(db)
    bind = sa.bindparam("number", 2)
    known = sa.select(thing.c.id).where(thing.c.id == bind)
    with noted_short_way() as taken:
        for _ in range(3):
            assert await db.fetch_value(known) == 2
        bind.value = 5
        assert await db.fetch_value(known) == 5
        assert await db.fetch_value(known, {"number": 6}) == 6
        assert await db.fetch_value(known) == 5
    assert len(taken) >= 4


@pytest.mark.parametrize("first", ["has a value", "needs one"])
async def test_constructs_that_differ_by_needing_a_value_do(db: Any, first: str) -> None:
    """SQLAlchemy compiles both to one statement: the second one's value would be NULL, or missing."""
    await _with_things(db)
    has, needs = (
        sa.select(thing.c.id).where(thing.c.id == sa.bindparam("number", *value, type_=sa.Integer))
        for value in ((4,), ())
    )
    if first == "has a value":
        assert await db.fetch_value(has) == 4
    for _ in range(3):
        for nothing in (None, {}):
            with pytest.raises(UsageError, match="no value for the bind 'number'"):
                await db.fetch_value(needs, nothing)
        assert await db.fetch_value(needs, {"number": 6}) == 6
        assert await db.fetch_value(has) == 4
        assert await db.fetch_value(has, {"number": 5}) == 5
        async with db.transaction() as tx:
            assert await tx.fetch_value(has) == 4
            assert await tx.fetch_value(needs, {"number": 6}) == 6
            with pytest.raises(UsageError, match="no value for the bind 'number'"):
                await tx.fetch_value(needs)


entry = sa.Table(
    "entry",
    thing.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("tag", sa.String(20)),
    sa.Column("n", sa.Integer),
)
ADD = sa.insert(entry)


async def _write(db: Any, number: int) -> tuple[int, str, int]:
    """Write a row by one statement or two; return it with the key that was told."""
    tag = f"tag {number}"
    if number % 3 == 0:
        told = await db.execute(sa.insert(entry).values(tag=tag, n=number))
    elif number % 3 == 1:
        told = await db.execute(ADD, {"tag": tag, "n": number})
    else:
        async with db.transaction() as tx:
            told = await tx.execute(sa.insert(entry).values(tag=tag, n=0))
            own = entry.c.id == told.inserted_primary_key[0]
            changed = await tx.execute(sa.update(entry).where(own).values(n=number))
            assert changed.rowcount == 1
    return told.inserted_primary_key[0], tag, number


async def test_writes_that_are_built_at_the_same_time_send_their_own_values_and_know_their_own_keys(db: Any) -> None:
    await db.execute(sa.schema.CreateTable(entry))
    numbers = range(120)
    if hasattr(db, "_wrapped"):
        with ThreadPoolExecutor(4) as threads:
            told = list(threads.map(lambda number: asyncio.run(_write(db, number)), numbers))
    else:
        told = list(await asyncio.gather(*(_write(db, number) for number in numbers)))
    found = [tuple(row) for row in await db.fetch_all(sa.select(entry).order_by(entry.c.id))]
    assert found == sorted(told)


class Sealed(sa.types.TypeDecorator[str]):
    """Asks somebody else in both directions, as a key's keeper; a task waits meanwhile."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self._asked(value[::-1])

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self._asked(value[::-1])

    def _asked(self, answer: str) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return answer
        return await_only(asyncio.sleep(0, answer))


async def test_a_columns_type_may_wait(db: Any) -> None:
    """In a task too, where a statement takes no greenlet otherwise."""
    sealed = sa.Table("sealed", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("w", Sealed))
    kept, text = sa.select(sealed.c.w).where(sealed.c.w == sa.bindparam("word")), sa.text("select w from sealed")
    await db.execute(sa.schema.CreateTable(sealed))
    for number in range(3):
        word = f"word {number}"
        await db.execute(sa.insert(sealed).values(w=word))
        assert await db.fetch_value(kept, {"word": word}) == word
        assert await db.fetch_value(sa.select(sealed.c.w).where(sealed.c.w == word)) == word
        assert len(await db.fetch_all(text.columns(w=Sealed))) == number + 1
        async with db.transaction() as tx:
            assert await tx.fetch_value(kept, {"word": word}) == word
    assert await db.fetch_value("select w from sealed order by id limit 1") == "0 drow"


async def test_a_name_that_a_known_construct_has_no_bind_for_is_refused(db: Any) -> None:
    await _with_things(db)
    known = sa.select(thing.c.id).where(thing.c.id == sa.bindparam("number"))
    for _ in range(3):
        assert await db.fetch_value(known, {"number": 3}) == 3
    with pytest.raises(UsageError, match="no column or bind called other"):
        await db.fetch_value(known, {"number": 3, "other": 4})
    with pytest.raises(UsageError):
        await db.fetch_value(known)
    assert await db.fetch_value(known, {"number": 4}) == 4


async def test_a_known_text_reads_a_list_as_one(db: Any) -> None:
    await _with_things(db)
    for known in (
        "select id from thing where id in (:ids) order by id",
        sa.text("select id from thing where id in (:ids)"),
    ):
        for _ in range(3):
            assert await db.fetch_all(known, {"ids": 3}) == [(3,)]
        assert await db.fetch_all(known, {"ids": [3]}) == [(3,)]
        assert sorted(await db.fetch_all(known, {"ids": (3, 4)})) == [(3,), (4,)]
        assert await db.fetch_all(known, {"ids": 5}) == [(5,)]


# --- how long ----------------------------------------------------------------------------------------


async def test_a_construct_is_kept_alive_by_nobody(db: Any) -> None:
    await _with_things(db)
    await db.fetch_all(_with(0))  # SQLAlchemy keeps the first of those that it compiles alike
    known = sa.select(thing.c.id).where(thing.c.id == 3)
    with noted_short_way() as taken:
        for _ in range(4):
            assert await db.fetch_all(known) == [(3,)]
    assert len(taken) >= 2
    gone, road = weakref.ref(known), _road(db)
    del known
    gc.collect()
    assert gone() is None
    assert all(each() is not None for each in road._constructs.data)


async def test_a_construct_that_sqlalchemy_forgets_is_prepared_anew(db: Any) -> None:
    await _with_things(db)
    known, cache = _with(3), _road(db).engine._compiled_cache
    for _ in range(3):
        assert await db.fetch_value(known) == 3
    before = _road(db).seen(weakref.ref(known))
    cache.clear()
    gc.collect()
    assert before.compiled() is None
    with noted_short_way() as taken:
        assert await db.fetch_value(known) == 3
        assert not taken
        assert await db.fetch_value(known) == 3
        assert len(taken) == 1
    assert _road(db).seen(weakref.ref(known)) is not before


async def test_a_table_that_somebody_else_changes_is_seen(make_db: Any) -> None:
    """``select(table)`` names its columns; a text that is kept as a construct may have all of them."""
    db, other = make_db(pool_size=1), make_db(pool_size=1)
    await _with_things(other)
    every, named = sa.text("select * from thing where id = 3"), sa.select(thing).where(thing.c.id == 3)
    for _ in range(8):  # psycopg prepares at the sixth
        assert await db.fetch_one(every) == await db.fetch_one(named) == (3, None)
    await other.execute("alter table thing add column more integer")
    for _ in range(8):
        assert await db.fetch_one(every) == (3, None, None)
        row = await db.fetch_one(named)
        assert row == (3, None)
        assert row._mapping[thing.c.id] == 3


# --- exact decimals ----------------------------------------------------------------------------------


priced = sa.Table(
    "priced", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("price", ExactDecimal(10, 2))
)
DEARER = sa.select((priced.c.price * 2).label("double")).where(priced.c.price > sa.bindparam("least"))


async def test_exact_decimals_take_the_short_way_once_the_connection_has_looked_at_their_column(make_db: Any) -> None:
    db = make_db(pool_size=1)
    await db.execute(sa.schema.CreateTable(priced))
    await db.execute(sa.insert(priced), {"id": 1, "price": Decimal("0.30")})
    for _ in range(3):
        assert await db.fetch_value(DEARER, {"least": Decimal("0.1")}) == Decimal("0.60")
    with noted_short_way() as taken:
        assert await db.fetch_value(DEARER, {"least": Decimal("0.2")}) == Decimal("0.60")
        assert len(taken) == 1
        await db.close()
        await db.open()
        for _ in range(3):  # of a connection that is new
            assert await db.fetch_value(DEARER, {"least": Decimal("0.3")}) is None
    assert len(taken) == 3


class _Calls(Listener):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def call_finished(self, event: CallFinished) -> None:
        self.told.append((event.verb, event.kind))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_construct_that_cant_be_compiled_fails_as_a_call(make_db: Any) -> None:
    db, calls = make_db(), _Calls()
    db.hooks.add(calls)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="divide"):
            await db.fetch_value(sa.select(priced.c.price / priced.c.price))
    assert [verb for verb, _ in calls.told] == ["fetch_value"] * 2
    assert None not in [kind for _, kind in calls.told]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_decimal_column_of_texts_is_refused_by_a_connection_that_is_new(make_db: Any) -> None:
    db = make_db(pool_size=1)
    await db.execute(sa.schema.CreateTable(priced))
    for _ in range(3):
        assert await db.fetch_all(DEARER, {"least": 0}) == []
    await db.execute("drop table priced")
    await db.execute("create table priced (id integer primary key, price varchar(20))")
    await db.close()
    await db.open()
    for _ in range(3):
        with pytest.raises(SchemaError, match="holds texts"):
            await db.fetch_all(DEARER, {"least": 0})


# --- overrides ---------------------------------------------------------------------------------------


async def test_the_slow_log_tells_the_tags_of_a_view_and_of_a_scope(
    make_db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    db = make_db(slow_query_seconds=1e-7)
    seen: dict[str, Any] = _road(db).dialect.observer.slow._last
    with noted_short_way() as taken, caplog.at_level("WARNING", "prefiq_db.slow"):
        for _ in range(3):
            await db.fetch_value("select 1")
        taken.clear()
        caplog.clear()
        seen.clear()
        await db.using(tags={"route": "view"}).fetch_value("select 1")
        seen.clear()
        async with db.override(tags={"route": "scope"}):
            await db.fetch_value("select 1")
        seen.clear()
        await db.fetch_value("select 1")
    assert taken == [("str", "select 1")] * 3
    assert [getattr(record, "tags", None) for record in caplog.records] == ["route=view", "route=scope", None]


@pytest.mark.parametrize("changed", [{"timeout": 9}, {"read_only": True}, {"schema": None, "timeout": 5}])
async def test_overrides_that_change_what_is_sent_step_aside(db: Any, changed: dict[str, Any]) -> None:
    for _ in range(3):
        await db.fetch_value("select 1")
    with noted_short_way() as taken:
        assert await db.using(**changed).fetch_value("select 1") == 1
    assert not taken


async def test_tags_in_a_comment_step_aside(make_db: Any) -> None:
    db = make_db(sql_comments=True)
    for _ in range(3):
        await db.fetch_value("select 1")
    with noted_short_way() as taken:
        assert await db.using(tags={"route": "r"}).fetch_value("select 1") == 1
        assert not taken
        assert await db.fetch_value("select 1") == 1
        assert taken
