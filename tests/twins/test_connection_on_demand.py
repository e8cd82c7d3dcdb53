"""SQLAlchemy's Connection is made when somebody asks for it, and the transaction stays one, whenever that is.

Each script runs with the Connection from the beginning, as on the standard road, and with one that is asked for at some
moment, or never: rows, errors, outcome, events, the one BEGIN and what was sent to end it are the same.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.ext.asyncio import AsyncConnection

from prefiq_db import Database
from prefiq_db.errors import PrefiqDbError
from prefiq_db.events import ConnectionLeaked, Listener, TransactionFinished
from prefiq_db.execution import pinned as pinned_module
from prefiq_db.execution.pinned import Pinned
from tests.conftest import Backend
from tests.twins.support import kill_session, session_id

INSERT = "insert into thing (id) values (:id)"
IDS = "select id from thing order by id"

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


class Base(orm.DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class Stop(Exception):  # noqa: N818 - it is no error
    """Leaves a block."""


@pytest.fixture
def things(db: Any, run: Callable[[Any], Any]) -> Any:
    run(db.execute("create table thing (id integer primary key)"))
    return db


def _road(db: Any) -> Any:
    return getattr(db, "_wrapped", db)._core.road


def _pinned(tx: Any) -> Pinned:
    pinned: Pinned = getattr(tx, "_wrapped", tx)._core.tx.scope.pinned
    return pinned


# --- how somebody asks ---------------------------------------------------------------------------


async def by_connection(db: Any, tx: Any) -> None:
    connection = tx.connection
    if isinstance(connection, AsyncConnection):
        found = await connection.execute(sa.text(IDS))
    else:
        found = connection.execute(sa.text(IDS))
    found.all()


async def by_session(db: Any, tx: Any) -> None:
    async with tx.session() as session:
        (await session.scalars(sa.select(Thing))).all()


async def by_construct(db: Any, tx: Any) -> None:
    await tx.fetch_all(sa.select(Thing.__table__).execution_options(of_mine=1))


async def by_listening(db: Any, tx: Any) -> None:
    """Listen on the engine, as a tracer that is installed late: from then on its Connection is to be seen."""
    engine = getattr(db, "_wrapped", db)._core.instance.engine
    event.listen(engine, "commit", _hear)
    event.listen(engine, "rollback", _hear)


def _hear(connection: sa.Connection) -> None:
    assert connection.in_transaction()


async def not_at_all(db: Any, tx: Any) -> None:
    """Ask for nothing."""


WAYS: dict[str, Callable[[Any, Any], Awaitable[None]]] = {
    "connection": by_connection,
    "session": by_session,
    "construct": by_construct,
    "listening": by_listening,
    "never": not_at_all,
}


# --- the scripts ---------------------------------------------------------------------------------

Look = Callable[[str, Any], Awaitable[None]]


async def commits(db: Any, look: Look) -> Any:
    async with db.transaction() as tx:
        await look("before the first statement", tx)
        await tx.execute(INSERT, {"id": 1})
        await look("after it", tx)
        rows = await tx.fetch_all(IDS)
        await tx.execute(INSERT, {"id": 2})
        await look("before the end", tx)
    return rows, tx.outcome


async def rolls_back(db: Any, look: Look) -> Any:
    try:
        async with db.transaction() as tx:
            await look("before the first statement", tx)
            await tx.execute(INSERT, {"id": 1})
            await look("after it", tx)
            await tx.execute(INSERT, {"id": 2})
            await look("before the end", tx)
            raise Stop
    except Stop:
        return tx.outcome


async def swallows_an_error(db: Any, look: Look) -> Any:
    seen: list[Any] = []
    try:
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            try:
                await tx.execute(INSERT, {"id": 1})
            except PrefiqDbError as error:
                seen.append(error.kind)
            await look("after it", tx)
            seen.append(await tx.fetch_all(IDS))
    except PrefiqDbError as error:
        seen.append((type(error), error.kind))
    return seen, tx.outcome


async def nests(db: Any, look: Look) -> Any:
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        async with tx.transaction() as inner:
            await inner.execute(INSERT, {"id": 2})
            await look("after it", tx)
        try:
            async with tx.transaction() as undone:
                await undone.execute(INSERT, {"id": 3})
                await undone.execute(INSERT, {"id": 1})
        except PrefiqDbError as error:
            kind = error.kind
        await look("before the end", tx)
        rows = await tx.fetch_all(IDS)
    return rows, kind, inner.outcome, undone.outcome, tx.outcome


async def only_reads(db: Any, look: Look) -> Any:
    async with db.transaction(read_only=True) as tx:
        await look("before the first statement", tx)
        rows = await tx.fetch_all(IDS)
        await look("after it", tx)
    return rows, tx.outcome


async def ends_with_a_statement(db: Any, look: Look) -> Any:
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        await look("after it", tx)
        result = await tx.execute(INSERT, {"id": 2}, last=True)
    return result.rowcount, tx.outcome


SCRIPTS = {each.__name__: each for each in (commits, rolls_back, swallows_an_error, nests, only_reads)}
MOMENTS = ("before the first statement", "after it", "before the end")


class Heard(Listener):
    """Keeps what is told of transactions and leaks."""

    def __init__(self) -> None:
        self.finished: list[TransactionFinished] = []
        self.leaked: list[ConnectionLeaked] = []

    def transaction_finished(self, event: TransactionFinished) -> None:
        self.finished.append(event)

    def connection_leaked(self, event: ConnectionLeaked) -> None:
        self.leaked.append(event)


class Ends:
    """Notes what begins a transaction, and what is sent to end it."""

    def __init__(self, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        dialect = _road(db).dialect
        for name in ("do_begin", "begin_usually", "_send_commit", "_send_rollback"):
            shown = "do_begin" if name == "begin_usually" else name
            monkeypatch.setattr(dialect, name, self._counting(shown, getattr(dialect, name)))

    def _counting(self, name: str, send: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.sent.append(name)
            return send(*arguments)

        return counted


async def observe(db: Any, script: Any, moment: str, way: str, ends: Ends) -> Any:
    """Return all that *script* shows, with somebody asking at *moment* in this *way*."""
    ends.sent.clear()
    heard = db.hooks.add(Heard())

    async def look(now: str, tx: Any) -> None:
        if now == moment:
            await WAYS[way](db, tx)

    try:
        shown = await script(db, look)
    finally:
        db.hooks.remove(heard)
    left = await db.fetch_all(IDS)
    await db.execute("delete from thing")
    assert db.stats().pool.checked_out == 0
    return shown, left, list(ends.sent), [each.outcome for each in heard.finished]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_it_is_one_transaction_whenever_somebody_asks(
    things: Any, script: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, road = Ends(things, monkeypatch), _road(things)
    for moment in MOMENTS:
        road.steps_aside = True
        expected = await observe(things, script, moment, "never", ends)
        road.steps_aside = False
        assert await observe(things, script, moment, way, ends) == expected, moment


async def test_the_last_statement_ends_it_all_the_same(things: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMIT may travel with it, so how it is sent is not compared."""
    ends = Ends(things, monkeypatch)
    for way in WAYS:
        shown, left, _, outcomes = await observe(things, ends_with_a_statement, "after it", way, ends)
        assert (shown, left, outcomes) == ((1, "committed"), [(1,), (2,)], ["committed"]), way


