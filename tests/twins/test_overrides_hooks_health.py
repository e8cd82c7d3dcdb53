"""Per-call defaults, listeners and diagnosis: what they promise, on three databases in two worlds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import orm, text

from prefiq_db import AsyncDatabase, Database, RetryPolicy
from prefiq_db.errors import (
    ClosedError,
    ErrorKind,
    PrefiqDbError,
    ReadOnlyError,
    StatementRefusedError,
    StatementTimeoutError,
    TransactionOwnershipError,
    UniqueViolationError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.events import Listener, StatementFailed, StatementFinished, StatementStarted
from prefiq_db.health import is_healthy, is_healthy_async
from tests.conftest import Backend
from tests.twins.harness import Harness, drive, make_database
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK, in_thread_or_task, on_engine, slow_read


class Base(orm.DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    quantity: orm.Mapped[int]


@pytest.fixture
def stock(db: Any, run: Callable[[Any], Any]) -> Any:
    """The database with a row in a table."""
    run(db.execute(CREATE_STOCK))
    run(db.execute(INSERT_STOCK, row(1)))
    return db


def row(number: int) -> dict[str, int]:
    return {"id": number, "quantity": number}


async def times_out(db: Any, backend: Backend) -> bool:
    """Return whether a slow statement is stopped; it would run for a minute."""
    try:
        await db.fetch_all(slow_read(backend))
    except StatementTimeoutError:
        return True
    return False


# --- timeout -------------------------------------------------------------------------------------


async def test_a_timeout_stops_a_slow_statement(db: Any, backend: Backend) -> None:
    """using, override and a transaction's own timeout really stop it, as StatementTimeoutError; the next call works."""
    await db.open()
    before = db.stats().statement_count
    with pytest.raises(StatementTimeoutError) as slow:
        await db.using(timeout=0.05).fetch_all(slow_read(backend))
    assert slow.value.kind is ErrorKind.STATEMENT_TIMEOUT
    assert slow.value.is_transient
    assert db.stats().statement_count == before + 1  # not repeated: it would take as long again
    with db.override(timeout=1):  # within it, something must succeed
        assert await times_out(db, backend)
        async with db.transaction() as tx:
            assert await tx.fetch_value("select 1") == 1
    with pytest.raises(StatementTimeoutError):
        async with db.transaction() as tx:
            await db.using(timeout=0.05).fetch_all(slow_read(backend))
    assert await db.fetch_value("select 1") == 1
    assert db.stats().pool.checked_out == 0


async def test_the_settings_timeout_holds_for_everything(make_db: Callable[..., Any], backend: Backend) -> None:
    """statement_timeout_seconds bounds one-shots, transactions, sessions and the engine alike."""
    db = make_db(statement_timeout_seconds=0.1)
    assert await times_out(db, backend)
    with pytest.raises(StatementTimeoutError):
        async with db.transaction() as tx:
            await tx.fetch_all(slow_read(backend))
    for _ in range(2):
        with pytest.raises(Exception, match=r"(?i)timeout|interrupted|max_statement_time"):
            await on_engine(db, lambda connection: connection.execute(text(slow_read(backend))).all())


