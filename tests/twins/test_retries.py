"""What is safe to repeat is repeated, with exactly one effect; what isn't, never."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from prefiq_db import RetryPolicy, classify_error
from prefiq_db.errors import (
    ConnectionLostError,
    DeadlockError,
    ErrorKind,
    LockTimeoutError,
    OutcomeUnknownError,
    PrefiqDbError,
    SerializationError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.testing.links import Link
from prefiq_db.testing.proxy import TcpProxy
from tests import through
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import (
    CREATE_STOCK,
    INSERT_STOCK,
    is_waiting_for_lock,
    kill_session,
    session_id,
)

QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)
WAYS = ["run_in_transaction", "transactional", "attempts"]


@pytest.fixture
def stock(db: Any, run: Callable[[Any], Any]) -> Any:
    """The database with two rows in a table."""
    run(db.execute(CREATE_STOCK))
    run(db.execute_many(INSERT_STOCK, [row(1), row(2)]))
    return db


def row(number: int) -> dict[str, int]:
    return {"id": number, "quantity": number}


async def quantities(db: Any) -> list[int]:
    return [found.quantity for found in await db.fetch_all("select quantity from stock order by id")]


async def repeated(db: Any, way: str, body: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Run *body* by one of the three ways that repeat a transaction."""
    if way == "run_in_transaction":
        return await db.run_in_transaction(body, **options)
    if way == "transactional":
        return await db.transactional(**options)(body)()
    result = None
    for attempt in db.attempts(**options):
        async with attempt as tx:
            result = await body(tx)
    return result


class Attempts(Listener):
    """Keeps the failed attempts, and tells a worker of the first."""

    def __init__(self, event: Any = None) -> None:
        self.failed: list[AttemptFailed] = []
        self.event = event

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.failed.append(event)
        if self.event is not None:
            self.event.set()


# --- concurrency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_deadlock_is_repeated_to_one_effect(stock: Any, harness: Harness, backend: Backend, way: str) -> None:
    """Two transactions that lock two rows crosswise: one is the victim, runs again, and both took effect once."""
    if backend.name == "sqlite":
        pytest.skip("SQLite lets one writer in at a time: it can't deadlock")
    attempts = stock.hooks.add(Attempts())
    locked = [harness.event(), harness.event()]
    calls = [0, 0]

    def body(mine: int) -> Callable[[Any], Awaitable[int]]:
        async def work(tx: Any) -> int:
            calls[mine] += 1
            if backend.name == "postgresql":
                await tx.execute("set local deadlock_timeout = '20ms'")
            await tx.execute("update stock set quantity = quantity + 10 where id = :id", {"id": mine + 1})
            locked[mine].set()
            await locked[1 - mine].wait()
            await tx.execute("update stock set quantity = quantity + 100 where id = :id", {"id": 2 - mine})
            return mine

        return work

    results = await harness.together(
        lambda: repeated(stock, way, body(0), retry=QUICK), lambda: repeated(stock, way, body(1), retry=QUICK)
    )
    assert results == [0, 1]
    assert await quantities(stock) == [111, 112]
    assert sum(calls) == 2 + len(attempts.failed)
    assert {event.kind for event in attempts.failed} == {ErrorKind.DEADLOCK}
    assert stock.stats().retry_count == len(attempts.failed)
    assert stock.stats().pool.checked_out == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_serialization_failure_is_repeated_to_one_effect(
    stock: Any, harness: Harness, backend: Backend, way: str
) -> None:
    """A lost update under REPEATABLE READ (PostgreSQL) or a crossed lock under SERIALIZABLE (MariaDB) runs again."""
    if backend.name == "sqlite":
        pytest.skip("SQLite's writers wait for their turn at BEGIN")
    attempts = stock.hooks.add(Attempts())
    read = [harness.event(), harness.event()]

    def body(mine: int) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            now = await tx.fetch_value("select quantity from stock where id = 1")
            read[mine].set()
            await read[1 - mine].wait()
            await tx.execute("update stock set quantity = :new where id = 1", {"new": now + 10})

        return work

    await harness.together(
        *(lambda mine=mine: repeated(stock, way, body(mine), retry=QUICK, isolation="serializable") for mine in (0, 1))
    )
    assert await quantities(stock) == [21, 2]
    expected = ErrorKind.SERIALIZATION if backend.name == "postgresql" else ErrorKind.DEADLOCK
    assert {event.kind for event in attempts.failed} == {expected}


