"""An error is judged once, where it is caught first: event, pool, transaction and caller say the same."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from prefiq_db import ErrorKind, PrefiqDbError, RetryPolicy
from prefiq_db.errors import ConnectFailedError, ConnectionLostError, OutcomeUnknownError, UniqueViolationError
from prefiq_db.events import StatementFailed
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.translation import judging
from prefiq_db.translation.cleaning import KEPT
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import slow_read

K = ErrorKind
Way = Callable[[Any, str, Any], Awaitable[Any]]

_STATEMENTS: dict[str, dict[K, tuple[str, Any]]] = {
    "sqlite": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.DATA: ("select * from item where id = :id", {"id": 2**70}),
    },
    "postgresql": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.DATA: ("select * from item where name = :name", {"name": "\0"}),
        K.CANCELLED: ("select pg_cancel_backend(pg_backend_pid())", None),
        K.SERVER_SHUTDOWN: ("select pg_terminate_backend(pg_backend_pid())", None),
    },
    "mariadb": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.CANCELLED: ("kill query connection_id()", None),
        K.CONNECTION_LOST: ("kill connection_id()", None),
    },
}


async def by_verb(db: Any, sql: str, params: Any) -> None:
    await db.execute(sql, params)


async def in_transaction(db: Any, sql: str, params: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(sql, params)


async def in_session(db: Any, sql: str, params: Any) -> None:
    async with db.session() as session:
        await session.execute(sa.text(sql), params or {})


class Halt(BaseException):
    """What a signal handler may raise."""


async def with_items(make_db: Any) -> Any:
    """Return a database with one item in it."""
    db = make_db(pool_size=1, max_overflow=0, retry=RetryPolicy(attempts=1))
    await db.execute("drop table if exists item")
    await db.execute("create table item (id integer primary key, name varchar(20))")
    await db.execute("insert into item (id) values (1)")
    return db


Judged = list[tuple[BaseException, judging.Judgement]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Every driver's exception that is judged, in order, with its judgement."""
    made: Judged = []
    judge_anew = judging._judge

    def judge(error: BaseException, original: BaseException, *args: Any) -> judging.Judgement:
        judgement = judge_anew(error, original, *args)
        made.append((original, judgement))
        return judgement

    monkeypatch.setattr(judging, "_judge", judge)
    return made


def send_by(patched: pytest.MonkeyPatch, send: Callable[..., None]) -> None:
    """Let *send* take the driver's place, under the observer, in whichever way a statement is sent."""
    observe, observe_awaited = StatementObserver.observe, StatementObserver.observe_awaited

    def observed_awaited(self: Any, instead_of: Any, *args: Any) -> Any:
        async def sent(connection: Any, statement: str, parameters: Any) -> Any:
            send(None, statement, parameters, args[3])

        return observe_awaited(self, sent, *args)

    patched.setattr(StatementObserver, "observe", lambda self, instead_of, *args: observe(self, send, *args))
    patched.setattr(StatementObserver, "observe_awaited", observed_awaited)


async def failing(db: Any, way: Way, sql: str, params: Any = None) -> tuple[PrefiqDbError, StatementFailed]:
    """Return what the caller got, and what the event said."""
    told: list[StatementFailed] = []
    db.hooks.on_error(told.append)
    with pytest.raises(PrefiqDbError) as caught:
        await way(db, sql, params)
    (event,) = told
    return caught.value, event


@pytest.mark.parametrize("kind", [K.UNIQUE, K.SCHEMA, K.DATA, K.CANCELLED, K.SERVER_SHUTDOWN, K.CONNECTION_LOST])
@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_one_judgement_for_everybody(make_db: Any, backend: Backend, judged: Judged, way: Way, kind: K) -> None:
    """The event and the caller's error have one kind and code, and nothing of it stays with the driver's exception."""
    if kind not in _STATEMENTS[backend.name]:
        pytest.skip("its way to say so is another")
    items = await with_items(make_db)
    error, event = await failing(items, way, *_STATEMENTS[backend.name][kind])
    originals = [original for original, _ in judged]
    assert len(set(map(id, originals))) == len(originals) <= (2 if kind is K.CONNECTION_LOST else 1)
    judgement = judged[-1][1]  # on a lost connection, what is to be undone fails as well
    assert event.kind is judgement.kind is kind
    # Whether a statement on its own was carried out, when its answer is lost, nobody knows.
    assert error.kind is (K.OUTCOME_UNKNOWN if judgement.found.connection_lost and way is by_verb else kind)
    assert event.code == error.code == judgement.code
    for each in (error.original, getattr(error, "orig", None)):
        assert not hasattr(each, KEPT)
    assert await items.fetch_value("select count(*) from item") == 1


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_a_timeout_is_judged_once(make_db: Any, backend: Backend, judged: Judged, way: Way) -> None:
    """Our own clock ended it, or the server's for us."""
    db = make_db(statement_timeout_seconds=0.3, retry=RetryPolicy(attempts=1))
    await db.ping()
    error, event = await failing(db, way, slow_read(backend))
    assert [judgement.kind for _, judgement in judged] == [event.kind] == [error.kind] == [K.STATEMENT_TIMEOUT]


