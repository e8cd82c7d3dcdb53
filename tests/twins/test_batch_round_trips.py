"""What a batch costs at the wire, counted there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import UniqueViolationError
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import drive, make_database

# SQLite has no wire.
pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)

CREATE = "create table item (id integer primary key, qty integer not null)"
INSERT = "insert into item (id, qty) values (:id, :qty)"


@pytest.fixture
def wire(backend: Backend) -> Iterator[WireCounter]:
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as counter:
        yield counter


@pytest.fixture
def counted(wire: WireCounter, backend: Backend, world: str, loop_runner: Any) -> Iterator[Any]:
    """A database that talks through the counter, with a table."""
    run = loop_runner.run if world == "async" else drive
    url = wire.url(backend.url)
    made = make_database(world, url, ssl_mode="disable", pool_size=1, max_overflow=0)
    run(made.open())
    run(made.execute(CREATE))
    yield made
    run(made.close())


async def test_a_batch_costs_one_round_trip(counted: Any, wire: WireCounter) -> None:
    """BEGIN, writes, a read and COMMIT: one message and one reply each; read-only, and with an option, too."""
    with wire.count() as first:
        await counted.batch([(INSERT, {"id": 1, "qty": 1}), (INSERT, {"id": 2, "qty": 2}), "select * from item"])
    with wire.count() as long:
        await counted.batch([(INSERT, {"id": number, "qty": 1}) for number in range(10, 50)])
    with wire.count() as read:
        await counted.using(read_only=True).batch(["select qty from item where id = 1", "select count(*) from item"])
    assert (first.round_trips, long.round_trips, read.round_trips) == (1, 1, 1)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_batch_that_fails_costs_one_round_trip(counted: Any, wire: WireCounter, place: int) -> None:
    """The rollback is part of the message."""
    statements: list[Any] = [(INSERT, {"id": number, "qty": 1}) for number in (1, 2)]
    statements.insert(place, "insert into item (id, qty) select 5, 1 union all select 5, 2")
    with wire.count() as failed, pytest.raises(UniqueViolationError) as caught:
        await counted.batch(statements)
    assert caught.value.statement_index == place
    assert failed.round_trips == 1
    with wire.count() as next_one:
        assert await counted.fetch_value("select count(*) from item") == 0
    assert next_one.round_trips == 1


async def test_in_a_transaction_a_batch_costs_one_round_trip(counted: Any, wire: WireCounter) -> None:
    """The savepoint and its release are part of the message; rolling back to it costs one more on PostgreSQL."""
    good = [(INSERT, {"id": number, "qty": 1}) for number in (1, 2)]
    async with counted.transaction() as tx:
        assert await tx.fetch_value("select count(*) from item") == 0  # BEGIN has travelled with it
        with wire.count() as done:
            results = await tx.batch([*good, "select count(*) from item"])
        with wire.count() as failed, pytest.raises(UniqueViolationError) as caught:
            await tx.batch([(INSERT, {"id": 3, "qty": 1}), good[0]])
        assert await tx.fetch_value("select count(*) from item") == 2
        await tx.batch([(INSERT, {"id": 4, "qty": 1}), "update item set qty = 5 where id = 4"])
    assert done.round_trips == 1
    assert results[2].rows[0][0] == 2
    assert caught.value.statement_index == 1
    assert failed.round_trips <= 2
    assert await counted.fetch_value("select sum(qty) from item") == 7


async def test_a_listener_that_is_gone_costs_nothing(counted: Any, wire: WireCounter) -> None:
    """SQLAlchemy's flags of a listener on the class of all engines stay up for the whole process."""

    def listen(*event: Any) -> None:
        heard.append(event)

    heard: list[Any] = []
    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        await counted.batch([(INSERT, {"id": 1, "qty": 1})])
        assert heard, "a batch with a listener is sent statement by statement"
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    with wire.count() as done:
        await counted.batch([(INSERT, {"id": 2, "qty": 1}), (INSERT, {"id": 3, "qty": 1})])
    assert done.round_trips == 1