async def test_a_longer_timeout_than_the_settings_is_given(
    make_db: Callable[..., Any], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """using(timeout=...) may also allow more than the settings do, to the server and to the driver."""
    monkeypatch.setattr("prefiq_db.dialects.clocks.GRACE_SECONDS", 0.06)
    db = make_db(statement_timeout_seconds=0.05, pool_size=1)
    somewhat_slow = {
        "sqlite": "with recursive t(n) as (select 1 union all select n + 1 from t where n < 900000) "
        "select count(*) from t",
        "postgresql": "select 1 from pg_sleep(0.2)",
        "mariadb": "select sleep(0.2)",
    }[backend.name]
    with pytest.raises(StatementTimeoutError):
        await db.fetch_value(somewhat_slow)
    assert await db.using(timeout=30).fetch_value(somewhat_slow) in (0, 1, 900000)
    with pytest.raises(StatementTimeoutError):
        await db.fetch_value(somewhat_slow)


# --- who an override is for ----------------------------------------------------------------------


async def is_refused(db: Any) -> bool:
    try:
        await db.execute("update stock set quantity = quantity + 1")
    except ReadOnlyError:
        return True
    return False


async def test_an_override_is_in_force_in_what_is_started_inside(stock: Any, world: str) -> None:
    """A task or thread that inherits the context of an override inherits the override, and keeps it to its end."""
    with stock.override(read_only=True, timeout=9):
        assert await in_thread_or_task(world, lambda: is_refused(stock))
        inherited = contextvars.copy_context()
    assert not await in_thread_or_task(world, lambda: is_refused(stock))
    # Whoever was started inside goes on with it after the scope was left.
    if world == "async":
        assert await asyncio.create_task(is_refused(stock), context=inherited)
    else:
        assert inherited.run(drive, is_refused(stock))
    assert not await is_refused(stock)
    assert await stock.fetch_value("select quantity from stock") == 3


async def test_what_is_overridden_inside_is_not_seen_outside(stock: Any, world: str, harness: Harness) -> None:
    """A child's own override is its own: neither its siblings nor who started it have it."""

    async def child() -> list[bool]:
        with stock.override(read_only=False):
            inside = await is_refused(stock)
        return [inside, await is_refused(stock)]

    with stock.override(read_only=True):
        assert await in_thread_or_task(world, child) == [False, True]
        assert await is_refused(stock)
    with stock.override(timeout=9):
        assert await in_thread_or_task(world, child) == [False, False]

    async def scoped_child() -> bool:
        with stock.override(read_only=True):
            return await is_refused(stock)

    assert await harness.together(scoped_child, lambda: in_thread_or_task(world, scoped_child)) == [True, True]
    assert not await is_refused(stock)


async def test_gather_and_task_groups_inherit_an_override(backend: Backend, loop_runner: asyncio.Runner) -> None:
    """What a middleware sets, every task of the request has: no write slips through beside it."""
    db = make_database("async", backend.url)
    await db.execute(CREATE_STOCK)
    await db.execute(INSERT_STOCK, row(1))
    async with db.override(read_only=True):
        assert await asyncio.gather(is_refused(db), is_refused(db)) == [True, True]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(is_refused(db)) for _ in range(2)]
        assert [task.result() for task in tasks] == [True, True]
        assert await asyncio.wait_for(is_refused(db), 20)
    assert await db.fetch_value("select quantity from stock") == 1
    await db.close()


async def test_threads_with_a_copied_context_inherit_an_override(backend: Backend, loop_runner: asyncio.Runner) -> None:
    """A sync endpoint runs in a thread (anyio's, asyncio's) with its request's context, and what that has in force."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        db.execute(INSERT_STOCK, row(1))

        def endpoint() -> bool:
            try:
                db.execute("update stock set quantity = quantity + 1")
            except ReadOnlyError:
                return True
            return False

        async def request() -> list[bool]:
            with db.override(read_only=True):  # as a middleware would
                found = [await asyncio.to_thread(endpoint), await anyio.to_thread.run_sync(endpoint)]
                # A pool's thread has a context of its own: nobody can see from there what was in force.
                alone = await asyncio.get_running_loop().run_in_executor(None, endpoint)
            return [*found, alone]

        assert await request() == [True, True, False]
        assert db.fetch_value("select quantity from stock") == 2


async def test_a_scope_that_is_left_elsewhere_takes_nothing_with_it(stock: Any) -> None:
    """A generator may be finished in another context, or late: only its own entry ends, wherever that is."""

    def fixture(**overrides: Any) -> Any:
        with stock.override(**overrides):
            yield

    late = fixture(timeout=9)
    next(late)
    with stock.override(read_only=True):
        late.close()  # the outer scope ends before the inner one
        assert await is_refused(stock)
    assert not await is_refused(stock)
    started = fixture(read_only=True)
    contextvars.copy_context().run(next, started)
    with stock.override(timeout=9):
        started.close()  # entered in another context: here is nothing of it to leave
        assert stock_timeout(stock) == 9
    assert stock_timeout(stock) is None
    inner = fixture(read_only=True)
    next(inner)
    elsewhere = contextvars.copy_context()
    assert await is_refused(stock)
    elsewhere.run(inner.close)
    assert elsewhere.run(stock_timeout, stock) is None
    assert await is_refused(stock), "what was entered here is left here"


def stock_timeout(stock: Any) -> float | None:
    """Return the timeout that is in force here."""
    timeout: float | None = getattr(stock, "_wrapped", stock)._core.overrides().timeout
    return timeout


async def test_control_an_override_bound_to_its_task_vanishes(
    backend: Backend, loop_runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same body sees the write happen when a child starts without what its parent has in force."""
    db = make_database("async", backend.url)
    await db.execute(CREATE_STOCK)
    await db.execute(INSERT_STOCK, row(1))
    async with db.override(read_only=True):
        assert not await asyncio.create_task(is_refused(db), context=contextvars.Context())
    assert await db.fetch_value("select quantity from stock") == 2
    await db.close()


