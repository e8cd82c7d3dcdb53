"""SQLAlchemy's Connection of a transaction, asked for or used at moments that nobody expects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import SQLAlchemyError

from prefiq_db.errors import StatementRefusedError, TransactionAbortedError, UniqueViolationError, UsageError
from prefiq_db.events import Listener, StatementFailed, StatementFinished, StatementStarted
from prefiq_db.execution import pinned as pinned_module
from tests.conftest import Backend
from tests.twins.support import kill_session, session_id

INSERT = "insert into thing (id) values (:id)"
IDS = "select id from thing order by id"

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


@pytest.fixture
def things(db: Any, run: Callable[[Any], Any]) -> Any:
    run(db.execute("create table thing (id integer primary key)"))
    return db


async def on_view(tx: Any, work: Callable[[sa.Connection], Any]) -> Any:
    connection = tx.connection
    if hasattr(connection, "run_sync"):
        return await connection.run_sync(work)
    return work(connection)


# --- commit() by somebody else than the block ------------------------------------------------------


def by_connection(connection: sa.Connection) -> None:
    connection.commit()


def by_transaction(connection: sa.Connection) -> None:
    found = connection.get_transaction()
    assert found is not None
    found.commit()


def by_block(connection: sa.Connection) -> None:
    found = connection.get_transaction()
    assert found is not None
    with found:
        connection.execute(sa.text(INSERT), {"id": 50})


WAYS = (by_connection, by_transaction, by_block)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [False, True])
async def test_only_the_block_commits(things: Any, way: Any, whole: bool) -> None:
    """Else it would say that nothing was committed, and run the body again."""
    db = things
    getattr(db, "_wrapped", db)._core.road.steps_aside = whole
    seen: list[Any] = []

    async def body(tx: Any) -> None:
        seen.append(tx)
        await tx.execute(INSERT, {"id": len(seen)})
        await on_view(tx, way)

    with pytest.raises(StatementRefusedError) as caught:
        await db.run_in_transaction(body)
    assert isinstance(caught.value, SQLAlchemyError)
    assert [str(tx.outcome) for tx in seen] == ["not committed"]
    assert await db.fetch_all(IDS) == []


@pytest.mark.parametrize("way", WAYS[:2])
async def test_a_refused_commit_leaves_the_transaction_as_it_was(things: Any, way: Any) -> None:
    db = things
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        with pytest.raises(StatementRefusedError):
            await on_view(tx, way)
        await tx.execute(INSERT, {"id": 2})
        async with tx.transaction() as inner:
            await inner.execute(INSERT, {"id": 3})
        assert await db.using().fetch_all(IDS) == [(1,), (2,), (3,)]
    assert str(tx.outcome) == "committed"
    assert await db.fetch_all(IDS) == [(1,), (2,), (3,)]
    assert db.stats().pool.checked_out == 0


async def test_control_a_commit_that_is_let_through_is_told_wrongly(
    things: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = things
    monkeypatch.setattr(pinned_module._BlockTransaction, "commit", sa.RootTransaction.commit)
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            await on_view(tx, by_connection)
            raise RuntimeError
    assert str(tx.outcome) == "not committed"
    assert await db.fetch_all(IDS) == [(1,)]


# --- rollback() by somebody else than the block ------------------------------------------------------


def undo(connection: sa.Connection) -> None:
    connection.rollback()


def undo_in_session(connection: sa.Connection) -> None:
    with orm.Session(connection) as session:
        session.execute(sa.text(INSERT), {"id": 60})
        session.rollback()


async def go_on(tx: Any, way: str) -> None:
    if way == "statement":
        await tx.execute(INSERT, {"id": 2})
    elif way == "last":
        await tx.execute(INSERT, {"id": 2}, last=True)
    elif way == "nested":
        async with tx.transaction() as inner:
            await inner.execute(INSERT, {"id": 2})
    elif way == "view":
        await on_view(tx, lambda connection: connection.execute(sa.text(INSERT), {"id": 2}))
    elif way == "session":
        async with tx.session() as session:
            await session.execute(sa.text(INSERT), {"id": 2})
    elif way == "bulk":
        await tx.bulk_insert("thing", [{"id": 2}])


@pytest.mark.parametrize("undoes", [undo, undo_in_session])
async def test_what_was_rolled_back_does_not_go_on(things: Any, undoes: Any) -> None:
    """Else the block would commit what came after that, and say so."""
    db = things
    for way in ("end", "statement", "last", "nested", "view", "session", "bulk"):
        for whole in (True, False):
            getattr(db, "_wrapped", db)._core.road.steps_aside = whole
            tx = db.transaction()
            with pytest.raises(TransactionAbortedError):
                async with tx:
                    await tx.execute(INSERT, {"id": 1})
                    await on_view(tx, undoes)
                    await go_on(tx, way)
            assert str(tx.outcome) == "not committed", way
            assert await db.fetch_all(IDS) == [], way
    assert db.stats().pool.checked_out == 0


@on_servers
async def test_control_another_transaction_in_its_place_commits_half(
    things: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = things
    monkeypatch.setattr(sa.RootTransaction, "is_of_block", True, raising=False)
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        await on_view(tx, undo)
        await on_view(tx, lambda connection: connection.execute(sa.text(INSERT), {"id": 3}))
        with contextlib.suppress(TransactionAbortedError):
            await tx.execute(INSERT, {"id": 2}, last=True)
    assert await db.fetch_all(IDS) == [(2,), (3,)]


# --- asked for while a statement is under way --------------------------------------------------------


class Asks(Listener):
    """Asks for the connection of ``tx`` in the middle of its statements."""

    def __init__(self) -> None:
        self.tx: Any = None
        self.seen: list[Any] = []

    def _ask(self) -> None:
        if self.tx is not None:
            self.seen.append(self.tx.connection)

    def statement_started(self, event: StatementStarted) -> None:
        self._ask()

    def statement_finished(self, event: StatementFinished) -> None:
        self._ask()

    def statement_failed(self, event: StatementFailed) -> None:
        self._ask()


@pytest.mark.parametrize("first", [False, True])
async def test_a_listener_asks_in_a_statement_that_fails(things: Any, backend: Backend, first: bool) -> None:
    """The error is the statement's own, and the transaction is what the database made of it."""
    db = things
    await db.execute(INSERT, {"id": 1})
    asks = db.hooks.add(Asks())
    tx = db.transaction()
    kinds: list[Any] = []

    async def body() -> None:
        async with tx:
            if not first:
                await tx.execute(INSERT, {"id": 2})
            asks.tx = tx
            with pytest.raises(UniqueViolationError):
                await tx.execute(INSERT, {"id": 1})
            asks.tx = None
            kinds.append(len(asks.seen))
            await tx.execute(INSERT, {"id": 3})

    if backend.name == "postgresql":
        with pytest.raises(TransactionAbortedError):
            await body()
        assert str(tx.outcome) == "not committed"
        assert await db.fetch_all(IDS) == [(1,)]
    else:
        await body()
        assert str(tx.outcome) == "committed"
        assert (3,) in await db.fetch_all(IDS)
    assert kinds[0] >= 2
    assert db.stats().pool.checked_out == 0