async def test_the_clock_of_an_earlier_statement_judges_no_later_error(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost in BEGIN is a lost connection, whatever timed out on it before."""
    if backend.server is not None:
        pytest.skip("the server knows which statement timed out")
    items = await with_items(make_db)
    with pytest.raises(PrefiqDbError):
        await items.using(timeout=0.2).fetch_value(slow_read(backend))
    dialect = type(items.engine.dialect)
    control, failing_once = dialect.control, [ConnectionResetError(104, "gone")]

    def lose(self: Any, dbapi_connection: Any, sql: str) -> Any:
        if failing_once and sql.startswith("BEGIN"):
            raise failing_once.pop()
        return control(self, dbapi_connection, sql)

    monkeypatch.setattr(dialect, "control", lose)
    with pytest.raises(ConnectionLostError):
        async with items.transaction():
            raise AssertionError("it never began")
    async with items.transaction() as tx:
        assert await tx.fetch_value("select count(*) from item") == 1


async def test_pythons_own_timeout_is_no_cancellation(make_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gave up is not known, and whether a write was carried out neither."""
    items = await with_items(make_db)

    def give_up(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        send_by(patched, give_up)
        error, event = await failing(items, in_transaction, "select 1")
        assert error.kind is event.kind is K.STATEMENT_TIMEOUT
        with pytest.raises(OutcomeUnknownError):
            await items.execute("insert into item (id) values (2)")


async def test_an_error_that_was_raised_before_is_judged_anew(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SQLAlchemy's error events nothing takes the judgement off it."""
    if backend.server is not None:
        pytest.skip("one driver is enough")
    items = await with_items(make_db)
    error = sqlite3.OperationalError("the same")

    def fail(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        send_by(patched, fail)
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        async with items.session() as session:
            await session.connection(execution_options={"skip_user_error_events": True})
            with pytest.raises(sa.exc.OperationalError) as caught:
                await session.execute(sa.text("select 1"))
        assert type(caught.value) is sa.exc.OperationalError
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        _, event = await failing(items, by_verb, "select 1")
    assert event.code == sqlite3.SQLITE_CORRUPT


# --- what a driver stumbles over -----------------------------------------------------------------


_OF_A_DRIVER = """
def stumble(met, error):
    try:
        raise met
    except BaseException:
        raise error from None
"""


def stumble(met: BaseException, error: Exception) -> None:
    """Meet *met* in the code of a driver, which then fails with *error*."""
    driver: dict[str, Any] = {"__name__": "pymysql.connections"}
    exec(_OF_A_DRIVER, driver)
    driver["stumble"](met, error)


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_an_interruption_over_which_the_driver_stumbles_goes_on(
    make_db: Any, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """Its own error on the way out would hide why; the event calls it a cancellation."""
    items = await with_items(make_db)
    kinds: list[K] = []
    items.hooks.on_error(lambda event: kinds.append(event.kind))
    halt = Halt()

    def send_stumbling(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        stumble(halt, context.dialect.loaded_dbapi.OperationalError("stumbled"))

    with monkeypatch.context() as patched:
        send_by(patched, send_stumbling)
        with pytest.raises(Halt) as caught:
            await way(items, "select 1", None)
    assert caught.value is halt
    assert kinds == [K.CANCELLED]
    assert await items.fetch_value("select count(*) from item") == 1


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
@pytest.mark.parametrize("traced", [True, False])
async def test_what_the_caller_is_handling_is_his_own_business(make_db: Any, way: Way, traced: bool) -> None:
    """A clean-up after an interruption fails like any other statement, also when he dropped its traceback."""
    items = await with_items(make_db)
    try:
        raise Halt
    except Halt as halt:
        if not traced:
            halt.__traceback__ = None
        error, event = await failing(items, way, "insert into item (id) values (1)")
    assert isinstance(error, UniqueViolationError)
    assert event.kind is K.UNIQUE


@pytest.mark.sync
@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_a_rollback_that_fails_hides_no_interruption(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy rolls back while it handles the interruption, and both errors go on."""
    if backend.server is not None:
        pytest.skip("an interrupted connection to a server is closed")
    items = await with_items(make_db)
    halt = Halt()
    sent: list[str] = []

    def be_halted(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        sent.append(statement)
        raise halt

    def fail(self: Any, dbapi_connection: Any) -> None:
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    with monkeypatch.context() as patched:
        send_by(patched, be_halted)
        patched.setattr(type(items.engine.dialect), "do_rollback", fail)
        with pytest.raises(Halt) as caught:
            await items.using(retry=RetryPolicy()).fetch_value("select 1")
    assert caught.value is halt
    assert len(sent) == 1


def quit_over_it() -> None:
    try:
        raise SystemExit(3)
    except SystemExit:
        raise ValueError("the tool failed")  # noqa: B904 - what it says goes


def fail_while_closed() -> None:
    def rows() -> Generator[None, None, None]:
        try:
            yield
        except GeneratorExit:
            raise ValueError("closing")  # noqa: B904 - likewise

    generator = rows()
    next(generator)
    generator.close()


def halt_over_it() -> None:
    try:
        raise Halt
    except Halt as halt:
        raise sqlite3.IntegrityError("the driver's class, not its code") from halt


class Encrypted(sa.TypeDecorator[str]):
    """A column's type that runs code of its own."""

    impl = sa.String
    cache_ok = True

    def __init__(self, encrypt: Callable[[], Any]) -> None:
        super().__init__()
        self.encrypt = encrypt

    def process_bind_param(self, value: str | None, dialect: Any) -> str:
        self.encrypt()
        raise AssertionError("it fails")


def insert_with(encrypt: Callable[[], Any]) -> sa.Insert:
    return sa.table("item", sa.column("name", Encrypted(encrypt))).insert().values(name="x")


async def insert_by_verb(db: Any, statement: sa.Insert) -> None:
    await db.execute(statement)


async def insert_in_transaction(db: Any, statement: sa.Insert) -> None:
    async with db.transaction() as tx:
        await tx.execute(statement)


async def insert_in_session(db: Any, statement: sa.Insert) -> None:
    async with db.session() as session:
        await session.execute(statement)


ours = pytest.mark.parametrize("way", [insert_by_verb, insert_in_transaction, insert_in_session])


@pytest.mark.parametrize("encrypt", [quit_over_it, fail_while_closed, halt_over_it])
@pytest.mark.parametrize("way", [insert_in_session])
async def test_what_a_columns_type_caught_is_its_own_business(make_db: Any, way: Any, encrypt: Any) -> None:
    """It turned an interruption into an error: the error is what it wants to say."""
    items = await with_items(make_db)
    with pytest.raises(PrefiqDbError):
        await way(items, insert_with(encrypt))


@ours
async def test_a_time_limit_in_a_columns_type_is_no_cancellation(make_db: Any, world: str, way: Any) -> None:
    """Asyncio makes its TimeoutError from a cancellation, but nobody cancelled the task."""
    if world == "sync":
        pytest.skip("asyncio's limits are for coroutines")
    items = await with_items(make_db)
    limited = insert_with(lambda: await_only(asyncio.wait_for(asyncio.sleep(9), 0.01)))
    with pytest.raises((PrefiqDbError, TimeoutError)):
        await way(items, limited)


@ours
async def test_nor_is_one_that_a_listener_keeps(make_db: Any, world: str, way: Any) -> None:
    """The same where the driver is called."""
    if world == "sync":
        pytest.skip("asyncio's limits are for coroutines")
    items = await with_items(make_db)

    def limited(*_: Any) -> None:
        await_only(asyncio.wait_for(asyncio.sleep(9), 0.01))

    plain = sa.table("item", sa.column("id")).insert().values(id=2)
    sa.event.listen(items.engine.sync_engine, "before_cursor_execute", limited)
    with pytest.raises((PrefiqDbError, TimeoutError)):
        await way(items, plain)
    sa.event.remove(items.engine.sync_engine, "before_cursor_execute", limited)


def test_a_cancellation_counts_only_while_the_task_is_being_cancelled() -> None:
    """A driver may stumble over it; its own time limits end with one, too."""

    async def stumbled() -> Any:
        with pytest.raises(sqlite3.OperationalError) as caught:
            stumble(asyncio.CancelledError(), sqlite3.OperationalError("stumbled"))
        return judging.judge(caught.value, "sqlite").interruption

    async def cancelled() -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            found = await stumbled()
        task.uncancel()
        return found

    assert asyncio.run(stumbled()) is None
    assert isinstance(asyncio.run(cancelled()), asyncio.CancelledError)


async def test_nor_is_it_what_kept_us_from_connecting(backend: Backend, world: str) -> None:
    """The same while there is no connection yet."""
    if backend.server is None:
        pytest.skip("SQLite has no server that is away")
    gone = make_database(world, sa.make_url(backend.url).set(port=1).render_as_string(hide_password=False))
    try:
        raise Halt
    except Halt:
        with pytest.raises(ConnectFailedError):
            await gone.using(retry=RetryPolicy(attempts=1)).ping()
    await gone.close()