async def test_overrides_nest(stock: Any) -> None:
    """The inner override wins where it says something, the outer one everywhere else; leaving restores."""
    with stock.override(read_only=True, timeout=9):
        async with stock.override(timeout=8):
            with pytest.raises(ReadOnlyError):
                await stock.execute("delete from stock")
            with stock.override(read_only=False):
                await stock.execute("update stock set quantity = 2")
            with pytest.raises(ReadOnlyError):
                await stock.execute("delete from stock")
        # A view's own word is nearer than the scope around it.
        await stock.using(read_only=False).execute("update stock set quantity = 3")
    await stock.execute("update stock set quantity = quantity + 1")
    assert await stock.fetch_value("select quantity from stock") == 4


async def test_an_override_scope_can_be_shared_and_left_in_any_order(
    make_db: Callable[..., Any], harness: Harness
) -> None:
    """One scope object entered by two workers at once, and scopes of two databases, don't restore each other's."""
    db, other = make_db(), make_db(name="other")
    await db.execute(CREATE_STOCK)
    await db.execute(INSERT_STOCK, row(1))
    shared = db.override(read_only=True)
    both_in, first_out = harness.event(), harness.event()

    async def writes(database: Any) -> bool:
        try:
            await database.execute("update stock set quantity = 5")
        except ReadOnlyError:
            return False
        return True

    async def first() -> list[bool]:
        with db.override(timeout=9):
            with shared:
                await both_in.wait()
            first_out.set()
            return [await writes(db)]

    async def second() -> list[bool]:
        with shared:
            both_in.set()
            await first_out.wait()
            inside = await writes(db)
        return [inside, await writes(db)]

    assert await harness.together(first, second) == [[True], [False, True]]
    one, two = db.override(read_only=True), other.override(read_only=True)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert [await writes(db), await writes(other)] == [True, False]
    two.__exit__(None, None, None)
    assert [await writes(db), await writes(other)] == [True, True]


async def test_read_only_means_it(stock: Any) -> None:
    """A read-only view reads, and refuses to write by every way: one-shot, rows, transaction, session, engine."""
    view = stock.using(read_only=True)
    assert await view.fetch_value(COUNT_STOCK) == 1
    assert await view.fetch_one("select quantity from stock where id = :id", {"id": 1}) == (1,)
    for write in (
        lambda: view.execute("delete from stock"),
        lambda: view.fetch_all("delete from stock"),
        lambda: view.execute_many(INSERT_STOCK, [row(2), row(3)]),
        lambda: view.run_in_transaction(lambda tx: tx.execute("delete from stock")),
    ):
        with pytest.raises(ReadOnlyError):
            await write()
    with pytest.raises(UnsupportedError, match="read_only"):
        view.session()
    with pytest.raises(UnsupportedError, match="read_only"):
        view.engine  # noqa: B018 - reading it is the use
    async with view.transaction() as tx:
        assert await tx.fetch_value(COUNT_STOCK) == 1
        async with view.session() as session:
            assert (await session.get(Stock, 1)).quantity == 1
    assert await stock.fetch_value(COUNT_STOCK) == 1


