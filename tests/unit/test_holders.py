"""Who has a connection, asked of the connections themselves: whatever becomes of one, its holder is told rightly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefiq_db import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'a.db'}", pool_size=2)
    yield made
    made.close()


def _holders(db: Database) -> list[str]:
    return [holder.worker for holder in db.stats().holders]


def test_whoever_has_one_is_a_holder_and_nobody_else(db: Database) -> None:
    me = f"thread {threading.current_thread().name}"
    assert _holders(db) == []
    with db.engine.connect() as first, db.engine.connect():
        assert _holders(db) == [me, me]
        assert all(0 <= holder.age_seconds < 60 for holder in db.stats().holders)
        first.close()
        assert _holders(db) == [me]
    assert _holders(db) == []
    assert db.stats().pool.use.count == db.stats().pool.wait.count == 2


def test_a_connection_that_is_thrown_away_has_no_holder_and_its_successor_has(db: Database) -> None:
    with db.engine.connect() as connection:
        connection.invalidate()
        assert _holders(db) == []
        connection.exec_driver_sql("select 1")
        assert len(_holders(db)) == 1
    assert _holders(db) == []
    with db.engine.connect() as connection:
        connection.connection.invalidate(soft=True)
    with db.engine.connect():  # which connects anew
        (holder,) = db.stats().holders
        assert "test_holders.py" in str(holder.origin)
    assert _holders(db) == []


def test_a_detached_connection_is_the_applications_own(db: Database) -> None:
    with db.engine.connect() as connection:
        connection.detach()
        assert _holders(db) == []


def test_the_table_can_be_asked_for_while_threads_take_and_give_back(db: Database) -> None:
    stop, failures = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                db.fetch_value("select 1")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = [len(_holders(db)) for _ in range(200)]
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert max(seen) <= 7
    assert _holders(db) == []
    stats = db.stats()
    assert stats.statement_count == stats.pool.wait.count == stats.pool.use.count
