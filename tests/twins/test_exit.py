"""A program that ends without closing its databases ends at once, quietly, and leaves nothing at the server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from prefiq_db.testing.processes import wait_until
from tests import interpreters
from tests.conftest import Backend
from tests.shared_servers import NOT_OURS
from tests.twins.support import slow_read

#: Less than a slow statement takes: a program that waits for it is found.
PATIENCE_SECONDS = 50.0
#: How long a program is watched that doesn't end.
LIMIT_SECONDS = 5.0

_PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time
from prefiq_db import AsyncDatabase, Database

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so does its child

URL, SLOW = os.environ["EXIT_URL"], os.environ["EXIT_SLOW"]

def sockets():
    # Where /proc is missing, none are seen.
    count = 0
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM).getpeername()
        except OSError:
            continue
        count += 1
    return count
"""

_SCRIPTS = {
    ("sync", "unclosed"): """
        db = Database(URL)
        db.open()
        assert db.fetch_value("select 1") == 1
    """,
    ("async", "unclosed"): """
        async def main():
            global db
            db = AsyncDatabase(URL)
            await db.open()
            assert await db.fetch_value("select 1") == 1

        asyncio.run(main())
    """,
    ("sync", "open transaction"): """
        db = Database(URL)
        tx = db.transaction()
        tx.__enter__()
        tx.execute("create table if not exists item (id integer)" if URL.startswith("sqlite") else "select 1")
    """,
    ("async", "open transaction"): """
        async def main():
            global db, tx
            db = AsyncDatabase(URL)
            tx = db.transaction()
            await tx.__aenter__()
            await tx.fetch_value("select 1")

        asyncio.run(main())
    """,
    ("sync", "running statement"): """
        db = Database(URL, slow_query_seconds=60)
        db.open()

        def work():
            try:
                db.fetch_value(SLOW)
            except BaseException:
                pass

        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.5)
    """,
    ("async", "running statement"): """
        async def main():
            global db
            db = AsyncDatabase(URL, slow_query_seconds=60)
            await db.open()
            task = asyncio.create_task(db.fetch_value(SLOW))
            await asyncio.sleep(0.5)

        asyncio.run(main())
    """,
    ("sync", "garbage"): """
        import gc

        def work():
            db = Database(URL, pool_size=3)
            db.open()
            assert sockets() == (0 if URL.startswith("sqlite") else 3)
            with db.transaction() as tx:
                tx.fetch_value("select 1")

        work()
        gc.collect()
        assert sockets() == 0
    """,
    ("async", "garbage"): """
        import gc

        async def main():
            db = AsyncDatabase(URL, pool_size=3)
            await db.open()
            async with db.transaction() as tx:
                await tx.fetch_value("select 1")

        asyncio.run(main())
        gc.collect()
        assert sockets() == 0
    """,
    ("sync", "exit in a thread"): """
        db = Database(URL)
        db.open()
        threading.Thread(target=lambda: db.fetch_value("select 1")).start()
    """,
    ("sync", "error"): """
        db = Database(URL)
        db.open()
        with db.transaction() as tx:
            tx.fetch_value("select 1")
            sys.exit(3)
    """,
    ("async", "error"): """
        async def main():
            db = AsyncDatabase(URL)
            await db.open()
            async with db.transaction() as tx:
                await tx.fetch_value("select 1")
                sys.exit(3)

        asyncio.run(main())
    """,
}


