"""What the direct road may not leave out, each once found missing: options of the engine, logs, whose it is."""

from __future__ import annotations

import datetime as dt
import gc
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import Database
from prefiq_db.errors import SchemaError
from prefiq_db.execution import direct
from prefiq_db.execution.one_shot import Audience
from prefiq_db.execution.prepared import Prepared
from prefiq_db.pool.slots import SlottedPool

thing = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("label", sa.String(20)))
LABELS = sa.select(thing.c.label).order_by(thing.c.id)


def _engine(db: Any) -> Any:
    engine = getattr(db, "_wrapped", db).engine
    return getattr(engine, "sync_engine", engine)


def _road(db: Any) -> Any:
    return getattr(db, "_wrapped", db)._core.road


async def _with_things(db: Any) -> None:
    await db.execute("create table thing (id integer, label varchar(20))")
    await db.execute_many("insert into thing values (:id, :label)", [{"id": 1, "label": "a"}, {"id": 2, "label": "b"}])


# --- options of the engine -------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
async def test_an_option_that_the_engine_gets_later_is_obeyed(db: Any, inside: bool) -> None:
    await _with_things(db)
    assert await db.fetch_all(LABELS) == [("a",), ("b",)]
    _engine(db).update_execution_options(schema_translate_map={None: "elsewhere"})
    with pytest.raises(SchemaError):
        if inside:
            async with db.transaction() as tx:
                await tx.fetch_all(LABELS)
        else:
            await db.fetch_all(LABELS)


# --- listeners -------------------------------------------------------------------------------------


async def test_a_listener_of_all_engines_is_heard_and_forgotten(db: Any) -> None:
    """SQLAlchemy's flag stays set when the last listener is gone; who listened once must not cost for good."""
    await _with_things(db)
    heard: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        heard.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", hear)
    try:
        assert await db.fetch_all(LABELS) == [("a",), ("b",)]
        assert len(heard) == 1
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", hear)
    assert not _road(db)._audience.is_there()
    assert await db.fetch_all(LABELS) == [("a",), ("b",)]
    assert len(heard) == 1


def test_a_listener_of_the_transactions_connection_is_heard_and_forgotten() -> None:
    heard: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        heard.append(statement)

    with Database("sqlite://") as db, db.transaction() as tx:
        for _ in range(2):
            assert tx.fetch_value("select 1") == 1
        sa.event.listen(tx.connection, "before_cursor_execute", hear)
        assert tx.fetch_value("select 1") == 1
        sa.event.remove(tx.connection, "before_cursor_execute", hear)
        assert tx.fetch_value("select 1") == 1
        assert not _road(db)._audience.hears(tx.connection)
    assert heard == ["select 1"]


# --- logs ------------------------------------------------------------------------------------------


@contextmanager
def _logged(name: str) -> Iterator[io.StringIO]:
    written, logger = io.StringIO(), logging.getLogger(name)
    handler, level = logging.StreamHandler(written), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def test_the_log_of_the_pool_shows_each_checkout_once_somebody_reads_it(db: Any) -> None:
    await db.fetch_value("select 1")
    with _logged("prefiq_db.pool") as written:
        await db.fetch_value("select 1")
        await db.fetch_value("select 1")
    assert written.getvalue().count("checked out") == 2


# --- values that SQLAlchemy makes --------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("inside", [False, True])
async def test_a_write_within_a_select_gets_the_defaults_of_its_columns(db: Any, inside: bool) -> None:
    made = sa.Table(
        "made",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(9), default=lambda: "default"),
        sa.Column("state", sa.String(9), default="fixed", onupdate=lambda: "updated"),
    )
    await db.execute(sa.schema.CreateTable(made))
    insert = sa.select(sa.insert(made).values(id=1).returning(made.c.kind, made.c.state).cte("written"))
    update = sa.select(sa.update(made).values(kind="other").returning(made.c.kind, made.c.state).cte("written"))
    if inside:
        async with db.transaction() as tx:
            rows = [await tx.fetch_one(insert), await tx.fetch_one(update)]
    else:
        rows = [await db.fetch_one(insert), await db.fetch_one(update)]
    assert rows == [("default", "fixed"), ("other", "updated")]


