"""No space left: a typed error, nothing half-done, and work goes on when there is space again."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import ErrorKind
from prefiq_db.bridge import spawn
from prefiq_db.errors import ResourceError, TransactionAbortedError
from prefiq_db.testing import DatabaseServer
from tests.twins.harness import drive, make_database

ROW_BYTES = 100_000


class Store:
    """A database whose space can be used up, and given back."""

    def __init__(self, url: str, use_up: Callable[[Store], Any], give_back: Callable[[Store], Any]) -> None:
        self.url = url
        self._use_up, self._give_back = use_up, give_back
        self.db: Any = None

    async def use_up(self) -> None:
        await self._call(self._use_up)

    async def give_back(self) -> None:
        await self._call(self._give_back)

    async def _call(self, work: Callable[[Store], Any]) -> None:
        await spawn(work, self) if self.db.is_async else work(self)

    def raw(self, sql: str) -> Any:
        """Run *sql* on the pool's only connection, past everything of ours."""
        connection = getattr(self.db.engine, "sync_engine", self.db.engine).raw_connection()
        cursor = connection.cursor()
        cursor.execute(sql)
        row = cursor.fetchone()
        cursor.close()
        connection.close()
        return row


# --- ways to have no space -----------------------------------------------------------------------


@pytest.fixture
def sqlite_pages(tmp_path: Path) -> Store:
    """SQLite's own limit: the database may have no more pages than it has."""

    def use_up(store: Store) -> None:
        (pages,) = store.raw("pragma page_count")
        store.raw(f"pragma max_page_count = {pages + 2}")

    return Store(
        f"sqlite:///{tmp_path / 'full.db'}", use_up, lambda store: store.raw("pragma max_page_count = 1000000")
    )


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of eight megabytes; skips where nobody may mount one."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs Linux and root")
    folder = Path("/tmp") / f"prefiq-disk-{secrets.token_hex(4)}"  # as root, others must be able to reach it
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True,
                             text=True, check=False)  # fmt: skip
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    # Lazily: a backend that is about to end may have a file open.
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def fill(disk: Path) -> None:
    ballast = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    block = 65536
    try:
        while block:
            try:
                os.write(ballast, bytes(block))
            except OSError:
                block //= 2
    finally:
        os.close(ballast)


@pytest.fixture
def sqlite_disk(tiny_disk: Path) -> Store:
    """SQLite on a disk that is full: its write-ahead log can't grow, which it tells at COMMIT."""
    return Store(
        f"sqlite:///{tiny_disk / 'full.db'}",
        lambda store: fill(tiny_disk),
        lambda store: (tiny_disk / "ballast").unlink(),
    )


@pytest.fixture
def postgresql_disk(tiny_disk: Path, postgresql_server: DatabaseServer) -> Iterator[Store]:
    """PostgreSQL with a tablespace on a disk that is full."""
    if not postgresql_server.is_private:
        pytest.skip("needs a server on this machine")
    space = tiny_disk / "space"
    space.mkdir(mode=0o700)
    postgresql_server._give_to_account(space)
    name = f"small_{secrets.token_hex(4)}"
    postgresql_server.execute(f"create tablespace {name} location '{space}'")
    database = postgresql_server.create_database()
    postgresql_server.execute(f"alter database {database} set default_tablespace = {name}")
    yield Store(
        postgresql_server.url(database), lambda store: fill(tiny_disk), lambda store: (tiny_disk / "ballast").unlink()
    )
    with suppress(FileNotFoundError):
        (tiny_disk / "ballast").unlink()
    postgresql_server.drop_database(database)
    postgresql_server.execute(f"drop tablespace {name}")


# MariaDB isn't here: InnoDB 10.11 ends the server when a table's file can't grow, which is another fault.
STORES = [
    pytest.param("sqlite_pages", marks=pytest.mark.sqlite),
    pytest.param("sqlite_disk", marks=pytest.mark.sqlite),
    pytest.param("postgresql_disk", marks=pytest.mark.postgresql),
]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, world: str, loop_runner: asyncio.Runner) -> Iterator[Store]:
    made: Store = request.getfixturevalue(request.param)
    run = loop_runner.run if world == "async" else drive
    made.db = make_database(world, made.url, pool_size=1, max_overflow=0)
    run(made.db.execute("create table item (id integer primary key, filler text not null)"))
    run(made.db.execute(INSERT, row(0)))
    yield made
    run(made.db.close())


INSERT = "insert into item (id, filler) values (:id, :filler)"