async def test_a_lock_timeout_is_repeated(make_db: Callable[..., Any], harness: Harness, backend: Backend) -> None:
    """A transaction that waits in vain for a lock is rolled back and runs again."""
    holder = make_db()
    db = make_db(lock_timeout_seconds=1 if backend.name == "mariadb" else 0.05)
    await holder.execute(CREATE_STOCK)
    await holder.execute(INSERT_STOCK, row(1))
    failed, calls = harness.event(), []
    attempts = db.hooks.add(Attempts(failed))

    async def body(tx: Any) -> None:
        calls.append("call")
        await tx.execute("update stock set quantity = quantity + 10")

    async def hold() -> None:
        async with holder.transaction() as tx:
            await tx.execute("update stock set quantity = quantity + 1")
            held.set()
            await failed.wait()

    async def work() -> None:
        await held.wait()
        await db.run_in_transaction(body, retry=RetryPolicy(attempts=50))

    held = harness.event()
    await harness.together(hold, work)
    assert attempts.failed[0].kind is ErrorKind.LOCK_TIMEOUT
    assert await holder.fetch_value("select quantity from stock") == 12


async def test_a_one_shot_waits_in_vain_and_is_repeated(
    make_db: Callable[..., Any], harness: Harness, backend: Backend
) -> None:
    """A one-shot write that got no lock was not done: it is sent again, and done once."""
    holder = make_db()
    db = make_db(lock_timeout_seconds=1 if backend.name == "mariadb" else 0.05)
    await holder.execute(CREATE_STOCK)
    await holder.execute(INSERT_STOCK, row(1))
    failed, held = harness.event(), harness.event()
    db.hooks.add(Attempts(failed))

    async def hold() -> None:
        async with holder.transaction() as tx:
            await tx.execute("update stock set quantity = quantity + 1")
            held.set()
            await failed.wait()

    async def work() -> None:
        await held.wait()
        many = db.using(retry=RetryPolicy(attempts=50))
        await many.execute("update stock set quantity = quantity + 10")

    await harness.together(hold, work)
    assert await holder.fetch_value("select quantity from stock") == 12


async def test_all_attempts_of_a_one_shot_are_told_of_one_call(
    make_db: Any, harness: Harness, backend: Backend
) -> None:
    """Also the first one, which a text that is known has made on the short way."""
    holder = make_db()
    db = make_db(lock_timeout_seconds=1 if backend.name == "mariadb" else 0.05, retry=RetryPolicy(attempts=3))
    await holder.execute(CREATE_STOCK)
    await holder.execute(INSERT_STOCK, row(1))
    for _ in range(3):
        await db.execute("update stock set quantity = quantity + 10")
    failed: list[Any] = []
    db.hooks.on_error(failed.append)
    held, done = harness.event(), harness.event()

    async def hold() -> None:
        async with holder.transaction() as tx:
            await tx.execute("update stock set quantity = quantity + 1")
            held.set()
            await done.wait()

    async def work() -> None:  # where a transaction is open, no statement takes the short way
        await held.wait()
        try:
            with pytest.raises(LockTimeoutError):
                await db.execute("update stock set quantity = quantity + 10")
        finally:
            done.set()

    await harness.together(hold, work)
    assert [event.retry_number for event in failed] == [0, 1, 2]
    assert len({event.call_id for event in failed}) == 1
    assert len({event.origin for event in failed}) == 1


