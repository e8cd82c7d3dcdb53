"""Behind pgbouncer COMMIT is in the message of a single write: whatever becomes of it, the caller is told the truth."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType, SimpleNamespace
from typing import Any

import psycopg
import pytest

from prefiq_db import RetryPolicy
from prefiq_db.drivers import psycopg as driver
from prefiq_db.drivers import psycopg_cancels
from prefiq_db.drivers.stopping import STOP_SECONDS
from prefiq_db.errors import ErrorKind, OutcomeUnknownError, PrefiqDbError
from prefiq_db.testing import PgBouncer
from prefiq_db.testing.links import Link
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.proxy import TcpProxy
from prefiq_db.transaction import Outcome
from tests.clusters import find
from tests.conftest import Backend

pytestmark = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
async_only = pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
sync_only = pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)])

ADD = "update stock set quantity = quantity + 1"
NOTHING = "update stock set quantity = quantity"
PATIENT = RetryPolicy(attempts=4, wait_initial_seconds=0.001, wait_max_seconds=0.01)


class Loser(TcpProxy):
    """Drops the reply to a COMMIT of what was written, and resets the connection when it comes."""

    is_on = False
    #: replies that were dropped
    lost = 0

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._writing: set[Link] = set()
        self._committing: set[Link] = set()

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.is_on and b"update stock" in data:
            self._writing.add(link)
        if link in self._writing and b"COMMIT" in data:
            self._committing.add(link)
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        if link not in self._committing:
            return data
        self._committing.discard(link)
        self.lost += 1
        self.after(0, lambda: self.reset_link(link))
        return b""


@pytest.fixture
def behind(backend: Backend) -> Iterator[Loser]:
    """What is between pgbouncer and the server."""
    server = backend.server
    assert server is not None
    server.execute("create table stock (id integer primary key, quantity integer not null)", _name(backend))
    server.execute("insert into stock values (1, 0)", _name(backend))
    with Loser(server.host, server.port) as made:
        yield made


@pytest.fixture
def pooler(backend: Backend, behind: Loser) -> Iterator[PgBouncer]:
    """A pgbouncer that isn't started yet, with one session of the server for everybody."""
    server = backend.server
    assert server is not None
    distant: Any = SimpleNamespace(host=behind.host, port=behind.port, user=server.user, _password=server._password)
    made = find("pgbouncer", PgBouncer, server=distant, pool_size=1)
    yield made
    made.close()


@pytest.fixture
def make(backend: Backend, pooler: PgBouncer, opened: Callable[..., Any]) -> Callable[..., Any]:
    usual = {"pgbouncer": True, "ssl_mode": "disable", "retry": PATIENT}
    return lambda **fields: opened(pooler.start().url(_name(backend)), **{**usual, **fields})


def _name(backend: Backend) -> str:
    return backend.url.rpartition("/")[2]


def _written(backend: Backend) -> int:
    """Ask the server itself how often it was written."""
    assert backend.server is not None
    ((quantity,),) = backend.server.execute("select quantity from stock", _name(backend))
    return int(quantity)


def _holding(backend: Backend) -> Any:
    """Hold the row's lock, on a connection to the server itself."""
    assert backend.server is not None
    holder = backend.server.connect(_name(backend))
    holder.execute("begin")
    holder.execute("update stock set quantity = quantity")
    return closing(holder)


def _waiting(backend: Backend) -> bool:
    assert backend.server is not None
    asked = f"select count(*) from pg_stat_activity where datname = '{_name(backend)}' and wait_event_type = 'Lock'"
    return bool(backend.server.execute(asked) == [(1,)])


# --- the pooler loses the server -----------------------------------------------------------------


async def _last(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD, last=True)


WAYS: dict[str, Callable[[Any], Any]] = {
    "single": lambda db: db.execute(ADD),
    "timeout": lambda db: db.using(timeout=20).execute(ADD),
    "returning": lambda db: db.fetch_value(f"{ADD} returning quantity"),
    "last": _last,
    "run_in_transaction": lambda db: db.run_in_transaction(lambda tx: tx.execute(ADD, last=True)),
    "batch": lambda db: db.batch([ADD, "select 1"]),
    "block": lambda db: db.run_in_transaction(lambda tx: tx.execute(ADD)),
}


