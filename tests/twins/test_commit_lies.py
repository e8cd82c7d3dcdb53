"""COMMIT can lie, and half a transaction can look like a whole one: never a success for what was rolled back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import (
    ErrorKind,
    ForeignKeyViolationError,
    LockTimeoutError,
    PrefiqDbError,
    SchemaError,
    SerializationError,
    StatementRefusedError,
    TransactionAbortedError,
    UniqueViolationError,
)
from tests.conftest import Backend
from tests.twins.support import upgrade_schema

ONCE = RetryPolicy(attempts=1)

exactly_once_too = pytest.mark.parametrize("exactly_once", [False, True], ids=["plain", "exactly once"])


def only(*names: str) -> pytest.MarkDecorator:
    backends = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in names]
    return pytest.mark.parametrize("backend", backends, indirect=True)


@pytest.fixture
def shop(backend: Backend, db: Any, run: Callable[[Any], Any]) -> Any:
    """Customers, and orders whose customer is looked for at COMMIT."""
    upgrade_schema(backend)
    deferred = "" if backend.name == "mariadb" else "deferrable initially deferred"
    run(db.execute("create table customer (id integer primary key, quantity integer)"))
    run(
        db.execute(
            "create table purchase (id integer primary key, "
            f"customer integer not null, foreign key (customer) references customer (id) {deferred})"
        )
    )
    run(db.execute("insert into customer (id, quantity) values (1, 0)"))
    return db


async def nothing_was_done(db: Any, tx: Any) -> None:
    """The outcome says so, the tables say so, the token says so, and the next transaction starts clean."""
    assert tx.outcome == "not committed"
    assert await db.fetch_value("select count(*) from purchase") == 0
    assert await db.fetch_value("select quantity from customer where id = 1") == 0
    assert await db.fetch_value("select count(*) from customer") == 1
    assert await db.fetch_value("select count(*) from prefiq_commit_token") == 0
    if tx.token is not None:
        assert await db.resolve_outcome(tx.token) == "not committed"
    assert db.stats().pool.checked_out == 0
    async with db.transaction() as after:
        await after.execute("insert into purchase (id, customer) values (9, 1)")
    assert await db.fetch_value("select count(*) from purchase") == 1


@exactly_once_too
@only("sqlite", "postgresql")
async def test_a_constraint_that_is_looked_at_in_commit(shop: Any, exactly_once: bool) -> None:
    """The statement succeeds and COMMIT is refused: that is the transaction's failure, and nothing stays open."""
    committed: list[str] = []
    tx = shop.transaction(exactly_once=exactly_once)
    with pytest.raises(ForeignKeyViolationError):
        async with tx as open_tx:
            await open_tx.execute("insert into purchase (id, customer) values (1, 77)")
            tx.on_commit(lambda: committed.append("said so"))
    assert committed == []
    await nothing_was_done(shop, open_tx)


@exactly_once_too
@only("postgresql")
async def test_an_error_that_somebody_swallowed(shop: Any, exactly_once: bool) -> None:
    """PostgreSQL would answer COMMIT with ROLLBACK and no error; run_in_transaction doesn't return either."""
    seen: list[Any] = []

    async def body(tx: Any) -> str:
        seen.append(tx)
        await tx.execute("update customer set quantity = 5 where id = 1")
        with pytest.raises(UniqueViolationError):
            await tx.execute("insert into customer (id, quantity) values (1, 1)")
        return "done"

    with pytest.raises(TransactionAbortedError):
        await shop.run_in_transaction(body, exactly_once=exactly_once)
    assert len(seen) == 1
    await nothing_was_done(shop, seen[0])


