"""Many tasks read over few connections, and many of them are cancelled: nobody gets another one's row, nothing leaks.

``PREFIQ_CANCELLED_STATEMENTS=100000`` makes the short version the long one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import anyio
import pytest

from prefiq_db.bridge import spawn
from prefiq_db.dialects.awaiting import Reply
from prefiq_db.dialects.awaiting_mariadb import AwaitingMariadb
from prefiq_db.dialects.awaiting_postgresql import AwaitingPostgresql
from prefiq_db.drivers.psycopg import AsyncConnection
from prefiq_db.drivers.travellers_mysql import QUERY
from prefiq_db.execution.direct import BrokenShot, DirectShot
from prefiq_db.pool.slots import SlottedPool
from tests.conftest import Backend

pytestmark = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)

_STATEMENTS = int(os.environ.get("PREFIQ_CANCELLED_STATEMENTS") or 5000)
_TASKS = 64
_CONNECTIONS = 10
_ROWS = 500
_SEED = 14

_FAST = "select id, label from crowd where id = :id"
#: long enough that a cancellation often hits it
_SLOW = {
    "sqlite": "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)"
    " select id, label, (select count(*) from n) from crowd where id = :id",
    "postgresql": "select id, label, pg_sleep(0.002) from crowd where id = :id",
    "mariadb": "select id, label, sleep(0.002) from crowd where id = :id",
}

Verb = Callable[[int], Awaitable[Any]]


async def _never(read: Awaitable[Any], draw: random.Random) -> Any:
    return await read


async def _by_cancel(read: Awaitable[Any], draw: random.Random) -> Any:
    task = asyncio.ensure_future(read)
    for _ in range(draw.choice((0, 1, 2, 3, 5, 8, 13))):
        await asyncio.sleep(0)
    task.cancel()
    return await task


def _seconds(draw: random.Random) -> float:
    """Return when to give up: in the line already, or with a connection, however slow the machine is."""
    return draw.random() * draw.choice((0.004, 0.04, 0.4))


async def _by_timeout(read: Awaitable[Any], draw: random.Random) -> Any:
    async with asyncio.timeout(_seconds(draw)):
        return await read


async def _by_scope(read: Awaitable[Any], draw: random.Random) -> Any:
    with anyio.move_on_after(_seconds(draw)):
        return await read
    raise TimeoutError


class _SiblingError(Exception):
    """What ends a group of tasks."""


async def _by_group(read: Awaitable[Any], draw: random.Random) -> Any:
    async def fail() -> None:
        await asyncio.sleep(_seconds(draw))
        raise _SiblingError

    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(read)  # type: ignore[arg-type]  # it is a coroutine
            group.create_task(fail())
    except* _SiblingError:
        pass
    return task.result()


_WAYS = (_never, _never, _never, _by_cancel, _by_cancel, _by_timeout, _by_scope, _by_group)


class Crowd:
    """The tasks, and what they found.

    Attributes:
        found: what must not be: another one's row, or an error that nobody asked for.
        read: how many rows were the right ones.
        cancelled: how many reads were given up.
    """

    def __init__(self, verbs: list[Verb], statements: int) -> None:
        self.verbs = verbs
        self.left = statements
        self.found: list[str] = []
        self.read = self.cancelled = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._work(random.Random(_SEED + number)) for number in range(_TASKS)))

    async def _work(self, draw: random.Random) -> None:
        while self.left > 0 and len(self.found) < 20:
            self.left -= 1
            wanted = draw.randint(1, _ROWS)
            try:
                row = await draw.choice(_WAYS)(draw.choice(self.verbs)(wanted), draw)
            except (asyncio.CancelledError, TimeoutError):
                self.cancelled += 1
            except Exception as error:
                self.found.append(repr(error))
            else:
                self.read += 1
                if row is None or tuple(row[:2]) != (wanted, f"row {wanted}"):
                    self.found.append(f"asked for {wanted}, got {row!r}")


async def _crowd(make_db: Any, backend: Backend, statements: int, **options: Any) -> tuple[Crowd, Any]:
    db = make_db(pool_size=_CONNECTIONS, max_overflow=0, **options)
    await db.execute("create table crowd (id integer primary key, label varchar(20) not null)")
    await db.execute_many(
        "insert into crowd (id, label) values (:id, :label)",
        [{"id": n, "label": f"row {n}"} for n in range(1, _ROWS + 1)],
    )
    slow = _SLOW[backend.name]
    crowd = Crowd(
        [
            lambda wanted: db.fetch_one(_FAST, {"id": wanted}),
            lambda wanted: db.fetch_exactly_one(_FAST, {"id": wanted}),
            lambda wanted: db.fetch_one(slow, {"id": wanted}),
        ],
        statements,
    )
    await crowd.run()
    return crowd, db


def _leaks(db: Any) -> list[str]:
    """Return what is left behind when everybody has gone."""
    pool = db.engine.sync_engine.pool
    stats = db.stats().pool
    found = {
        "checked out": stats.checked_out,
        "waiting": stats.pending,
        "slots too many": max(0, len(pool._places) - _CONNECTIONS),
        "slots not idle": len(pool._places) - stats.idle,
    }
    return [f"{name}: {count}" for name, count in found.items() if count]


@pytest.mark.timeout(max(600, _STATEMENTS // 10))
async def test_nobody_gets_another_ones_row_and_nothing_leaks(make_db: Any, backend: Backend) -> None:
    crowd, db = await _crowd(make_db, backend, _STATEMENTS, pool_timeout_seconds=60)
    print(f"{backend.name}: {crowd.read} read, {crowd.cancelled} cancelled, found: {crowd.found}")
    assert crowd.found == []
    assert crowd.read + crowd.cancelled == _STATEMENTS
    assert crowd.cancelled > _STATEMENTS // 20, "a crowd that is never cancelled shows nothing"
    assert crowd.read > _STATEMENTS // 5
    assert _leaks(db) == []
    rows = await asyncio.gather(*(db.fetch_value("select :n", {"n": str(n)}) for n in range(100)))
    assert rows == [str(n) for n in range(100)]


# --- the controls: the same crowd finds a fault that is planted -------------------------------------


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
async def test_control_a_connection_that_comes_back_unread_is_found(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back after a cancelled read, as it is: the next one gets the row, or meets a connection that is busy."""
    end = BrokenShot.go

    def give_back(shot: BrokenShot) -> NoReturn:
        if not (shot.sent and isinstance(shot.failure, asyncio.CancelledError)):
            end(shot)
        shot.is_done = True  # the pool gets it as if its reply had been read
        raise shot.failure

    async def read_later(dialect: Any, raw: Any, statement: str, parameters: Any) -> Reply:
        """As the driver does, but without closing what is cancelled before its reply is read."""
        connection, cursor = raw._connection, raw._connection.cursor()
        await connection._execute_command(QUERY, cursor.mogrify(statement, parameters))
        await asyncio.sleep(0.001)
        result = await connection.read_reply()
        cursor._set_cached_rows(tuple(result.rows), result.description)
        return Reply(cursor, result.rows)

    monkeypatch.setattr(BrokenShot, "go", give_back)
    monkeypatch.setattr(DirectShot, "drop", lambda shot: None)
    monkeypatch.setattr(AsyncConnection, "_can_be_stopped", lambda connection: False)
    monkeypatch.setattr(AwaitingMariadb, "execute_awaited", read_later)
    for dialect in (AwaitingMariadb, AwaitingPostgresql):  # nor does anybody look at it before it is used again
        monkeypatch.setattr(dialect, "is_ready", lambda dialect, raw, state, now: True)
        monkeypatch.setattr(dialect, "is_at_rest", lambda dialect, raw: True, raising=False)
    crowd, db = await _crowd(make_db, backend, 2000, pool_timeout_seconds=5)
    assert crowd.found
    monkeypatch.undo()
    await db.close()
    gc.collect()


async def test_control_a_connection_that_does_not_come_back_is_found(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled read that keeps its connection: soon nobody gets one, and what is held is told."""
    end = DirectShot.end
    kept: list[DirectShot] = []

    def keep(shot: DirectShot) -> None:
        if shot.sent and not shot.is_done and len(kept) < 3:
            kept.append(shot)
            return
        end(shot)

    monkeypatch.setattr(BrokenShot, "go", _raise_only)
    monkeypatch.setattr(DirectShot, "drop", lambda shot: None)
    monkeypatch.setattr(DirectShot, "end", keep)
    monkeypatch.setattr(SlottedPool, "_drop", lambda pool, record: None)
    _, db = await _crowd(make_db, backend, 1000, pool_timeout_seconds=5)
    assert kept
    assert _leaks(db)
    monkeypatch.undo()
    for shot in kept:
        await spawn(shot.drop)


def _raise_only(shot: BrokenShot) -> NoReturn:
    assert shot.failure is not None
    raise shot.failure