async def test_a_reply_lost_behind_the_pooler_leaves_it_unknown(make: Any, backend: Backend, behind: Loser) -> None:
    """pgbouncer then says in the server's place that it lost the server. That is no word on the write."""
    db = make()
    await db.execute(NOTHING)  # its reply is read to the end
    behind.is_on = True
    for number, (name, way) in enumerate(WAYS.items(), 1):
        with pytest.raises(OutcomeUnknownError) as caught:
            await way(db)
        assert caught.value.code == "08P01", name
        assert (_written(backend), behind.lost) == (number, number), name
    assert db.stats().unknown_outcome_count == len(WAYS)


async def test_control_the_poolers_word_taken_for_the_servers(
    make: Any, backend: Backend, behind: Loser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then each attempt writes."""
    for module in ("travellers", "psycopg_bursts"):
        monkeypatch.setattr(f"prefiq_db.drivers.{module}.is_servers_word", lambda reply: True)
    db = make()
    await db.execute(NOTHING)  # its reply is read to the end
    behind.is_on = True
    for number, name in enumerate(("single", "batch"), 1):
        with pytest.raises(PrefiqDbError) as caught:
            await WAYS[name](db)
        assert caught.value.kind is ErrorKind.CONNECTION_LOST, name
        assert _written(backend) == number * PATIENT.attempts, name


async def test_what_may_be_repeated_is_repeated(make: Any, backend: Backend, behind: Loser) -> None:
    db = make(retry=RetryPolicy(attempts=2, wait_initial_seconds=0.001))
    await db.execute(NOTHING)
    behind.is_on = True
    with pytest.raises(PrefiqDbError):
        await db.using(idempotent=True).execute("update stock set quantity = 7")
    assert (_written(backend), behind.lost) == (7, 2)
    assert db.stats().unknown_outcome_count == 0, "nobody has to look"
    behind.is_on = False
    assert await db.fetch_value("select quantity from stock") == 7


async def test_a_limit_of_the_poolers_own_leaves_it_unknown(make: Any, backend: Backend, pooler: PgBouncer) -> None:
    """query_timeout ends the connections on both sides; the server doesn't see that before it has committed."""
    pooler.settings["query_timeout"] = "1"
    db = make()
    with _holding(backend) as holder:
        with pytest.raises(OutcomeUnknownError):
            await db.execute(ADD)
        assert _written(backend) == 0
        holder.execute("commit")
    assert wait_until(lambda: _written(backend) == 1, timeout_seconds=30)


async def test_who_waits_for_a_session_in_vain_has_written_nothing(
    make: Any, backend: Backend, pooler: PgBouncer
) -> None:
    """pgbouncer lends its one session to another client all the time. So nothing was sent, and it may be repeated."""
    pooler.settings["query_wait_timeout"] = "1"
    db = make(retry=RetryPolicy(attempts=1))
    await db.fetch_value("select 1")
    with closing(psycopg.connect(pooler.url(_name(backend)))) as other:
        other.execute("select 1")
        for name in ("single", "batch"):
            with pytest.raises(PrefiqDbError) as caught:
                await WAYS[name](db)
            assert caught.value.kind is ErrorKind.TOO_MANY_CONNECTIONS, name
            assert caught.value.classification.retry_transaction, name
    assert _written(backend) == 0
    assert db.stats().unknown_outcome_count == 0


@pytest.mark.parametrize("waits", ["to log in", "to set its time zone"])
async def test_who_connects_in_vain_is_told_what_is_full(
    make: Any, backend: Backend, pooler: PgBouncer, waits: str
) -> None:
    """A client needs a session of the server before its first statement, too: nothing was sent."""
    assert backend.server is not None
    backend.server.execute(f"alter database \"{_name(backend)}\" set timezone = 'Asia/Kathmandu'")
    pooler.settings |= {"query_wait_timeout": "1", "max_user_connections": "1"}
    db = make(retry=RetryPolicy(attempts=1))
    # Of a database that it knows, pgbouncer answers a login by itself.
    held = _name(backend) if waits == "to set its time zone" else "postgres"
    with closing(psycopg.connect(pooler.url(held))) as other:
        other.execute("select 1")
        with pytest.raises(PrefiqDbError) as caught:
            await WAYS["single"](db)
    assert caught.value.kind is ErrorKind.TOO_MANY_CONNECTIONS
    assert caught.value.code == ("08P01" if waits == "to set its time zone" else None)
    assert caught.value.classification.retry_transaction
    await WAYS["single"](db)
    assert _written(backend) == 1


# --- the caller stops waiting --------------------------------------------------------------------


async def _execute(db: Any) -> None:
    await db.execute(ADD)


@async_only
@pytest.mark.parametrize("ends", ["written", "refused"])
async def test_a_cancelled_write_tells_what_became_of_it(make: Any, backend: Backend, ends: str) -> None:
    """It goes on: the same cancellation comes out when the server has answered, and tells the outcome."""
    db = make(lock_timeout_seconds=30 if ends == "written" else 1, retry=RetryPolicy(attempts=1))
    await db.fetch_value("select 1")
    with _holding(backend) as holder:
        task = asyncio.ensure_future(_execute(db))
        assert await asyncio.to_thread(wait_until, lambda: _waiting(backend), timeout_seconds=30)
        task.cancel("enough")
        await asyncio.sleep(0)
        if ends == "written":
            holder.execute("commit")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert caught.value.args == ("enough",)
    told = Outcome.COMMITTED if ends == "written" else Outcome.NOT_COMMITTED
    assert caught.value.transaction_outcome is told  # type: ignore[attr-defined]  # set by the block
    assert _written(backend) == (ends == "written")
    assert db.stats().pool.checked_out == 0


@async_only
async def test_a_timeout_of_pythons_tells_it_too(make: Any, backend: Backend) -> None:
    db = make()
    await db.fetch_value("select 1")
    with _holding(backend) as holder:

        async def end() -> None:
            assert await asyncio.to_thread(wait_until, lambda: _waiting(backend), timeout_seconds=30)
            limit.reschedule(0)
            await asyncio.sleep(0.01)
            holder.execute("commit")

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(None) as limit:
                ending = asyncio.ensure_future(end())
                await db.execute(ADD)
        await ending
    assert caught.value.__cause__.transaction_outcome is Outcome.COMMITTED  # type: ignore[union-attr]  # set by the block
    assert _written(backend) == 1


class EnoughError(Exception):
    """What a job queue's signal handler raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[type[BaseException]], None]]:
    """Raise an exception soon, from a signal handler."""
    raised: list[type[BaseException]] = []

    def handler(number: int, frame: FrameType | None) -> None:
        raise raised[-1]

    def interrupt(kind: type[BaseException]) -> None:
        raised.append(kind)
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield interrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@sync_only
@pytest.mark.parametrize("kind", [KeyboardInterrupt, EnoughError])
async def test_an_interrupted_write_is_unknown_and_goes_on(
    make: Any, backend: Backend, interrupt: Any, kind: type[BaseException]
) -> None:
    """Nobody waits for its end. Ctrl-C tells the outcome, and of a time limit's error the outcome is what matters."""
    db = make()
    await db.fetch_value("select 1")
    with _holding(backend) as holder:
        interrupt(kind)
        with pytest.raises(OutcomeUnknownError if kind is EnoughError else kind) as caught:
            await db.execute(ADD)
        assert getattr(caught.value, "transaction_outcome", Outcome.UNKNOWN) is Outcome.UNKNOWN
        assert _waiting(backend)
        holder.execute("commit")
    assert wait_until(lambda: _written(backend) == 1, timeout_seconds=30)
    assert db.stats().unknown_outcome_count == 1
    assert db.stats().pool.checked_out == 0


@sync_only
@pytest.mark.parametrize("kind", [KeyboardInterrupt, EnoughError])
async def test_control_a_write_that_is_stopped_is_not_done(
    make: Any, backend: Backend, interrupt: Any, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """It is the COMMIT behind it that keeps us from stopping it. Stopped, it has an outcome at once: nothing."""
    monkeypatch.setattr(driver.Connection, "is_committing", property(lambda self: False, lambda self, value: None))
    db = make()
    await db.fetch_value("select 1")
    with _holding(backend) as holder:
        interrupt(kind)
        with pytest.raises(kind) as caught:
            await db.execute(ADD)
        assert caught.value.transaction_outcome is Outcome.NOT_COMMITTED  # type: ignore[attr-defined]  # set by the block
        assert wait_until(lambda: not _waiting(backend), timeout_seconds=30)
        holder.execute("commit")
    assert _written(backend) == 0


async def test_our_own_clock_leaves_it_unknown(
    make: Any, backend: Backend, behind: Loser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes back from the server, which has done it."""
    monkeypatch.setattr("prefiq_db.dialects.clocks.GRACE_SECONDS", 0.5)
    db = make(statement_timeout_seconds=0.5)
    await db.fetch_value("select 1")
    monkeypatch.setattr(behind, "server_sent", lambda link, data: b"")
    with pytest.raises(OutcomeUnknownError):
        await db.execute(ADD)
    assert _written(backend) == 1


# --- the statement is to be stopped, and the server is silent ----------------------------------------

_SLOW_DDL = "create table slow as select 1 as one from pg_sleep(60)"


@pytest.mark.parametrize("breaks_off", [False, True], ids=["promised", "control"])
@pytest.mark.parametrize("how", ["clock", "interrupted"])
async def test_no_request_to_cancel_is_broken_off(
    make: Any,
    backend: Backend,
    behind: Loser,
    pooler: PgBouncer,
    world: str,
    interrupt: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    breaks_off: bool,
) -> None:
    """The caller waits for a moment, a thread for as long as it takes; in the control pgbouncer 1.18 ends itself."""
    if breaks_off and " 1.18." not in _version(pooler):
        pytest.skip("later versions of pgbouncer outlive it")
    if breaks_off:
        monkeypatch.setattr(psycopg_cancels, "_POOLER_SECONDS", STOP_SECONDS)
    db = make(statement_timeout_seconds=2 if how == "clock" else 30, retry=RetryPolicy(attempts=1))
    await db.fetch_value("select 1")
    call = _give_up_when_silent(db, interrupt, lambda: _is_running(backend), behind, how)
    with pytest.raises((OutcomeUnknownError, KeyboardInterrupt, asyncio.CancelledError)):
        await call
    time.sleep(2 * STOP_SECONDS)  # noqa: ASYNC251 - in both worlds, and nobody else is to do anything
    behind.restore()
    assert wait_until(lambda: not _is_running(backend), timeout_seconds=30)
    assert wait_until(lambda: not psycopg_cancels._waiting, timeout_seconds=30)
    if breaks_off:
        assert wait_until(lambda: not pooler.running, timeout_seconds=30)
        return
    assert await db.fetch_value("select 1") == 1
    assert pooler.running


def _version(pooler: PgBouncer) -> str:
    return subprocess.run([pooler._program, "-V"], check=True, capture_output=True, text=True).stdout


async def _give_up_when_silent(db: Any, interrupt: Any, runs: Any, behind: Loser, how: str) -> None:
    """Run the statement; once it runs, silence the network, and give up."""
    loop, task = (asyncio.get_running_loop(), asyncio.current_task()) if db.is_async else (None, None)

    def silence() -> None:
        assert wait_until(runs, timeout_seconds=30)
        behind.black_hole()
        if how == "clock":
            return
        if loop is not None and task is not None:
            loop.call_soon_threadsafe(task.cancel)
        else:
            interrupt(KeyboardInterrupt)

    watcher = threading.Thread(target=silence)
    watcher.start()
    try:
        await db.execute(_SLOW_DDL)
    finally:
        watcher.join()
        if task is not None:
            task.uncancel()


def _is_running(backend: Backend) -> bool:
    assert backend.server is not None
    asked = f"select 1 from pg_stat_activity where datname = '{_name(backend)}' and query = '{_SLOW_DDL}'"
    return bool(backend.server.execute(f"{asked} and state = 'active'"))
