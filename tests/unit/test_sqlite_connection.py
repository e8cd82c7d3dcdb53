"""Our sqlite3 connection lets go of the lock when it is closed, whoever still holds a cursor of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from prefiq_db.dialects.sqlite_connection import SqliteConnection, connection_factory

_SLOW = "with recursive t(n) as (select 1 union all select n + 1 from t where n < 400000000) select count(*) from t"


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = str(tmp_path / "test.db")
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table account (id integer)")
        connection.execute("insert into account values (1), (2)")
    return made


def ours(path: str) -> SqliteConnection:
    made: SqliteConnection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        timeout=1.0,
        factory=connection_factory(60.0, durable_wal=True),  # type: ignore[arg-type]
    )
    return made


def write_and_read_half(connection: sqlite3.Connection) -> sqlite3.Cursor:
    connection.execute("begin immediate")
    connection.execute("insert into account values (3)")
    cursor = connection.execute("select id from account")
    cursor.fetchone()
    return cursor


def is_locked(path: str) -> bool:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("begin immediate")
        except sqlite3.OperationalError:
            return True
        return False


def test_a_closed_connection_holds_no_lock(path: str) -> None:
    connection = ours(path)
    cursor = write_and_read_half(connection)
    assert is_locked(path)
    connection.close()
    assert not is_locked(path)
    connection.close()  # and once more is no error
    del cursor

    plain = sqlite3.connect(path, isolation_level=None)  # the control: sqlite3's own
    cursor = write_and_read_half(plain)
    plain.close()
    assert is_locked(path)
    del cursor
    assert not is_locked(path)


@pytest.mark.parametrize(("stop", "undone"), [(SqliteConnection.stop_now, True), (SqliteConnection.interrupt, False)])
def test_a_statement_is_stopped_and_what_it_did_can_be_undone(
    path: str, stop: Callable[[SqliteConnection], None], undone: bool
) -> None:
    """sqlite3's own interrupt() also hits the ROLLBACK behind, while another cursor is half read."""
    with closing(ours(path)) as connection:
        cursor = write_and_read_half(connection)
        connection.start_clock()
        timer = threading.Timer(0.1, stop, (connection,))
        timer.start()
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            connection.execute(_SLOW)
        timer.join()
        if undone:
            connection.rollback()
        else:
            with pytest.raises(sqlite3.OperationalError, match="interrupted"):
                connection.rollback()
        assert connection.in_transaction is not undone
        del cursor