async def test_a_listener_asks_in_statements_that_succeed(things: Any) -> None:
    db = things
    asks = db.hooks.add(Asks())
    for number in (1, 2):
        async with db.transaction() as tx:
            asks.tx = tx
            await tx.execute(INSERT, {"id": number})
            await tx.fetch_all(IDS)
            asks.tx = None
        assert str(tx.outcome) == "committed"
    assert len(asks.seen) >= 8
    assert await db.fetch_all(IDS) == [(1,), (2,)]
    assert db.stats().pool.checked_out == 0


@on_servers
@pytest.mark.parametrize("last", [False, True])
async def test_a_listener_asks_when_the_connection_is_lost(things: Any, backend: Backend, last: bool) -> None:
    db = things
    asks = db.hooks.add(Asks())
    tx = db.transaction()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
        async with tx:
            await tx.execute(INSERT, {"id": 1})
            kill_session(backend, await session_id(tx, backend))
            asks.tx = tx
            await tx.execute(INSERT, {"id": 2}, **({"last": True} if last else {}))
    asks.tx = None
    assert caught.value.classification.connection_lost, repr(caught.value)
    assert await db.fetch_all(IDS) == []
    assert db.stats().pool.checked_out == 0


# --- known texts, and somebody who listens ------------------------------------------------------------


async def test_a_known_text_in_a_block_tells_its_line(things: Any) -> None:
    """In a task, the verb's core is called by the bridge, with no frame of the application above it."""
    db = things
    heard: list[Any] = []

    class Hears(Listener):
        def statement_finished(self, event: StatementFinished) -> None:
            heard.append(event.origin)

    db.hooks.add(Hears())
    for number in (1, 2, 3):
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": number})
            await tx.fetch_all(IDS)
            assert await tx.fetch_value("select count(*) from thing") == number
    assert len(heard) == 9
    assert {each.function.rpartition(".")[2] for each in heard} == {"test_a_known_text_in_a_block_tells_its_line"}


async def test_control_a_place_that_is_forgotten_in_a_statement_is_another_error(
    things: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = things
    let_go = pinned_module.Pinned._let_go

    def forget(pinned: Any) -> None:
        let_go(pinned)
        pinned.dbapi_connection = None

    monkeypatch.setattr(pinned_module.Pinned, "_let_go", forget)
    asks = db.hooks.add(Asks())
    with pytest.raises(UsageError):
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            asks.tx = tx
            try:
                await tx.execute(INSERT, {"id": 1})
            finally:
                asks.tx = None
