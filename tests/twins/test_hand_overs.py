"""What passes from one user of a connection to the next: never an open transaction, on any driver."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from prefiq_db import Database
from prefiq_db.bridge import spawn
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.mariadb import _MySQLFamily
from prefiq_db.engine_class import PrefiqEngine
from prefiq_db.errors import PrefiqDbError
from prefiq_db.pool.vetting import _VettingPool
from tests.conftest import Backend
from tests.twins.hand_over_machine import CommitListenerError, HandOvers, Place, raising_listener
from tests.twins.harness import make_database
from tests.twins.support import on_sync_engine

_STEPS_PER_EXAMPLE = 25
# The long form: PREFIQ_HAND_OVER_STEPS=20000, for each driver.
_IS_LONG = bool(os.environ.get("PREFIQ_HAND_OVER_STEPS"))
_STEPS = int(os.environ.get("PREFIQ_HAND_OVER_STEPS") or 1000)


@pytest.fixture
def place(backend: Backend, world: str, loop_runner: asyncio.Runner) -> Iterator[Place]:
    is_async = world == "async"
    db = make_database(world, backend.url, pool_size=1, max_overflow=0, pool_timeout_seconds=5)
    raw = db if is_async else db._wrapped

    def run(fn: Callable[[], Any]) -> Any:
        return loop_runner.run(spawn(fn)) if is_async else fn()

    with Database(backend.url, pool_size=1) as oracle:
        made = Place(backend.name, raw, run, oracle, is_async)
        made.prepare()
        run(raw._core.open)
        yield made
        run(raw._core.close)


def _run(place: Place, steps: int, found: list[str], *, shrink: bool = True) -> None:
    machine = type("HandOversHere", (HandOvers,), {"place": place, "found": found})
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, steps // _STEPS_PER_EXAMPLE),
            stateful_step_count=_STEPS_PER_EXAMPLE,
            deadline=None,
            database=None,
            derandomize=True,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


@pytest.mark.timeout(max(600, _STEPS))
def test_whatever_one_user_leaves_the_next_is_safe(place: Place) -> None:
    """What was acknowledged is there, what was refused is not, and nothing is open that nobody holds."""
    _run(place, _STEPS, [])


# --- controls: each of these is how it was, or would be without one of the guards ------------------


def _trusting_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_VettingPool, "_is_at_rest", lambda self, record: True)


def _refusal_without_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    _trusting_pool(monkeypatch)
    monkeypatch.setattr(PrefiqDialect, "_undo_refused", lambda self, proxied: None)


def _acknowledged_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left open is rolled back, and the caller is told that all is well."""
    senders = ("go", "_go_on", "shoot", "_shot", "shoot_awaited")

    def acknowledged(self: Any, at_rest: Callable[[Any, Any], bool], connection: Any) -> bool:
        return at_rest(self, connection) or sys._getframe(1).f_code.co_name in senders

    for dialect in (_MySQLFamily, *_MySQLFamily.__subclasses__()):
        if "is_at_rest" in vars(dialect):
            monkeypatch.setattr(dialect, "is_at_rest", partialmethod(acknowledged, dialect.is_at_rest))


def _status_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_MySQLFamily, "in_transaction", lambda self, connection: False)
    monkeypatch.setattr(_MySQLFamily, "is_at_rest", lambda self, connection: True)


def _raw_in_autocommit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefiqEngine, "raw_connection", Engine.raw_connection)


_ALL = ("sqlite", "postgresql", "mariadb")
# The long form plants each on every database that it concerns, in both worlds; the short one once.
_CONTROLS = [
    (_trusting_pool, _ALL, ("sqlite", "async")),
    (_refusal_without_rollback, _ALL, ("postgresql", "sync")),
    (_acknowledged_unseen, ("mariadb",), ("mariadb", "async")),
    (_status_forgotten, ("mariadb",), ("mariadb", "sync")),
    (_raw_in_autocommit, _ALL, ("postgresql", "async")),
]


