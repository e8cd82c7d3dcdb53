"""A connection that comes back at a bad moment, on each way of a statement: its pool ends, or it is interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import Database
from tests.twins.injection import Halt, Injector, interrupted

WAYS = ("standard", "direct", "short")


def _core(db: Any) -> Any:
    return getattr(db, "_wrapped", db)._core


def take_way(db: Any, way: str) -> None:
    """Let the statements of *db* take one *way*."""
    core = _core(db)
    core.road.steps_aside = way == "standard"
    core.instance.is_usual = core.instance.sends_plainly = way == "short"


# --- a pool that ends --------------------------------------------------------------------------------


@contextmanager
def just_before_the_return(pool: Any, lane: Any, act: Callable[[], None]) -> Iterator[list[bool]]:
    """Do *act*, as another thread would, when a connection is about to be put among the idle ones."""
    owner, name = (pool._pool, "put") if lane is None else (lane, "put")
    put, acted = getattr(owner, name), list[bool]()

    def act_and_put(*arguments: Any) -> None:
        if not acted:
            acted.append(True)
            act()
        put(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, act_and_put)
        yield acted


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_that_comes_back_while_the_pool_is_closed_is_closed(
    make_db: Any, world: str, way: str
) -> None:
    """Nobody looks among the idle connections of a closed pool: its session would stay open at the server."""
    if way == "short" and world == "async":
        pytest.skip("a task gives back without awaiting: nothing of its event loop comes in between")
    db = make_db(pool_size=1, max_overflow=0)
    take_way(db, way)
    for _ in range(3):
        await db.fetch_value("select 1")
    road = _core(db).road
    pool: Any = road.engine.pool
    slot = pool._idle()
    pool._pool.put(slot, False)

    def end() -> None:
        pool.retire(True)
        pool.dispose()

    with just_before_the_return(pool, road._audience.lane if way == "short" else None, end) as acted:
        assert await db.fetch_value("select 1") == 1
    assert acted
    assert slot.dbapi_connection is None, "still open"
    assert not pool.checkedin()
    assert not pool.checkedout()


# --- an interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_of_the_return_leaves_nobody_asleep(tmp_path: Path, way: str) -> None:
    """Who waits gets the connection, whatever line of the return is interrupted."""
    with Database(f"sqlite:///{tmp_path / 'a.db'}", pool_size=1, max_overflow=0, pool_timeout_seconds=60) as db:
        take_way(db, way)
        first = last = 0
        for at in range(1, 2000):
            injector, waiter = Injector(Halt, at), _Waiter(db)
            with waiter.joining():
                error = interrupted(injector, lambda: db.fetch_value("select 1"))
            if injector.error is None:
                last = at
                break
            assert error is injector.error
            injector.error.__traceback__ = None  # the frames may hold what was to be returned
            del error
            if waiter.joined:
                first = first or at
                waiter.see_served(injector.stack[:3])
        assert 0 < first < last - 10, "nobody waited, or hardly a line of the return was interrupted"


class _Waiter:
    """A thread that begins to wait for the only connection while that is in use."""

    def __init__(self, db: Database) -> None:
        self._db, self._pool = db, db.engine.pool
        self._got: list[Any] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self.joined = False

    def _take(self) -> None:
        self._got.append(self._db.fetch_value("select 2"))

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Begin to wait as soon as a statement was sent."""
        for _ in range(3):  # until it is known, and a connection is idle
            self._db.fetch_value("select 1")
        dialect: Any = self._db.engine.dialect
        is_at_rest = dialect.is_at_rest

        def join(raw: Any) -> bool:
            pool: Any = self._pool
            if not self.joined and pool.checkedout() and _was_sent(raw, pool):
                self.joined = True
                self._thread.start()
                while not pool._line.waiters:
                    time.sleep(0.001)
            return bool(is_at_rest(raw))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dialect, "is_at_rest", join)
            yield

    def see_served(self, where: list[str]) -> None:
        waiters = self._pool._line.waiters  # type: ignore[attr-defined]
        is_asleep = bool(waiters)
        self._pool._line.serve()  # type: ignore[attr-defined]
        self._thread.join()
        assert not is_asleep, f"still waiting after an interruption at {where}"
        assert self._got == [2]


def _was_sent(raw: Any, pool: Any) -> bool:
    state = pool._dialect.watcher.holders()
    return bool(state and state[0].summary)