# --- lost connections ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_lost_before_commit_is_repeated_to_one_effect(
    stock: Any, backend: Backend, way: str
) -> None:
    """The server ends the connection in the middle of a transaction: nothing of it was committed, and it runs again."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    sessions = []

    async def body(tx: Any) -> str:
        await tx.execute("update stock set quantity = quantity + 10 where id = 1")
        sessions.append(await session_id(tx, backend))
        if len(sessions) < 3:
            kill_session(backend, sessions[-1])
        await tx.execute("update stock set quantity = quantity + 10 where id = 2")
        return "done"

    assert await repeated(stock, way, body, retry=QUICK) == "done"
    assert len(set(sessions)) == 3
    assert await quantities(stock) == [11, 12]
    assert stock.stats().pool.checked_out == 0


async def test_a_lost_transaction_without_repetition_says_so(stock: Any, backend: Backend) -> None:
    """A with block can't run again: it raises ConnectionLostError, transient, and the next call works."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    tx = stock.transaction()

    async def body() -> None:
        async with tx:
            await tx.execute("update stock set quantity = 0")
            kill_session(backend, await session_id(tx, backend))
            await tx.execute("update stock set quantity = 0")

    with pytest.raises(PrefiqDbError) as lost:
        await body()
    assert lost.value.kind in (ErrorKind.CONNECTION_LOST, ErrorKind.SERVER_SHUTDOWN)
    assert lost.value.is_transient
    assert tx.outcome == "not committed"
    assert await quantities(stock) == [1, 2]


async def test_a_swallowed_loss_is_not_committed(stock: Any, backend: Backend) -> None:
    """Whoever swallows the loss of the connection can't go on: later statements and the end of the block raise."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    tx = stock.transaction()

    async def body() -> None:
        async with tx:
            await tx.execute("update stock set quantity = 0")
            kill_session(backend, await session_id(tx, backend))
            for _ in range(2):
                with pytest.raises(PrefiqDbError):
                    await stock.execute("update stock set quantity = 0")

    with pytest.raises(PrefiqDbError) as lost:
        await body()
    assert lost.value.classification.retry_transaction
    assert tx.outcome == "not committed"
    assert await quantities(stock) == [1, 2]


async def test_an_inner_block_is_never_repeated_alone(stock: Any, backend: Backend) -> None:
    """Inside a transaction run_in_transaction runs once per outer attempt; attempts() there is refused."""
    outer_calls, inner_calls = [], []

    async def inner(tx: Any) -> None:
        inner_calls.append("call")
        await tx.execute("update stock set quantity = quantity + 10 where id = 2")
        if len(inner_calls) == 1:
            raise conflict()

    async def outer(tx: Any) -> None:
        outer_calls.append("call")
        await tx.execute("update stock set quantity = quantity + 10 where id = 1")
        await stock.run_in_transaction(inner)
        with pytest.raises(UsageError, match="inner block"):
            stock.attempts()

    await stock.run_in_transaction(outer, retry=QUICK)
    assert len(outer_calls) == len(inner_calls) == 2
    assert await quantities(stock) == [11, 12]

    inner_calls.clear()

    async def once() -> None:
        async with stock.transaction():
            await stock.transactional(inner)()

    with pytest.raises(SerializationError):
        await once()
    assert len(inner_calls) == 1
    assert await quantities(stock) == [11, 12]


# --- one-shots -----------------------------------------------------------------------------------


def _who_waits(backend: Backend, session: int) -> int:
    """Return the session that waits for the lock: behind a pooler it needn't be the one that answered before."""
    if not through.IS_ON:
        return session
    assert backend.server is not None
    name = backend.url.rpartition("/")[2]
    waiting = f"select pid from pg_stat_activity where datname = '{name}' and wait_event_type = 'Lock'"
    return next((row[0] for row in backend.server.execute(waiting)), session)


