"""Lists in ``IN :name``: what they find is what Core's ``in_()`` finds, and every length is one statement."""

from __future__ import annotations

import datetime as dt
from contextlib import nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg._preparing import PrepareManager

from prefiq_db.dialects import preparing_anew
from prefiq_db.dialects.rules import RULES
from prefiq_db.errors import ErrorKind, ResourceError, UsageError
from tests.conftest import Backend
from tests.twins.support import assert_silent

stock = sa.Table(
    "stock",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("word", sa.String(20)),
    sa.Column("size", sa.Integer),
)
WORDS = ["a", "it's", "100%", ":x", "%(y)s", "back\\slash", "é", "", '"', "?"]

words = st.sampled_from([*WORDS, "other", None])
numbers = st.one_of(st.integers(-2, 12), st.none())


async def filled(db: Any) -> Any:
    await db.execute(sa.schema.CreateTable(stock))
    rows = [{"id": n, "word": word, "size": n % 4 or None} for n, word in enumerate([*WORDS, None])]
    await db.execute_many(sa.insert(stock), rows)
    return db


async def test_a_text_finds_what_core_finds(db: Any) -> None:
    """``in`` and ``not in``, with and without parentheses, two at once, beside strings and comments like them."""
    await filled(db)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(words, max_size=4), st.lists(numbers, max_size=4).map(tuple), st.booleans(), st.booleans())
    def choose(some: list[Any], others: tuple[Any, ...], negated: bool, bare: bool) -> None:
        examples.append((some, others, negated, bare))

    examples: list[tuple[list[Any], tuple[Any, ...], bool, bool]] = []
    choose()
    for some, others, negated, bare in examples:
        word, size = ("not in", stock.c.word.not_in) if negated else ("in", stock.c.word.in_)
        first, second = (":some", ":others") if bare else ("(:some)", "( :others )")
        beside = r"/* in \:some */ 'x' <> 'in \:some'"
        sql = f"select id from stock where (word {word} {first} or size in {second}) and {beside}"
        found = await db.fetch_all(f"{sql} order by id", {"some": some, "others": others})
        condition = sa.or_(size(some), stock.c.size.in_(others))
        expected = await db.fetch_all(sa.select(stock.c.id).where(condition).order_by(stock.c.id))
        assert found == expected, (some, others, negated)


@pytest.mark.parametrize("place", ["in(:ids)", "in( :ids )", "IN(:ids)", "in\n(:ids)", "in(:ids)and 1=1"])
async def test_no_blank_is_needed(db: Any, place: str) -> None:
    """A list expands however the parentheses are written."""
    await filled(db)
    found = await db.fetch_all(f"select id from stock where id {place} order by id", {"ids": [1, 3]})
    assert [row.id for row in found] == [1, 3]
    assert await db.fetch_all(f"select id from stock where id {place}", {"ids": []}) == []


async def test_every_length_is_one_statement(db: Any) -> None:
    """In statistics, events and the caches of texts; text and Core alike. Only an empty list is a text of its own."""
    await filled(db)
    told: list[Any] = []
    db.hooks.after(told.append)
    core = sa.select(stock.c.id).where(stock.c.id.in_(sa.bindparam("ids", expanding=True)))
    instance = getattr(db, "_wrapped", db)._core.instance
    cache, observer = instance.engine._compiled_cache, instance.observer
    for statement in ("select id from stock where id in :ids and size > :least", core):
        more = {} if statement is core else {"least": 0}
        before, remembered = len(cache), None
        for length in (1, 2, 3, 40, 900):
            await db.fetch_all(statement, {"ids": list(range(length)), **more})
            count = len(observer._known)
            assert count == (remembered or count)
            remembered = count
        assert len(cache) == before + 1
        assert len({event.fingerprint for event in told}) == 1
        assert len({event.statement for event in told}) == 1
        assert "(?, ...)" in told[0].statement
        (entry,) = (each for each in db.stats().statements if each.fingerprint == told[0].fingerprint)
        assert entry.calls == 5
        told.clear()
    literals = "select id from stock where id in (1, 2) and size > 0"
    await db.fetch_all(literals)
    await db.fetch_all("select id from stock where id in :ids and size > 0", {"ids": [1]})
    assert len({event.fingerprint for event in told}) == 1