def _controls() -> Iterator[Any]:
    for plant, names, once in _CONTROLS:
        for name, world in itertools.product(names, ("sync", "async")) if _IS_LONG else (once,):
            marks = [getattr(pytest.mark, name), getattr(pytest.mark, world)]
            yield pytest.param(plant, name, world, marks=marks, id=f"{plant.__name__[1:]}-{name}-{world}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plant", "backend", "world"),
    list(_controls()),
    indirect=["backend"],
)
def test_control_the_machine_finds_the_old_faults(
    place: Place, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one of the guards the very same machine finds a lost or a doubtful row."""
    plant(monkeypatch)
    found: list[str] = []
    # Hypothesis may not be able to repeat it: what was left behind is there from the beginning then.
    with pytest.raises((AssertionError, Flaky)):
        _run(place, 20_000, found, shrink=False)
    assert found


# --- the roads by which an open transaction once reached the pool -----------------------------------


@pytest.fixture
def stock(make_db: Callable[..., Any]) -> Any:
    return make_db(pool_size=1, max_overflow=0)


async def _make_item(db: Any) -> None:
    await db.execute("create table item (id integer primary key)")
    await db.execute("insert into item (id) values (0)")


async def _ids(db: Any) -> list[int]:
    return [row.id for row in await db.fetch_all("select id from item where id > 0 order by id")]


def _session_that_catches(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("insert into item (id) values (1)"))
        with contextlib.suppress(Exception):
            session.execute(text("insert into item (id) values (:id)"), [{"id": 2}, {"id": 0}])
        session.commit()


def _connection_that_catches(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("insert into item (id) values (1)"))
        with contextlib.suppress(Exception):
            connection.execute(text("insert into item (id) values (:id)"), [{"id": 2}, {"id": 0}])
        connection.commit()


def _listener_that_raises(engine: Engine) -> None:
    with raising_listener(engine), engine.begin() as connection:
        connection.execute(text("insert into item (id) values (1)"))


def _text_that_begins(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("insert into item (id) values (1)")
    raise LookupError("never committed")


def _driver_that_begins(engine: Engine) -> None:
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute("insert into item (id) values (1)")
        cursor.close()
    raise LookupError("never committed")


@pytest.mark.parametrize(
    "leave",
    [_session_that_catches, _connection_that_catches, _listener_that_raises, _text_that_begins, _driver_that_begins],
)
async def test_the_next_users_acknowledged_write_stays(stock: Any, leave: Callable[[Engine], None]) -> None:
    """Whatever the one before did, and what was refused or never committed is not there."""
    await _make_item(stock)
    with pytest.raises((PrefiqDbError, SQLAlchemyError, CommitListenerError, LookupError)):
        await on_sync_engine(stock, leave)
    assert (await stock.execute("insert into item (id) values (100)")).rowcount == 1
    async with stock.transaction() as tx:
        await tx.execute("insert into item (id) values (101)")
    with contextlib.suppress(LookupError):
        async with stock.transaction() as tx:
            raise LookupError
    assert await _ids(stock) == [100, 101]


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("sqlite", "postgresql")],
    indirect=True,
)
async def test_a_commit_that_the_server_refuses_leaves_nothing_open(stock: Any) -> None:
    """A deferred constraint is looked at in COMMIT, and SQLite keeps such a transaction open."""
    await stock.execute("create table item (id integer primary key)")
    await stock.execute("create table child (parent integer references item (id) deferrable initially deferred)")

    def leave(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text("insert into item (id) values (1)"))
            connection.execute(text("insert into child (parent) values (7)"))

    with pytest.raises((PrefiqDbError, SQLAlchemyError)):
        await on_sync_engine(stock, leave)
    await stock.execute("insert into item (id) values (100)")
    with pytest.raises(LookupError):
        async with stock.transaction():
            raise LookupError
    assert await _ids(stock) == [100]


async def test_a_commit_in_text_under_autocommit_is_kept(stock: Any) -> None:
    """Who begins in text and calls commit() has committed: the server's word counts, not our flag."""
    await _make_item(stock)

    def work(engine: Engine) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("insert into item (id) values (1)")
            connection.commit()

    await on_sync_engine(stock, work)
    assert await _ids(stock) == [1]