async def test_read_only_means_it_inside_a_transaction_that_may_write(stock: Any) -> None:
    """There the server can't refuse, so we do: a write through a read-only view or scope is not sent."""
    async with stock.transaction() as tx:
        await tx.execute("update stock set quantity = 5")
        view = stock.using(read_only=True)
        assert await view.fetch_value(COUNT_STOCK) == 1
        for write in (
            lambda: view.execute("delete from stock"),
            lambda: view.execute_many(INSERT_STOCK, [row(2)]),
        ):
            with pytest.raises(StatementRefusedError, match="read_only"):
                await write()
        with stock.override(read_only=True):
            with pytest.raises(StatementRefusedError, match="read_only"):
                await tx.execute("delete from stock")
            with pytest.raises(UnsupportedError, match="read_only"):
                stock.session()
            assert await tx.fetch_value(COUNT_STOCK) == 1
    assert await stock.fetch_all("select id, quantity from stock") == [(1, 5)]


async def test_a_retry_override_is_in_force(stock: Any) -> None:
    """retry= of a view bounds what its verbs repeat."""
    from prefiq_db import classify_error
    from prefiq_db.errors import SerializationError

    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        raise SerializationError("in the way", classification=classify_error("postgresql", "40001"))

    with pytest.raises(SerializationError):
        await stock.using(retry=RetryPolicy(attempts=2, wait_initial_seconds=0)).run_in_transaction(body)
    assert calls == 2


# --- hooks ---------------------------------------------------------------------------------------


async def test_one_event_a_statement(stock: Any) -> None:
    """before and after get one event per statement of every kind: verbs, transactions, sessions, engine; not BEGIN."""
    started: list[StatementStarted] = []
    finished: list[StatementFinished] = []

    @stock.hooks.before
    def on_start(event: StatementStarted) -> None:
        started.append(event)

    @stock.hooks.after
    def on_end(event: StatementFinished) -> None:
        finished.append(event)

    assert callable(on_start)
    assert callable(on_end)
    await stock.fetch_all("select id from stock where quantity > :least", {"least": 0})
    async with stock.transaction() as tx:
        await tx.execute("update stock set quantity = 7")
        async with stock.transaction():
            await stock.execute("update stock set quantity = 8")
    await stock.execute_many(INSERT_STOCK, [row(2), row(3)])
    async with stock.session() as session:
        assert (await session.get(Stock, 1)).quantity == 8
        session.add(Stock(id=4, quantity=4))
        await session.commit()
    await on_engine(stock, lambda connection: connection.execute(text(COUNT_STOCK)).scalar_one())
    verbs = [event.statement.split()[0].lower() for event in started]
    assert verbs == ["select", "update", "update", "insert", "select", "insert", "select"]
    assert [event.statement for event in finished] == [event.statement for event in started]
    assert [event.batch_size for event in finished] == [1, 1, 1, 2, 1, 1, 1]
    assert [event.rows for event in finished][1:4] == [1, 1, 2]
    assert all(event.database == "main" and event.duration_seconds >= 0 for event in finished)
    assert started[0].parameters == {"least": "<int>"}


