"""What may have been written is seen on a replica, also where nobody heard how the transaction ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.bridge import spawn
from prefiq_db.core.scope_marks import ScopeMarker
from prefiq_db.errors import TransactionEndedError
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = pytest.mark.parametrize("replicated", BOTH, indirect=True)

INSERT = "insert into item (id, qty) values (:id, 1)"
HELD_BACK_SECONDS = 3


async def on_view(tx: Any, work: Callable[[sa.Connection], Any]) -> Any:
    connection = tx.connection
    if hasattr(connection, "run_sync"):
        return await connection.run_sync(work)
    return work(connection)


async def seen(db: Any) -> list[int]:
    return [row[0] for row in await db.using(replica=True).fetch_all("select id from item order by id")]


def commit_raw(engine: sa.Engine) -> None:
    raw = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("insert into item (id, qty) values (1, 1)")
    cursor.close()
    raw.commit()
    raw.close()


def send_unseen(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("insert into item (id, qty) values (1, 1)")
        cursor.close()


async def commit_by_driver(db: Any) -> None:
    with pytest.raises(TransactionEndedError):
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            await on_view(tx, lambda connection: connection.connection.commit())
    assert str(tx.outcome) == "unknown"


async def prepared(replicated: Replicated) -> Any:
    db = replicated.database(replica_wait_seconds=0.02)
    await db.execute("create table item (id integer primary key, qty integer not null)")
    assert await seen(db) == []
    replicated.hold_back(HELD_BACK_SECONDS)
    return db


@pytest.mark.parametrize("way", ["driver", "raw", "unseen"])
async def test_after_a_commit_that_was_not_ours(replicated: Replicated, way: str) -> None:
    """The scope has to see it, so the primary is asked how far it is, and the replica waits for that."""
    db = await prepared(replicated)
    async with db.override(tags={"scope": "own"}):
        if way == "driver":
            await commit_by_driver(db)
        else:
            work = commit_raw if way == "raw" else send_unseen
            if db.is_async:
                await spawn(work, db.engine.sync_engine)
            else:
                work(db.engine)
        assert await seen(db) == [1]


async def test_control_unnoted_it_is_not_seen(replicated: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
    db = await prepared(replicated)
    monkeypatch.setattr(ScopeMarker, "note", lambda self, mark: None)
    async with db.override(tags={"scope": "own"}):
        await commit_by_driver(db)
        assert await seen(db) == []