def row(number: int) -> dict[str, Any]:
    # Random, or PostgreSQL would compress it away.
    return {"id": number, "filler": secrets.token_hex(ROW_BYTES // 2)}


async def ids(db: Any) -> list[int]:
    return [found.id for found in await db.fetch_all("select id from item order by id")]


# --- what must hold ------------------------------------------------------------------------------


async def test_a_lone_write(store: Store) -> None:
    """The error is typed and final; what was there can be read; with space again the same write works."""
    db = store.db
    await store.use_up()
    done = [0]
    with pytest.raises(ResourceError) as error:
        for number in range(1, 400):
            await db.execute(INSERT, row(number))
            done.append(number)
    assert error.value.kind is ErrorKind.RESOURCE
    assert not error.value.is_transient, "the same at once again would fail again"
    assert error.value.__context__ is None
    assert await ids(db) == done, "every write that was confirmed, and no other"
    assert db.stats().retry_count == 0
    await store.give_back()
    await db.execute(INSERT, row(1000))
    assert await ids(db) == [*done, 1000]
    assert db.stats().pool.checked_out == 0


async def test_a_transaction_leaves_nothing(store: Store) -> None:
    """Rows that still fitted go with the one that didn't; run_in_transaction doesn't try in vain."""
    db = store.db
    await store.use_up()
    calls = []

    async def body(tx: Any) -> None:
        calls.append(1)
        for number in range(1, 400):
            await tx.execute(INSERT, row(number))

    with pytest.raises(ResourceError):
        await db.run_in_transaction(body)
    assert len(calls) == 1
    assert await ids(db) == [0]
    with pytest.raises(ResourceError):
        async with db.transaction() as tx:
            await body(tx)
    assert str(tx.outcome) == "not committed"
    assert await ids(db) == [0]
    await store.give_back()
    async with db.transaction() as tx:
        await tx.execute(INSERT, row(1))
    assert await ids(db) == [0, 1]


async def test_a_swallowed_error_commits_nothing(store: Store) -> None:
    """Who catches the error inside the block and goes on doesn't commit the half that is left."""
    db = store.db
    await store.use_up()
    with pytest.raises(TransactionAbortedError):
        async with db.transaction() as tx:
            await tx.execute("insert into item (id, filler) values (1, 'fits, perhaps')")
            with suppress(ResourceError):
                for number in range(2, 400):
                    await tx.execute(INSERT, row(number))
            await tx.execute("update item set filler = 'after' where id = 0")
    assert await ids(db) == [0]
    assert await db.fetch_value("select filler from item where id = 0") != "after"
    await store.give_back()
    await db.execute(INSERT, row(4))
    assert await ids(db) == [0, 4]


async def test_execute_many_is_all_or_nothing(store: Store) -> None:
    db = store.db
    await store.use_up()
    with pytest.raises(ResourceError):
        await db.execute_many(INSERT, [row(number) for number in range(1, 200)])
    assert await ids(db) == [0]
    await store.give_back()
    assert await db.execute_many(INSERT, [row(number) for number in range(1, 4)]) == 3
    assert await ids(db) == [0, 1, 2, 3]


async def test_a_commit_that_finds_no_space(store: Store) -> None:
    """What fails only at COMMIT is not committed, says so, and leaves no transaction open."""
    db = store.db
    if "postgresql" in store.url:
        # A deferred trigger writes at COMMIT.
        await db.execute("create table copy (filler text)")
        await db.execute(
            "create function copy_it() returns trigger language plpgsql as $$ begin insert into copy "
            f"select string_agg(md5(random()::text), '') from generate_series(1, {ROW_BYTES}); return null; end $$"
        )
        await db.execute(
            "create constraint trigger late after insert on item deferrable initially deferred for each row "
            "execute function copy_it()"
        )
    elif "prefiq-disk" not in store.url:
        pytest.skip("here the space is asked for by the statement, not by COMMIT")
    await store.use_up()
    sent = False
    with pytest.raises(ResourceError) as error:
        async with db.transaction() as tx:
            await tx.execute("insert into item (id, filler) values (1, 'small')")
            if "sqlite" in store.url:
                for number in range(2, 5):
                    await tx.execute(INSERT, row(number))
            sent = True
    assert sent, "it was COMMIT that failed"
    assert str(tx.outcome) == "not committed"
    assert error.value.kind is ErrorKind.RESOURCE
    assert await ids(db) == [0]
    assert db.stats().pool.checked_out == 0
    await store.give_back()
    if "postgresql" in store.url:
        await db.execute("drop trigger late on item")
    async with db.transaction() as tx:
        await tx.execute(INSERT, row(1))
    assert await ids(db) == [0, 1]