async def test_a_failed_statement_is_one_error_event(stock: Any) -> None:
    """on_error gets kind and code; after gets nothing for it."""
    failed: list[StatementFailed] = []
    finished: list[StatementFinished] = []
    stock.hooks.on_error(failed.append)
    stock.hooks.after(finished.append)
    with pytest.raises(UniqueViolationError) as raised:
        await stock.execute(INSERT_STOCK, row(1))
    with pytest.raises(PrefiqDbError):
        await stock.fetch_all("select 'planted' from no_such_table")
    assert [event.kind for event in failed] == [ErrorKind.UNIQUE, ErrorKind.SCHEMA]
    assert failed[0].code == raised.value.code
    assert "planted" not in str(failed)
    assert finished == []


async def test_events_carry_no_value(stock: Any, backend: Backend) -> None:
    """Parameters appear as type and length, literals as ``?``; a bind called password not even so."""
    seen: list[Any] = []

    class Everything(Listener):
        def statement_started(self, event: StatementStarted) -> None:
            seen.append(event)

        def statement_finished(self, event: StatementFinished) -> None:
            seen.append(event)

        def statement_failed(self, event: StatementFailed) -> None:
            seen.append(event)

    stock.hooks.add(Everything())
    await stock.fetch_one("select :name, 'planted''s' /* planted */, 47114711 -- planted", {"name": "planted"})
    await stock.fetch_one("select :password", {"password": "planted"})
    if backend.name != "postgresql":
        await stock.fetch_one('select "planted"')
    await stock.execute_many(INSERT_STOCK, [{"id": 47114711, "quantity": 1}, {"id": 47114712, "quantity": 1}])
    with pytest.raises(PrefiqDbError):
        await stock.fetch_all("select * from stock where quantity = 'planted' and nothing = 47114711")
    with pytest.raises(PrefiqDbError):
        await stock.execute("insert into stock (id, nothing) values (:id, 'planted')", {"id": 47114711})
    assert len(seen) >= 10
    assert "planted" not in repr(seen)
    assert "47114711" not in repr(seen)
    assert seen[0].parameters == {"name": "<str:7>"}