async def test_a_list_that_is_too_long_is_refused_before_it_is_sent(db: Any, backend: Backend, world: str) -> None:
    """The bind and the limit are named, and no element; a list of exactly that many goes through."""
    await filled(db)
    most = RULES[backend.name].most_binds
    sql = "select count(*) from stock where id in :ids and word in :words"
    if most is None:
        assert await db.fetch_value(sql, {"ids": range_of(70_000), "words": ["a"]}) == 1
        return
    before = db.stats().statement_count
    for verb in (db.fetch_value, db.execute):
        with pytest.raises(
            ResourceError, match=rf"^params: ids has {most()} elements, .* at most {most()} in"
        ) as failure:
            await verb(sql, {"ids": range_of(most()), "words": ["planted"]})
        assert failure.value.kind is ErrorKind.RESOURCE
        assert not failure.value.is_transient
        assert_silent(failure.value, "planted")
    pairs = [(n, "planted") for n in range_of(most() // 2 + 1)]
    with pytest.raises(ResourceError, match="params: pairs has"):
        await db.fetch_all("select id from stock where (id, word) in :pairs", {"pairs": pairs})
    async with db.transaction() as tx:
        with pytest.raises(ResourceError, match="params: ids has"):
            await tx.fetch_value(sql, {"ids": range_of(most()), "words": ["a"]})
        assert await tx.fetch_value("select count(*) from stock") == 11
    assert db.stats().statement_count == before + 1
    if world == "sync":
        assert await db.fetch_value("select count(*) from stock where id in :ids", {"ids": range_of(most())}) == 11


def range_of(length: int) -> list[int]:
    return list(range(length))


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
@pytest.mark.parametrize("prepares_lists", [False, True], ids=["", "control"])
async def test_lists_leave_prepared_statements_alone(
    make_db: Any, monkeypatch: pytest.MonkeyPatch, prepares_lists: bool
) -> None:
    """More lengths than psycopg remembers, and a statement beside them is prepared after five times, as always."""
    monkeypatch.setattr(PrepareManager, "prepared_max", 8)
    if prepares_lists:
        monkeypatch.setattr(preparing_anew, "unprepared", lambda cursor: nullcontext())
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table stock (id integer primary key)")
    for _ in range(7):
        for length in range(1, 11):
            await db.fetch_all("select id from stock where id in :ids", {"ids": range_of(length)})
        await db.fetch_all("select id from stock where id = :id", {"id": 1})
    prepared = [row.statement for row in await db.fetch_all("select statement from pg_prepared_statements")]
    assert any("id = $1" in text for text in prepared) is not prepares_lists
    if not prepares_lists:
        assert not [text for text in prepared if " IN (" in text or " in (" in text]


# --- what is no bind -----------------------------------------------------------------------------


@pytest.mark.parametrize("like", [":ids", ":x", "in :ids", "in (:x)", r"\:x"])
async def test_what_looks_like_a_bind_in_quotes_or_comments_is_none(db: Any, backend: Backend, like: str) -> None:
    """With lists, empty lists and single values, in reads, batches, streams and many rows; the text stays as it is."""
    await filled(db)
    written = like.removeprefix("\\")
    places = [f"/* {like} */ 'x' <> 'y'", f"'{like}' = '{like}' -- {like}\n", f"'it''s {like}' <> '{like}'"]
    if backend.name == "postgresql":
        places += [f"$${like}$$ <> $a$ $$ {like} $a$ /* /* */ {like} */", rf"E'\' {like}' <> '{like}'"]
    if backend.name == "mariadb":
        places += [rf"'it\'s {like}' <> '{like}' # {like}" + "\n", f'"{like}" <> \'" {like} \'']
    for place in places:
        if like != r"\:x" and "\\" in place:
            continue  # where such a string ends depends on the server's mode, so its binds stay what they were
        sql = f"select id from stock where {place} and id {{}} order by id"
        several, one = sql.format("in :ids"), sql.format("= :ids")
        assert await db.fetch_all(several, {"ids": [1, 3]}) == [(1,), (3,)]
        assert await db.fetch_all(several, {"ids": []}) == []
        assert await db.fetch_all(one, {"ids": 1}) == [(1,)]
        (first, second) = await db.batch([(several, {"ids": (1, 3)}), (one, {"ids": 1})])
        assert (first.rows, second.rows) == ([(1,), (3,)], [(1,)])
        async with db.stream(several, {"ids": [1, 3]}) as found:
            assert [row.id async for row in found] == [1, 3]
        await db.execute_many(f"update stock set size = :n where {place} and id = :ids", [{"n": 7, "ids": 1}] * 2)
    marks = {"postgresql": '""', "sqlite": '""``[]', "mariadb": "``"}[backend.name]
    for opens, closes in zip(marks[::2], marks[1::2], strict=True):
        row = await db.fetch_one(
            f"select id as {opens}a {like}{closes}, '{like}' as b from stock where id in :ids", {"ids": [1]}
        )
        assert list(row._mapping.items()) == [(f"a {written}", 1), ("b", written)]
    with pytest.raises(UsageError, match="params: the statement has no bind called x"):
        await db.fetch_all("select id from stock where id in :ids -- :x", {"ids": [1], "x": 1})


# --- what is no list -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [7, "planted", None, b"planted", 1.5, {"planted": 1}, {"planted"}], ids=repr)
async def test_a_single_value_behind_in_is_a_mistake_that_is_explained(db: Any, value: Any) -> None:
    """Without parentheses only a list makes sense: nothing is sent. With them, ``IN (:id)`` takes a single value."""
    await filled(db)
    before = db.stats().statement_count
    words = rf"params: ids stands in IN :ids: expected a list or tuple, not {type(value).__name__}"
    if isinstance(value, (set, dict)):
        words += r"; write list\(\.\.\.\)"
    else:
        words += "; for a single value give a list of one, or write = instead of IN"
    sql, params = "select id from stock where id not in :ids", {"ids": value}
    for verb in (db.fetch_all, db.fetch_value, db.execute):
        with pytest.raises(UsageError, match=f"^{words}$") as failure:
            await verb(sql, params)
        assert_silent(failure.value, "planted")
    with pytest.raises(UsageError, match=rf"^statements\[0\]: {words}$"):
        await db.batch([(sql, params)])
    with pytest.raises(UsageError, match=r"^rows\[0\]: a list for IN :ids works for one statement"):
        await db.execute_many("delete from stock where id in :ids", [params])
    assert db.stats().statement_count == before
    assert await db.fetch_all("select id from stock where id in (:ids) and word = 'b'", {"ids": 7}) == []


async def test_position_is_no_list(db: Any, backend: Backend) -> None:
    if backend.name != "sqlite":
        params = {"part": "b", "text": "abc", "day": dt.date(2026, 1, 2)}
        assert await db.fetch_value("select position(:part in :text) where :day is not null", params) == 2