async def lose_in_the_middle(
    db: Any, stock: Any, harness: Harness, backend: Backend, send: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """Run *send*, which waits for a lock on the only connection of *db*, and end that connection meanwhile."""
    session = await session_id(db, backend)
    held = harness.event()
    killed = harness.event()

    async def hold() -> None:
        async with stock.transaction() as tx:
            await tx.execute("update stock set quantity = quantity + 1 where id = 1")
            held.set()

            async def waits() -> bool:
                return await is_waiting_for_lock(backend, _who_waits(backend, session))

            await harness.until(waits)
            kill_session(backend, _who_waits(backend, session))
            killed.set()

    async def sender() -> Any:
        await held.wait()
        return await send()

    return await harness.together(sender, hold, return_exceptions=True)


async def test_a_write_whose_fate_is_unknown_is_not_repeated(
    stock: Any, make_db: Callable[..., Any], harness: Harness, backend: Backend
) -> None:
    """A one-shot write that was sent and never answered raises OutcomeUnknownError, after one try."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    db = make_db(pool_size=1, max_overflow=0)
    await db.open()
    before = db.stats().statement_count

    async def send() -> Any:
        await db.execute("update stock set quantity = quantity + 10 where id = 1")

    failure, held = await lose_in_the_middle(db, stock, harness, backend, send)
    assert held is None
    assert isinstance(failure, OutcomeUnknownError)
    assert failure.kind is ErrorKind.OUTCOME_UNKNOWN
    assert not failure.is_transient
    assert failure.__context__ is None
    assert db.stats().statement_count == before + 2  # session_id's and the one write
    assert db.stats().retry_count == 0
    assert await quantities(stock) == [2, 2]


async def test_a_write_that_may_be_sent_twice_is(
    stock: Any, make_db: Callable[..., Any], harness: Harness, backend: Backend
) -> None:
    """With idempotent=True the caller vouches for it, and the write is sent again."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    db = make_db(pool_size=1, max_overflow=0)
    await db.open()

    async def send() -> Any:
        await db.using(idempotent=True).execute("update stock set quantity = 50 where id = 1")

    assert await lose_in_the_middle(db, stock, harness, backend, send) == [None, None]
    assert db.stats().retry_count == 1
    assert await quantities(stock) == [50, 2]


_BUSY_READ = "select count(*) from stock a, stock b, stock c, stock d, stock e, stock f, stock g"
_KILL_BUSY = {
    "postgresql": "select pg_terminate_backend(pid) from pg_stat_activity where state = 'active' "
    "and query like 'select count(*) from stock a%'",
    "mariadb": "select id from information_schema.processlist where info like 'select count(*) from stock a%'",
}


async def test_a_read_is_repeated(stock: Any, make_db: Callable[..., Any], harness: Harness, backend: Backend) -> None:
    """A one-shot that provably only reads is sent again when its connection was lost in the middle of it."""
    if backend.name == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    await stock.execute_many(INSERT_STOCK, [row(number) for number in range(3, 100)])
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    await db.open()

    async def read() -> Any:
        return await db.fetch_value(_BUSY_READ)

    async def killer() -> None:
        server = backend.server
        assert server is not None

        async def found() -> bool:
            busy = server.execute(_KILL_BUSY[backend.name])
            if busy and backend.name == "mariadb":
                server.execute(f"kill {busy[0][0]}")
            return bool(busy)

        await stock.execute("delete from stock where id > 1")  # the read that runs already doesn't see it
        await harness.until(found)

    started = harness.event()
    db.hooks.before(lambda event: started.set())

    async def wait_then_kill() -> None:
        await started.wait()
        server = backend.server
        assert server is not None

        async def running() -> bool:
            sql = _KILL_BUSY[backend.name].replace("pg_terminate_backend(pid)", "pid")
            return bool(server.execute(sql))

        await harness.until(running)
        await killer()

    assert await harness.together(read, wait_then_kill) == [1, None]
    assert db.stats().retry_count == 1


class ReplyCutter(TcpProxy):
    """Passes everything on, but swallows the reply to a message with a marker in it; then the link can be cut."""

    marker = b"never"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.asked: set[Link] = set()
        self.swallowed = 0

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.marker in data:
            self.asked.add(link)
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        if link in self.asked:
            self.swallowed += 1
            return b""
        return data


@pytest.fixture
def cutter(backend: Backend) -> Iterator[ReplyCutter]:
    if backend.server is None:
        pytest.skip("SQLite has no reply to lose")
    with ReplyCutter(backend.server.host, backend.server.port) as proxy:
        yield proxy


@pytest.fixture
def distant(backend: Backend, world: str, cutter: ReplyCutter, run: Callable[[Any], Any]) -> Iterator[Any]:
    """A database behind the cutter."""
    db = make_database(world, cutter.url(backend.url), ssl_mode="disable", pool_size=1, retry=QUICK)
    run(db.open())
    yield db
    run(db.close())


async def with_lost_reply(
    cutter: ReplyCutter, harness: Harness, marker: bytes, send: Callable[[], Awaitable[Any]]
) -> Any:
    """Run *send*; the first reply to a message with *marker* is lost with its connection, after the server did it."""
    cutter.marker = marker

    async def cut() -> None:
        async def swallowed() -> bool:
            return cutter.swallowed > 0

        await harness.until(swallowed)
        cutter.marker = b"never"
        cutter.asked.clear()
        cutter.cut_all()

    return (await harness.together(send, cut, return_exceptions=True))[0]


async def test_a_lost_reply_to_a_write_is_never_a_second_write(
    stock: Any, distant: Any, cutter: ReplyCutter, harness: Harness
) -> None:
    """The server did it and its answer was lost: OutcomeUnknownError, done once. A blind retry does it twice."""
    increment = "update stock set quantity = quantity + 10 where id = 1"

    async def send() -> None:
        await distant.execute(increment)

    assert isinstance(await with_lost_reply(cutter, harness, b"quantity + 10", send), OutcomeUnknownError)
    assert await quantities(stock) == [11, 2]

    cutter.swallowed = 0

    async def blindly() -> None:
        try:
            await distant.execute(increment)
        except OutcomeUnknownError:
            await distant.execute(increment)

    assert await with_lost_reply(cutter, harness, b"quantity + 10", blindly) is None
    assert await quantities(stock) == [31, 2]


@pytest.mark.parametrize("way", WAYS)
async def test_a_lost_reply_to_commit_is_never_a_second_commit(
    stock: Any, distant: Any, cutter: ReplyCutter, harness: Harness, way: str
) -> None:
    """COMMIT was sent and its answer lost: the body is not run again, and the error says that nobody knows."""
    outcomes, calls = [], []

    async def body(tx: Any) -> None:
        outcomes.append(tx)
        calls.append("call")
        tx.on_commit(lambda: calls.append("on_commit"))
        tx.on_rollback(lambda: calls.append("on_rollback"))
        await tx.execute("update stock set quantity = quantity + 10 where id = 1")

    async def send() -> None:
        await repeated(distant, way, body)

    failure = await with_lost_reply(cutter, harness, b"COMMIT", send)
    assert isinstance(failure, OutcomeUnknownError)
    assert outcomes[0].outcome == "unknown"
    assert calls == ["call"]
    assert await quantities(stock) == [11, 2]
    assert distant.stats().pool.checked_out == 0


# --- limits --------------------------------------------------------------------------------------


def conflict() -> SerializationError:
    return SerializationError("in the way", code="40001", classification=classify_error("postgresql", "40001"))


async def test_a_policy_bounds_the_attempts(stock: Any) -> None:
    """attempts counts the first one, total_seconds ends it as well; then the last error leaves as it is."""
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute("update stock set quantity = 0")
        raise conflict()

    for way, policy, expected in (
        *((way, RetryPolicy(attempts=1), 1) for way in WAYS),
        *((way, RetryPolicy(attempts=3, wait_initial_seconds=0.001), 3) for way in WAYS),
        *((way, RetryPolicy(attempts=50, wait_initial_seconds=0, total_seconds=0), 1) for way in WAYS),
    ):
        calls = 0
        with pytest.raises(SerializationError) as last:
            await repeated(stock, way, body, retry=policy)
        assert calls == expected
        assert last.value.__cause__ is None
        assert last.value.__context__ is None
    for way in WAYS:
        calls, given = 0, RetryPolicy(attempts=2, wait_initial_seconds=0.001)
        with stock.override(retry=given), pytest.raises(SerializationError):
            await repeated(stock, way, body)
        assert calls == 2
    assert await quantities(stock) == [1, 2]


async def test_what_cannot_succeed_passes_at_once(stock: Any) -> None:
    """A constraint, or an error of the caller's own, is raised after one call."""
    calls = 0

    async def duplicate(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute(INSERT_STOCK, row(1))

    async def wrong(tx: Any) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    for way in WAYS:
        calls = 0
        with pytest.raises(UniqueViolationError):
            await repeated(stock, way, duplicate)
        with pytest.raises(ZeroDivisionError):
            await repeated(stock, way, wrong)
        assert calls == 2
    assert stock.stats().retry_count == 0


async def test_attempts_are_blocks(stock: Any) -> None:
    """The loop ends by itself after success; an attempt that isn't entered is an error, not an endless loop."""
    numbers = []
    for attempt in stock.attempts(retry=QUICK):
        numbers.append(attempt.number)
        async with attempt as tx:
            await tx.execute("update stock set quantity = quantity + 10 where id = 1")
            if len(numbers) < 3:
                raise conflict()
    assert numbers == [1, 2, 3]
    assert await quantities(stock) == [11, 2]
    with pytest.raises(UsageError, match="an attempt is a block"):
        for _ in stock.attempts():
            pass
    async for attempt in stock.attempts():
        async with attempt as tx:
            await tx.execute("update stock set quantity = 0 where id = 1")
    assert await quantities(stock) == [0, 2]


async def test_arguments_and_results_pass_through(stock: Any) -> None:
    """run_in_transaction and transactional hand over arguments and give back what the body returns."""

    async def body(tx: Any, number: int, *, factor: int = 1) -> int:
        await tx.execute("update stock set quantity = :n where id = 1", {"n": number * factor})
        return number * factor

    assert await stock.run_in_transaction(body, 4, factor=3) == 12
    decorated = stock.transactional(retry=QUICK, isolation="serializable")(body)
    assert await decorated(5, factor=2) == 10
    assert await quantities(stock) == [10, 2]


async def test_no_callback_of_a_failed_attempt_runs_on_commit(stock: Any) -> None:
    """on_commit of an attempt that was rolled back never runs; that of the one that was committed does, once."""
    calls = 0
    seen: list[str] = []

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        number = calls
        tx.on_commit(lambda: seen.append(f"committed {number}"))
        tx.on_rollback(lambda: seen.append(f"rolled back {number}"))
        if calls == 1:
            raise conflict()

    await stock.run_in_transaction(body, retry=QUICK)
    assert seen == ["rolled back 1", "committed 2"]


# --- what is told, and who waits -----------------------------------------------------------------


async def test_attempts_appear_in_the_log(stock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each failed attempt is one record with structured fields and no value, and one event for listeners."""
    attempts = stock.hooks.add(Attempts())
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise conflict()

    with caplog.at_level(logging.WARNING, logger="prefiq_db.retry"):
        await stock.run_in_transaction(body, retry=QUICK)
    records = [record for record in caplog.records if record.name == "prefiq_db.retry"]
    assert [record.attempt for record in records] == [1, 2]
    assert {(record.database, record.error_kind, record.code) for record in records} == {
        ("main", "serialization", "40001")
    }
    assert all(0 <= record.wait_seconds <= 0.002 for record in records)
    assert [(event.database, event.attempt, event.kind, event.code) for event in attempts.failed] == [
        ("main", 1, ErrorKind.SERIALIZATION, "40001"),
        ("main", 2, ErrorKind.SERIALIZATION, "40001"),
    ]
    assert stock.stats().retry_count == 2


async def test_a_waiting_retry_does_not_block_the_loop(stock: Any, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a retry waits, other tasks of the loop go on."""
    if world == "sync":
        pytest.skip("a sync retry blocks its thread, as it should")
    monkeypatch.setattr("prefiq_db.retry.random.random", lambda: 1.0)
    ticks, before, calls = 0, 0, 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    class Watch(Listener):
        def attempt_failed(self, event: AttemptFailed) -> None:
            nonlocal before
            before = ticks

    async def body(tx: Any) -> None:
        nonlocal calls
        await tx.fetch_value("select 1")  # lets the loop turn
        calls += 1
        if calls == 1:
            raise conflict()

    stock.hooks.add(Watch())
    for way in WAYS:
        calls = 0
        task = asyncio.create_task(ticker())
        await repeated(stock, way, body, retry=RetryPolicy(wait_initial_seconds=0.1))
        waited = ticks - before
        task.cancel()
        assert calls == 2
        assert before > 0
        # Statements and COMMIT let the loop turn some times, too; a wait of a tenth of a second, a few thousand times.
        assert waited > 300


async def test_classes_of_concurrency_errors_say_that_they_pass(stock: Any) -> None:
    """Deadlock, serialization and lock timeout are one family to callers, whichever database."""
    for dialect, code, cls in (
        ("postgresql", "40P01", DeadlockError),
        ("mariadb", 1213, DeadlockError),
        ("mariadb", 1205, LockTimeoutError),
        ("postgresql", "40001", SerializationError),
        ("sqlite", 5, LockTimeoutError),
    ):
        found = classify_error(dialect, code)
        assert found.transient
        assert found.retry_transaction
        assert cls.default_kind is found.kind
    assert classify_error("postgresql", "08006").connection_lost
    assert ConnectionLostError.default_kind is ErrorKind.CONNECTION_LOST