async def test_a_raising_hook_is_logged_once_and_counted(stock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises never breaks a query, not even with the query's values in its error."""

    @stock.hooks.before
    def breaks(event: StatementStarted) -> None:
        raise ValueError("planted")

    @stock.hooks.after
    def breaks_too(event: StatementFinished) -> None:
        raise KeyError("planted")

    with caplog.at_level(logging.ERROR, logger="prefiq_db.hooks"):
        for _ in range(3):
            assert await stock.fetch_value(COUNT_STOCK) == 1
    assert stock.stats().hook_error_count == 6
    assert len(caplog.records) == 2
    assert "planted" not in caplog.text


async def test_what_is_no_hook_is_refused(db: Any) -> None:
    """A coroutine function or something else that isn't a function is refused when it is registered."""

    async def coroutine(event: Any) -> None: ...

    for wrong in (coroutine, "fn", 5, None):
        with pytest.raises(UsageError, match="hooks: expected"):
            db.hooks.after(wrong)
    with pytest.raises(UsageError, match="Listener"):
        db.hooks.add(object())


# --- stats and health ----------------------------------------------------------------------------


async def test_stats_count(stock: Any) -> None:
    """Statements, errors and the pool now; a view shares the counters of its database."""
    before = stock.stats()
    assert before.database == "main"
    async with stock.transaction() as tx:
        await tx.fetch_value(COUNT_STOCK)
        assert stock.stats().pool.checked_out == 1
    with pytest.raises(PrefiqDbError):
        await stock.using(timeout=9).fetch_all("select * from no_such_table")
    after = stock.stats()
    assert (after.statement_count - before.statement_count, after.error_count - before.error_count) == (2, 1)
    assert after.pool.checked_out == 0
    assert after.pool.idle >= 1
    assert after.pool.size == stock.settings.pool_size


async def test_a_living_database_is_well(db: Any, world: str) -> None:
    """ping gives seconds, test_connection True, health a report that is true and has its facts."""
    assert await db.ping() > 0
    assert await db.test_connection() is True
    report = await db.health()
    assert report
    assert report.healthy
    assert report.latency_seconds > 0
    assert report.reason == ""
    assert report.kind is None
    assert report.database == "main"
    assert report.details["mode"] == world


async def test_health_answers_inside_a_transaction(db: Any) -> None:
    """A ping goes over a connection of its own and does not disturb the transaction."""
    async with db.transaction() as tx:
        assert await tx.fetch_value("select 1") == 1
        assert await db.test_connection() is True
        assert await tx.fetch_value("select 2") == 2


async def test_health_never_raises_when_the_pool_is_empty(make_db: Callable[..., Any]) -> None:
    """No free connection is a reason, given within the deadline, and not an exception."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=30)
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        report = await db.health(timeout=0.05)
    assert not report
    assert report.kind is ErrorKind.POOL_TIMEOUT
    assert await db.test_connection() is True


async def test_a_closed_database_says_so_and_opens_again(stock: Any, backend: Backend) -> None:
    """After close() every verb raises ClosedError, health is a no with a reason; open() brings it back."""
    await stock.close()
    await stock.close()
    for verb, arguments in (
        ("fetch_all", ["select 1"]),
        ("execute", ["select 1"]),
        ("execute_many", [INSERT_STOCK, [row(9)]]),
        ("run_in_transaction", [lambda tx: None]),
        ("ping", []),
    ):
        with pytest.raises(ClosedError):
            await getattr(stock, verb)(*arguments)
    for call in (stock.transaction, stock.attempts, stock.session):
        with pytest.raises(ClosedError):
            call()
    assert await stock.test_connection() is False
    assert (await stock.health()).kind is ErrorKind.USAGE
    await stock.open()
    assert await stock.fetch_value(COUNT_STOCK) == 1
    assert await stock.test_connection() is True


async def test_is_healthy_asks_the_right_world(db: Any, world: str) -> None:
    """is_healthy and is_healthy_async answer for their world and refuse the other's database."""
    if world == "async":
        assert await is_healthy_async(db) is True
        with pytest.raises(UsageError, match="is_healthy_async"):
            is_healthy(db)
    else:
        assert is_healthy(db._wrapped) is True
        with pytest.raises(UsageError, match=r"is_healthy\("):
            await is_healthy_async(db._wrapped)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_is_down_is_a_no_and_never_an_exception(kind: str, request: pytest.FixtureRequest) -> None:
    """Server stopped: False, with the reason and within one attempt; started again: True, with no other help."""
    server = request.getfixturevalue(f"new_{kind}_server")()
    url = server.url(server.create_database())

    async def body(db: Any) -> None:
        await db.open()
        assert await db.test_connection() is True
        server.stop()
        assert await db.test_connection() is False
        report = await db.health()
        assert not report
        assert report.kind is ErrorKind.CONNECT_FAILED
        assert report.reason
        with pytest.raises(PrefiqDbError) as down:
            await db.ping()
        assert down.value.is_transient
        server.start()
        assert await db.test_connection() is True
        assert await db.fetch_value("select 1") == 1
        await db.close()

    drive(body(make_database("sync", url)))
    asyncio.run(body(make_database("async", url)))


def test_an_async_database_can_be_closed_and_opened_in_another_loop(backend: Backend) -> None:
    """``async with db`` in one asyncio.run after the other works: close() lets go of the loop."""
    db = AsyncDatabase(backend.url)

    async def body() -> Any:
        async with db:
            return await db.fetch_value("select 1")

    assert asyncio.run(body()) == 1
    assert asyncio.run(body()) == 1


def test_threads_without_the_context_are_not_confused(backend: Backend) -> None:
    """A plain thread inherits nothing: it works on its own connection, and a copied context is refused."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        results: list[Any] = []

        def work() -> None:
            try:
                results.append(db.fetch_value(COUNT_STOCK))
            except PrefiqDbError as error:
                results.append(type(error))

        with db.transaction(read_only=True):
            context = contextvars.copy_context()
            for target in (work, lambda: context.run(work)):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
        assert results == [0, TransactionOwnershipError]