async def test_control_the_server_lies(backend: Backend) -> None:
    """The same through the driver alone: COMMIT reports no error, and the rows are gone."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL answers COMMIT with ROLLBACK")
    import psycopg

    with psycopg.connect(backend.url) as connection:
        connection.execute("create table item (id integer primary key)")
        connection.commit()
        connection.execute("insert into item values (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into item values (1)")
        connection.commit()  # no error
        assert connection.execute("select count(*) from item").fetchone() == (0,)


@exactly_once_too
@only("sqlite")
async def test_a_commit_that_finds_a_reader(
    shop: Any, backend: Backend, make_db: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, exactly_once: bool
) -> None:
    """SQLITE_BUSY at COMMIT leaves the transaction open, and a second COMMIT would succeed behind everybody's back."""
    # With a rollback journal, as other programs may have set it, a reader keeps a writer from committing.
    monkeypatch.setattr("prefiq_db.dialects.sqlite_connection._use_wal", lambda connection: None)
    path = backend.url.removeprefix("sqlite:///")
    await shop.close()
    with sqlite3.connect(path) as setup:
        setup.execute("pragma journal_mode = delete")
    setup.close()
    reader = sqlite3.connect(path, isolation_level=None)
    impatient = make_db(lock_timeout_seconds=0.2, retry=ONCE)
    tx = impatient.transaction(exactly_once=exactly_once)
    with pytest.raises(LockTimeoutError):
        async with tx as open_tx:
            await open_tx.execute("insert into purchase (id, customer) values (1, 1)")
            reader.execute("begin")
            reader.execute("select * from customer").fetchall()
    assert open_tx.outcome == "not committed"
    reader.execute("commit")
    reader.close()
    await nothing_was_done(impatient, open_tx)


@exactly_once_too
@only("mariadb")
@pytest.mark.parametrize("swallow", [False, True])
async def test_a_snapshot_that_is_too_old(
    shop: Any, backend: Backend, make_db: Callable[..., Any], swallow: bool, exactly_once: bool
) -> None:
    """1020 rolls the whole transaction back at once: what came after it would be committed statement by statement."""
    assert backend.server is not None
    backend.server.execute("set global innodb_snapshot_isolation = on")
    try:
        db = make_db(retry=ONCE)
        tx = db.transaction(isolation="REPEATABLE READ", exactly_once=exactly_once)

        async def body() -> None:
            async with tx as open_tx:
                await open_tx.execute("insert into customer (id, quantity) values (2, 2)")
                await open_tx.fetch_all("select * from customer")
                await shop.execute("update customer set quantity = 1 where id = 1")
                try:
                    await open_tx.execute("update customer set quantity = 2 where id = 1")
                except SerializationError:
                    if not swallow:
                        raise
                await open_tx.execute("insert into customer (id, quantity) values (3, 3)")

        with pytest.raises((SerializationError, TransactionAbortedError)) as failure:
            await body()
        assert isinstance(failure.value, TransactionAbortedError) is swallow
        await shop.execute("update customer set quantity = 0 where id = 1")
        await nothing_was_done(shop, tx)
    finally:
        backend.server.execute("set global innodb_snapshot_isolation = off")


@exactly_once_too
@only("mariadb")
@pytest.mark.parametrize(
    "ddl", ["create table extra (id integer)", "create table customer (id integer)", "truncate table purchase"]
)
async def test_ddl_would_commit_half(shop: Any, ddl: str, exactly_once: bool) -> None:
    """Even a CREATE TABLE that fails commits what came before it; so it is refused, also when that is swallowed."""
    tx = shop.transaction(exactly_once=exactly_once)
    with pytest.raises(KeyError):
        async with tx as open_tx:
            await open_tx.execute("insert into purchase (id, customer) values (1, 1)")
            with pytest.raises(StatementRefusedError):
                await open_tx.execute(ddl)
            raise KeyError
    await nothing_was_done(shop, open_tx)


@exactly_once_too
async def test_a_body_that_fails_half_way(shop: Any, exactly_once: bool) -> None:
    """Whatever the caller raises, and whatever the database says, the first half is not kept."""

    async def body(tx: Any) -> None:
        await tx.execute("update customer set quantity = 5 where id = 1")
        await tx.execute("insert into purchase (id, customer) values (1, 1)")
        await tx.execute("insert into no_such_table (id) values (1)")

    seen: list[Any] = []

    async def noted(tx: Any) -> None:
        seen.append(tx)
        await body(tx)

    with pytest.raises(SchemaError) as failure:
        await shop.run_in_transaction(noted, exactly_once=exactly_once)
    assert isinstance(failure.value, PrefiqDbError)
    assert failure.value.kind is ErrorKind.SCHEMA
    await nothing_was_done(shop, seen[0])
