"""The connection of a usual transaction, where others have to do with it or with its pool meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefiq_db import Database
from prefiq_db.dialects.session import SESSION_KEY
from prefiq_db.errors import (
    IntegrityError,
    PoolTimeoutError,
    StatementRefusedError,
    TransactionBusyError,
)
from prefiq_db.transaction import root
from tests.conftest import Backend
from tests.twins.support import kill_session

INSERT = "insert into thing (id) values (:id)"
SESSION_ID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}

pytestmark = pytest.mark.sync
on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


@contextmanager
def _one_connection(backend: Backend) -> Iterator[Database]:
    """Yield a database of one connection, which knows the text of the INSERT."""
    with Database(backend.url, pool_size=1, max_overflow=0, pool_timeout_seconds=0.1) as db:
        db.execute("create table thing (id integer primary key)")
        for number in range(3):
            db.execute(INSERT, {"id": number})
        yield db


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list of the transactions that began: whether on the short way."""
    found: list[bool] = []
    begin = root.begin_usually

    def begin_noted(*arguments: Any) -> bool:
        found.append(begin(*arguments))
        return found[-1]

    monkeypatch.setattr(root, "begin_usually", begin_noted)
    return found


def _elsewhere(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("replaced_by", ["dispose", "close and open"])
def test_a_connection_never_comes_back_to_another_pool(backend: Backend, begun: list[bool], replaced_by: str) -> None:
    with _one_connection(backend) as db:
        engine, old = db.engine, db.engine.pool
        with db.transaction() as tx:
            tx.execute(INSERT, {"id": 10})
            if replaced_by == "dispose":
                _elsewhere(engine.dispose)
            else:
                for work in (db.close, db.open, lambda: db.fetch_value("select 1")):
                    _elsewhere(work)
        assert begun == [True]
        assert tx.outcome.value == "committed"
        assert old is not engine.pool
        assert db.fetch_value("select count(*) from thing") == 4
        assert (db.stats().pool.checked_out, db.stats().pool.idle) == (0, 1)
        with engine.connect(), pytest.raises(PoolTimeoutError):
            engine.connect()


@on_servers
def test_a_transaction_that_begins_again_leaves_the_next_one_the_state_of_its_connection(
    backend: Backend, begun: list[bool]
) -> None:
    with _one_connection(backend) as db:
        dead = db.fetch_value(SESSION_ID[backend.name])
        with db.transaction() as tx:
            kill_session(backend, dead)
            tx.execute(INSERT, {"id": 10})
        assert tx.outcome.value == "committed"
        pool: Any = db.engine.pool
        (place,) = pool.idle.queue
        assert place.session is place.info[SESSION_KEY]
        with db.transaction() as tx:
            tx.execute(INSERT, {"id": 11})
            with pytest.raises(StatementRefusedError):
                tx.connection.exec_driver_sql("commit")
        assert begun == [True, True]
        assert db.fetch_value(SESSION_ID[backend.name]) != dead
        assert db.fetch_value("select count(*) from thing") == 5


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_leaving_a_block_leaves_the_clock_to_the_statement_that_another_thread_runs(
    backend: Backend, begun: list[bool]
) -> None:
    with _one_connection(backend) as db:
        is_running = threading.Event()
        clocks: list[float | None] = []

        def wait_for_the_end() -> int:
            clocks.append(raw.ends_at)
            is_running.set()
            give_up_at = time.monotonic() + 20
            while tx.outcome.value == "active" and time.monotonic() < give_up_at:
                time.sleep(0.01)
            clocks.append(raw.ends_at)
            return 1

        with pytest.raises(TransactionBusyError), db.transaction() as tx:
            tx.execute(INSERT, {"id": 10})
            raw: Any = tx._core.tx.scope.pinned.dbapi_connection
            raw.create_function("wait_for_the_end", 0, wait_for_the_end)
            other = threading.Thread(target=tx.fetch_value, args=("select wait_for_the_end()",))
            other.start()
            assert is_running.wait(20)
        other.join()
        assert begun == [True]
        assert tx.outcome.value == "not committed"
        assert len(clocks) == 2
        assert clocks[0] == clocks[1]


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_failed_commit_keeps_its_connection_until_it_is_judged(
    backend: Backend, begun: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that took it in between would make the block say that COMMIT was never sent."""
    surely, in_use = root.RootBlock._commit_surely, []

    def noted(block: root.RootBlock, *given: Any) -> None:
        in_use.append(list(block.scope._users.values()) == list(given[1:]))
        surely(block, *given)

    insert = "insert into part (of_thing) values (:id)"
    with _one_connection(backend) as db:
        db.execute("create table part (of_thing integer references thing (id) deferrable initially deferred)")
        for number in range(3):
            db.execute(insert, {"id": number})
        monkeypatch.setattr(root.RootBlock, "_commit_surely", noted)
        with pytest.raises(IntegrityError), db.transaction() as tx:
            tx.execute(insert, {"id": 99})
        assert begun == in_use == [True]
        assert tx.outcome == "not committed"
        assert db.fetch_value("select count(*) from part") == 3
