"""An async transaction waits once for each message, and for COMMIT in its own task; nothing is less safe for it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.bridge import AsyncRuntime
from prefiq_db.dialects import awaiting_mariadb
from prefiq_db.dialects.awaiting import OneWait
from prefiq_db.dialects.awaiting_mariadb import AwaitingMariadb
from prefiq_db.dialects.awaiting_postgresql import AwaitingPostgresql
from prefiq_db.dialects.awaiting_sqlite import _Turn
from prefiq_db.drivers.psycopg import AsyncConnection
from prefiq_db.drivers.travellers_mysql import QUERY
from prefiq_db.execution.pinned import Pinned
from prefiq_db.pool.vetting import _VettingPool
from prefiq_db.transaction import Outcome
from prefiq_db.transaction.scope import Scope
from tests.conftest import Backend
from tests.twins.test_cancelled_crowds import _CONNECTIONS, _FAST, _ROWS, _SLOW, Crowd, _leaks

pytestmark = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)

_UPDATE = "update crowd set label = :label where id = :id"


async def _filled(make_db: Any, **options: Any) -> Any:
    db = make_db(**options)
    await db.execute("create table crowd (id integer primary key, label varchar(20) not null)")
    await db.execute_many(
        "insert into crowd (id, label) values (:id, :label)",
        [{"id": n, "label": f"row {n}"} for n in range(1, _ROWS + 1)],
    )
    return db


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the statements that wait once, and COMMITs by how they are shielded."""
    found: Counter[str] = Counter()

    def note(kind: type, name: str) -> None:
        original: Callable[..., Any] = getattr(kind, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            found[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(kind, name, counted)

    note(OneWait, "execute")
    note(AsyncRuntime, "undisturbed")
    note(AsyncRuntime, "shielded")
    return found


async def test_statements_of_a_transaction_wait_once(make_db: Any, backend: Backend, counts: Counter[str]) -> None:
    db = await _filled(make_db)
    for _ in range(3):
        counts.clear()
        async with db.transaction() as tx:
            assert await tx.fetch_value("select label from crowd where id = :id", {"id": 3}) == "row 3"
            await tx.execute(_UPDATE, {"id": 3, "label": "row 3"})
    controls = {"sqlite": 2, "postgresql": 0, "mariadb": 1}  # BEGIN and COMMIT; psycopg has a way of its own
    assert counts["execute"] == 2 + controls[backend.name]
    assert (counts["undisturbed"], counts["shielded"]) == (1, 0)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_each_of_them_is_one_turn_in_sqlites_thread(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiosqlite import Connection

    turns: Counter[str] = Counter()
    take, execute = _Turn.take, Connection._execute

    def counted_turn(turn: _Turn) -> None:
        turns["ours"] += 1
        take(turn)

    async def counted(self: Any, work: Any, *arguments: Any, **options: Any) -> Any:
        turns["the driver's own"] += 1
        return await execute(self, work, *arguments, **options)

    db = await _filled(make_db)
    monkeypatch.setattr(_Turn, "take", counted_turn)
    monkeypatch.setattr(Connection, "_execute", counted)
    async with db.transaction() as tx:
        await tx.fetch_all("select label from crowd")
        await tx.execute(_UPDATE, {"id": 3, "label": "row 3"})
    assert turns == {"ours": 4}, "BEGIN, two statements, COMMIT"


async def test_functions_of_the_callers_run_in_a_task_of_their_own(make_db: Any, counts: Counter[str]) -> None:
    """They may cancel the task that they run in, as ``asyncio.timeout()`` does, and COMMIT goes on."""
    db = await _filled(make_db)
    seen: list[str] = []

    async def gives_up() -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            seen.append("gave up")

    counts.clear()
    async with db.transaction() as tx:
        await tx.execute(_UPDATE, {"id": 3, "label": "other"})
        tx.on_commit(gives_up)
    assert (counts["undisturbed"], counts["shielded"]) == (0, 1)
    assert seen == ["gave up"]
    assert tx.callback_errors == ()


async def test_a_listener_that_comes_in_the_middle_runs_in_a_task_of_its_own(
    make_db: Any, counts: Counter[str]
) -> None:
    """SQLAlchemy's listeners may cancel the task that they run in, too."""
    db = await _filled(make_db)
    engine = db.engine.sync_engine
    counts.clear()
    async with db.transaction() as tx:
        await tx.execute(_UPDATE, {"id": 3, "label": "other"})
        sa.event.listen(engine, "commit", lambda connection: None)
    assert (counts["undisturbed"], counts["shielded"]) == (0, 1)


async def test_a_cancelled_commit_ends_and_is_told(make_db: Any) -> None:
    """At each turn of the loop in which the block is left."""
    db = await _filled(make_db)
    outcomes: Counter[Outcome] = Counter()

    async def write(label: str) -> None:
        async with db.transaction() as tx:
            await tx.execute(_UPDATE, {"id": 1, "label": label})
            leaving.set()

    for turns in range(12):
        leaving = asyncio.Event()
        task = asyncio.create_task(write(f"label {turns}"))
        await leaving.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            outcome = getattr(error, "transaction_outcome", Outcome.NOT_COMMITTED)
        else:
            outcome = Outcome.COMMITTED
        outcomes[outcome] += 1
        is_there = await db.fetch_value("select label from crowd where id = 1") == f"label {turns}"
        assert is_there == (outcome is Outcome.COMMITTED)
    assert outcomes[Outcome.COMMITTED]
    assert _leaks(db) == []


# --- a crowd ---------------------------------------------------------------------------------------


async def _crowd(make_db: Any, backend: Backend, calls: int, **options: Any) -> tuple[Crowd, Any]:
    db = await _filled(make_db, pool_size=_CONNECTIONS, max_overflow=0, **options)
    reads_only = backend.name == "sqlite"  # whose writers come one after the other

    def reading(*texts: str) -> Callable[[int], Any]:
        async def read(wanted: int) -> Any:
            async with db.transaction(read_only=reads_only) as tx:
                for text in texts:
                    row = await tx.fetch_one(text, {"id": wanted})
                    if row is None or row[0] != wanted:
                        return row
                return row

        return read

    slow = _SLOW[backend.name]
    crowd = Crowd([reading(_FAST), reading(_FAST, _FAST), reading(_FAST, slow), reading(slow)], calls)
    await crowd.run()
    return crowd, db


@pytest.mark.timeout(600)
async def test_nobody_gets_another_ones_row_and_nothing_leaks(make_db: Any, backend: Backend) -> None:
    """64 tasks over 10 connections, cancelled in five ways, each call in a transaction."""
    crowd, db = await _crowd(make_db, backend, 1500, pool_timeout_seconds=60)
    assert crowd.found == []
    assert crowd.read + crowd.cancelled == 1500
    assert crowd.cancelled > 75
    assert crowd.read > 300
    assert _leaks(db) == []
    rows = await asyncio.gather(*(db.fetch_value("select :n", {"n": str(n)}) for n in range(100)))
    assert rows == [str(n) for n in range(100)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections that nobody closes
@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
async def test_control_a_connection_handed_on_in_the_middle_of_a_reply_is_found(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back as it is after a cancelled statement: the next one gets its row, or meets a busy connection."""
    handle = Pinned._handle_dbapi_exception

    def unhandled(self: Pinned, error: BaseException, *about: Any) -> None:
        if isinstance(error, asyncio.CancelledError):
            raise error
        handle(self, error, *about)

    def handed_on(self: Pinned) -> None:
        if self._is_held:
            record = self._connection_record
            self._let_go()
            record.pool.give_back(record)

    async def read_later(cursor: Any, statement: str, parameters: Any) -> None:
        """As the driver does, but without closing what is cancelled before its reply is read."""
        driver, own = cursor._adapted._connection, cursor._cursor
        await driver._execute_command(QUERY, own.mogrify(statement, parameters))
        await asyncio.sleep(0.001)
        result = await driver.read_reply()
        own._set_cached_rows(tuple(result.rows or ()), result.description)
        cursor.rows = result.rows or ()

    monkeypatch.setattr(Pinned, "_handle_dbapi_exception", unhandled)
    monkeypatch.setattr(Pinned, "rollback", lambda pinned: None)
    monkeypatch.setattr(Pinned, "close", handed_on)
    monkeypatch.setattr(Pinned, "discard", handed_on)
    monkeypatch.setattr(Scope, "doubt", lambda scope: None)
    monkeypatch.setattr(AsyncConnection, "_can_be_stopped", lambda connection: False)
    monkeypatch.setattr(awaiting_mariadb._OneReply, "_carry_out", read_later)
    monkeypatch.setattr(_VettingPool, "_unfit", lambda pool, record: None)  # nor does anybody look at it
    for dialect in (AwaitingMariadb, AwaitingPostgresql):
        monkeypatch.setattr(dialect, "is_at_rest", lambda dialect, raw: True, raising=False)
    crowd, db = await _crowd(make_db, backend, 1000, pool_timeout_seconds=5)
    assert crowd.found
    monkeypatch.undo()
    await db.close()
    gc.collect()