async def test_nobody_gets_one_unasked(things: Any) -> None:
    """Else the tests above would compare a road with itself."""
    async with things.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})
        await tx.fetch_all(IDS)
        pinned = _pinned(tx)
        assert pinned.view is None
        await by_connection(things, tx)
        assert pinned.view is not None
        assert pinned.view.in_transaction()
    assert pinned.is_gone


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("fault", ["begins anew", "ends itself only", "is forgotten"])
async def test_a_planted_second_state_is_caught(things: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The control: what a Connection with a state of its own would do."""
    ends = Ends(things, monkeypatch)
    expected = await observe(things, commits, "after it", "never", ends)
    if fault == "begins anew":
        monkeypatch.setattr(pinned_module, "_Joined", sa.RootTransaction)
    elif fault == "ends itself only":
        monkeypatch.setattr(pinned_module._Joined, "_connection_commit_impl", lambda self: None)
    else:
        make = Pinned._make_view

        def forget(self: Pinned) -> Any:
            self._is_begun = False
            return make(self)

        monkeypatch.setattr(Pinned, "_make_view", forget)
    try:
        seen = await observe(things, commits, "after it", "connection", ends)
    except Exception as error:
        seen = error
    assert seen != expected


# --- a connection that is lost -------------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("first", [False, True])
async def test_a_lost_connection_is_lost_for_both(things: Any, backend: Backend, asked: bool, first: bool) -> None:
    """The error, the outcome and the pool are the same, whether the Connection was there before or came with it."""

    async def lose() -> Any:
        seen: list[Any] = []
        try:
            async with things.transaction() as tx:
                await tx.execute(INSERT, {"id": 1})
                if asked and first:
                    await by_connection(things, tx)
                kill_session(backend, await session_id(tx, backend))
                try:
                    await tx.fetch_all(IDS)
                except PrefiqDbError as error:
                    seen.append((type(error), error.kind, error.classification))
                if asked and not first:
                    with pytest.raises(Exception) as caught:  # noqa: PT011 - compared below
                        await by_connection(things, tx)
                    seen.append(type(caught.value))
                await tx.fetch_all(IDS)
        except PrefiqDbError as error:
            seen.append((type(error), error.kind))
        assert things.stats().pool.checked_out == 0
        return seen, tx.outcome, await things.fetch_all(IDS)

    road = _road(things)
    road.steps_aside = True
    expected = await lose()
    road.steps_aside = False
    assert await lose() == expected
    assert expected[1:] == ("not committed", [])


# --- nobody has it any more ----------------------------------------------------------------------


@pytest.mark.sync
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_transaction_that_is_dropped_is_reported_and_rolled_back(backend: Backend, asked: bool) -> None:
    """Without a Connection too: the pool gets back a connection at rest, or closes it."""
    with Database(backend.url, pool_size=1, max_overflow=0, pool_timeout_seconds=5) as db:
        db.execute("create table thing (id integer primary key)")
        heard = Heard()
        db.hooks.add(heard)
        block = db._core.new_root(db._core.with_overrides(_options()), None)
        block.begin()
        pinned, connection = block.scope.pinned, None
        db._core.road.run_pinned(pinned, _insert(), 30.0, None)
        if asked:
            connection = pinned.connection
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            _leave_unclosed(block)
            del block, pinned, connection
            gc.collect()
        assert [each.collected for each in heard.leaked] == [True]
        assert db.fetch_all(IDS) == []
        db.execute(INSERT, {"id": 1})
        assert db.fetch_all(IDS) == [(1,)]


def _options() -> Any:
    from prefiq_db.transaction import TransactionOptions

    return TransactionOptions()


def _insert() -> Any:
    from prefiq_db.call import Call
    from prefiq_db.execution.shapes import OUTCOME

    return Call("execute", sa.text(INSERT), {"id": 7}, OUTCOME)


def _leave_unclosed(block: Any) -> None:
    from prefiq_db.transaction.ownership import leave

    leave(block.scope)