def run_program(
    text: str, tmp_path: Path, *, fresh: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself, long before the statements and the waits that it leaves behind.

    Some are *fresh* starts of Python; the others only end as one, see ``interpreters.py``.
    """
    script = tmp_path / "program.py"
    script.write_text(_PRELUDE + textwrap.dedent(text))
    return interpreters.run(
        [sys.executable, str(script)],
        fresh=fresh,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(("kind", "scene"), list(_SCRIPTS))
def test_the_program_ends_at_once_and_quietly(backend: Backend, kind: str, scene: str, tmp_path: Path) -> None:
    """With an unclosed database, an open transaction, a running statement: it ends, and not a word on stderr."""
    fresh, slow = scene == "unclosed", slow_read(backend)
    done = run_program(_SCRIPTS[kind, scene], tmp_path, fresh=fresh, EXIT_URL=backend.url, EXIT_SLOW=slow)
    assert done.stderr == ""
    assert done.returncode == (3 if scene == "error" else 0)
    if backend.server is not None and scene != "running statement":
        # PostgreSQL looks after its client only when a statement ends.
        assert wait_until(lambda: _sessions(backend) == 0, timeout_seconds=10)


def _sessions(backend: Backend) -> int:
    assert backend.server is not None
    name = backend.url.rpartition("/")[2]
    question = {
        "postgresql": f"select count(*) from pg_stat_activity where datname = '{name}' and {NOT_OURS}",
        "mariadb": f"select count(*) from information_schema.processlist where db = '{name}'",
    }
    return int(backend.server.execute(question[backend.name])[0][0])


def test_control_a_program_that_does_not_end_is_noticed(tmp_path: Path) -> None:
    """aiosqlite's own thread keeps the interpreter alive when a connection isn't closed: that is what we prevent."""
    program = """
        import aiosqlite

        async def main():
            global connection
            connection = await aiosqlite.connect(":memory:")

        asyncio.run(main())
    """
    script = tmp_path / "program.py"
    script.write_text(_PRELUDE + textwrap.dedent(program))
    with pytest.raises(subprocess.TimeoutExpired):
        environ = {**os.environ, "EXIT_URL": "", "EXIT_SLOW": ""}
        interpreters.run([sys.executable, str(script)], capture_output=True, timeout=LIMIT_SECONDS, env=environ)


# --- signals -------------------------------------------------------------------------------------

_SIGNALLED = """
    def end(number, frame):
        raise SystemExit(5)

    def signalled(how, db, within):
        threading.Timer(0.5, os.kill, (os.getpid(), how)).start()
        try:
            if within:
                with db.transaction() as tx:
                    tx.execute("insert into item (id) values (1)")
                    tx.fetch_value(SLOW)
            else:
                db.fetch_value(SLOW)
        except BaseException as error:
            assert error.__context__ is None, "a driver's error hangs on it"
            return type(error).__name__

    signal.signal(signal.SIGTERM, end)
    db = Database(URL, pool_size=1, max_overflow=0, statement_timeout_seconds=15, slow_query_seconds=60)
    db.execute("create table item (id integer primary key)")
    for how, error in ((signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit")):
        for within in (False, True):
            assert signalled(how, db, within) == error, (how, within)
            assert db.stats().pool.checked_out == 0
            # Whatever answer was on its way belongs to nobody.
            assert [db.fetch_value(f"select {number}") for number in range(5)] == [0, 1, 2, 3, 4]
            assert db.fetch_value("select count(*) from item") == 0
    # And one that arrives while somebody waits for the pool's only connection.
    held, let_go = threading.Event(), threading.Event()

    def holder():
        with db.transaction() as tx:
            held.set()
            let_go.wait(15)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait(15)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        db.fetch_value("select 1")
    except KeyboardInterrupt:
        assert db.stats().pool.pending == 0
    else:
        raise AssertionError("the signal was lost")
    let_go.set()
    thread.join()
    assert db.fetch_value("select 7") == 7
    assert db.stats().pool.checked_out == 0
    db.close()
"""


def test_a_signal_in_a_statement_goes_through(backend: Backend, tmp_path: Path) -> None:
    """Ctrl-C and a handler of SIGTERM that raises: the very exception arrives, and no row of that statement later."""
    fresh, slow = backend.name == "sqlite", slow_read(backend)
    done = run_program(_SIGNALLED, tmp_path, fresh=fresh, EXIT_URL=backend.url, EXIT_SLOW=slow)
    assert done.stderr == ""
    assert done.returncode == 0


def test_control_sqlite_itself_swallows_a_signal(tmp_path: Path) -> None:
    """What a handler raises in a progress handler of plain sqlite3 is gone; all that is left is "interrupted"."""
    program = """
        import sqlite3

        connection = sqlite3.connect(":memory:")

        def look():
            return 0

        connection.set_progress_handler(look, 1000)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            connection.execute(SLOW)
        except BaseException as error:
            print(type(error).__name__)
    """
    done = run_program(program, tmp_path, EXIT_URL="", EXIT_SLOW=slow_read(Backend("sqlite", "")))
    assert done.stdout.split() == ["OperationalError"]