# --- what SQLAlchemy forgets ---------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
async def test_a_statement_that_another_thread_evicts_is_still_carried_out(
    db: Any, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _with_things(db)
    takes, is_there, cache = Prepared.takes, Audience.is_there, _engine(db)._compiled_cache
    evicted: list[bool] = []

    def evicting(self: Prepared, params: Any) -> bool:
        taken = takes(self, params)
        cache.clear()
        gc.collect()
        evicted.append(self.compiled() is None)
        return taken

    def evicting_before(self: Audience) -> bool:
        cache.clear()
        gc.collect()
        return is_there(self)

    monkeypatch.setattr(Audience, "is_there", evicting_before)  # asked where the short way begins, and the direct road
    monkeypatch.setattr(Prepared, "takes", evicting)
    for _ in range(2):
        if inside:
            async with db.transaction() as tx:
                assert await tx.fetch_all(LABELS) == [("a",), ("b",)]
        else:
            assert await db.fetch_all(LABELS) == [("a",), ("b",)]
    assert True in evicted


async def test_a_text_is_prepared_once_whatever_its_values_are(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "select :value as value"
    for value in ("a", 1, None, Decimal("1.5"), dt.date(2024, 2, 29), Decimal("2.5")):
        await db.fetch_value(sql, {"value": value})
        if value == "a":
            first = _road(db).texts.kept[sql]
            size = _road(db).texts.size_bytes
    assert _road(db).texts.kept[sql] is first
    assert _road(db).texts.size_bytes == size


# --- whose connection it is ----------------------------------------------------------------------------


class _Halt(BaseException):
    pass


@pytest.mark.parametrize("has_returned_it", [False, True])
@pytest.mark.parametrize("way", ["standard", "direct", "short"])
def test_an_interruption_after_the_return_closes_nothing_of_the_next_holders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, has_returned_it: bool
) -> None:
    put, held = SlottedPool._do_return_conn, []

    def cut_off(pool: Any, record: Any) -> None:
        put(pool, record)
        monkeypatch.undo()
        held.append(pool.take())  # as another thread would
        if has_returned_it:
            pool.give_back(held[0])
            held.append(pool.take())
        raise _Halt

    with Database(f"sqlite:///{tmp_path / 'a.db'}", pool_size=1, max_overflow=0) as db:
        road, pool = db._core.road, db.engine.pool
        road.steps_aside = way == "standard"
        instance = db._core.instance
        instance.is_usual = instance.sends_plainly = way == "short"
        for _ in range(3):
            db.fetch_value("select 1")
        if way == "short":
            lane: Any = road._audience.lane
            monkeypatch.setattr(lane, "put", lambda record: cut_off(pool, record))
        else:
            monkeypatch.setattr(SlottedPool, "_do_return_conn", cut_off)
        with pytest.raises(_Halt):
            db.fetch_value("select 1")
        record = held[-1]
        assert record.dbapi_connection is not None, "closed under its next holder"
        assert db.stats().pool.checked_out == 1
        record.pool.give_back(record)
        assert db.stats().pool.checked_out == 0


def test_an_interruption_while_an_error_is_handled_returns_the_connection_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = direct.Connection

    def cut_off(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        raise _Halt

    with Database(f"sqlite:///{tmp_path / 'a.db'}", pool_size=1, max_overflow=1) as db:
        for _ in range(2):
            with pytest.raises(SchemaError):
                db.fetch_value("select 1 from missing_table")
        monkeypatch.setattr(direct, "Connection", cut_off)
        with pytest.raises(_Halt):
            db.fetch_value("select 1 from missing_table")
        assert direct.Connection is made, "not reached"
        assert db.stats().pool.checked_out == 0
        with db.engine.connect() as one, db.engine.connect() as other:
            assert one._dbapi_connection is not other._dbapi_connection
            assert db.stats().pool.checked_out == 2


def test_a_slot_that_another_thread_was_faster_to_fill_goes_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with Database(f"sqlite:///{tmp_path / 'a.db'}", pool_size=1, max_overflow=0) as db:
        pool: Any = db.engine.pool
        is_full = iter([False, True])
        monkeypatch.setattr(pool, "_is_full", lambda: next(is_full))
        assert pool._reserve() is None
        assert next(is_full, None) is None, "not asked twice"
        monkeypatch.undo()
    assert not said
