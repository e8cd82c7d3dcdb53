"""A connection that is lost inside a transaction, whose error somebody swallows: whatever comes next says so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.testing.processes import wait_until
from tests.conftest import Backend
from tests.twins.support import kill_session, session_id

pytestmark = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)

ADD = "insert into item (id) values (:id)"


async def _nested(db: Any, tx: Any) -> None:
    async with db.transaction() as inner:
        await inner.execute(ADD, {"id": 3})


async def _bulk(db: Any, tx: Any) -> None:
    await tx.bulk_insert("item", [{"id": 3}])


async def _upsert(db: Any, tx: Any) -> None:
    await tx.upsert("item", [{"id": 3}], key="id")


async def _statement(db: Any, tx: Any) -> None:
    await tx.execute(ADD, {"id": 3})


async def _stream(db: Any, tx: Any) -> None:
    async with tx.stream("select id from item") as rows:
        async for _ in rows:
            pass


async def _batch(db: Any, tx: Any) -> None:
    await tx.batch(["select 1", "select 2"])


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "nested": _nested,
    "bulk": _bulk,
    "upsert": _upsert,
    "statement": _statement,
    "stream": _stream,
    "batch": _batch,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_viewed", [False, True], ids=["", "viewed"])
async def test_what_follows_a_lost_connection_runs_again(
    make_db: Any, backend: Backend, way: str, is_viewed: bool
) -> None:
    """Nothing is at fault but the connection: the error is transient, and ``run_in_transaction`` repeats the work."""
    assert backend.server is not None
    server, name = backend.server, backend.url.rpartition("/")[2]
    db = make_db(retry=RetryPolicy(attempts=3, wait_initial_seconds=0.001))
    await db.execute("create table item (id integer primary key)")
    told: list[PrefiqDbError] = []

    async def body(tx: Any) -> None:
        if is_viewed:
            assert tx.connection is not None  # SQLAlchemy's own
        await tx.execute(ADD, {"id": 1})
        if not told:
            session = await session_id(tx, backend)
            kill_session(backend, session)
            assert wait_until(lambda: session not in _sessions(server, backend.name), timeout_seconds=30)
            with suppress(PrefiqDbError):
                await tx.execute(ADD, {"id": 2})
        try:
            await WAYS[way](db, tx)
        except PrefiqDbError as error:
            told.append(error)
            raise

    await db.run_in_transaction(body)
    assert [error.kind for error in told] == [ErrorKind.CONNECTION_LOST]
    assert told[0].classification.retry_transaction
    assert 1 <= len(server.execute("select id from item", name)) <= 2


_SESSIONS = {
    "postgresql": "select pid from pg_stat_activity",
    "mariadb": "select id from information_schema.processlist",
}


def _sessions(server: Any, kind: str) -> set[int]:
    return {int(number) for (number,) in server.execute(_SESSIONS[kind])}
