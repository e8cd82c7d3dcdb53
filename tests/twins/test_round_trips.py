"""What a call costs at the wire, counted there; and what an engine option must not do to the next one-shot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import UniqueViolationError
from prefiq_db.testing.links import Link
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import drive, make_database

# SQLite has no wire.
pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


# Longer than any client that doesn't wait needs; only a client that does wait sees it.
_PATIENCE_SECONDS = 3.0
_SYNC = b"S\x00\x00\x00\x04"


class SlowCommits(WireCounter):
    """Holds back the reply to COMMIT until the client sends its next request: only who waits for it pays for it."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._holding: dict[Link, bytes] = {}

    def client_sent(self, link: Link, data: bytes) -> bytes:
        passed = super().client_sent(link, data)
        self._release(link)
        # Two requests may arrive as one piece.
        if b"COMMIT" in data and (data.count(_SYNC) == 1 or data.endswith(b"COMMIT")):
            self._holding[link] = b""
            self.after(_PATIENCE_SECONDS, lambda: self._release(link))
        return passed

    def server_sent(self, link: Link, data: bytes) -> bytes:
        if link in self._holding:
            self._holding[link] += data
            return b""
        return super().server_sent(link, data)

    def _release(self, link: Link) -> None:
        held = self._holding.pop(link, b"")
        if held:
            self.send(link.client, super().server_sent(link, held))


@pytest.fixture
def wire(backend: Backend) -> Iterator[WireCounter]:
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as counter:
        yield counter


@pytest.fixture
def counted(wire: WireCounter, backend: Backend, make_counted: Callable[..., Any]) -> Any:
    return make_counted(wire.url(backend.url))


@pytest.fixture
def make_counted(world: str, loop_runner: Any) -> Iterator[Callable[..., Any]]:
    """Make databases that talk through the counter."""
    run = loop_runner.run if world == "async" else drive
    made: list[Any] = []

    def make(url: str, **fields: Any) -> Any:
        made.append(make_database(world, url, ssl_mode="disable", pool_size=1, max_overflow=0, **fields))
        run(made[-1].open())
        return made[-1]

    yield make
    for database in made:
        run(database.close())


async def _make_table(db: Any) -> None:
    await db.execute("create table item (id integer primary key, qty integer not null)")
    await db.execute("insert into item (id, qty) values (1, 10)")


async def test_one_shots_cost_one_round_trip(counted: Any, wire: WireCounter) -> None:
    """A read and a write outside a transaction are one message and one reply each, also the second time."""
    await _make_table(counted)
    # Three times: psycopg prepares a statement at its fifth run, and that round trip is the driver's.
    for number in range(3):
        with wire.count() as read:
            await counted.fetch_all("select qty from item where id = :id", {"id": 1})
        with wire.count() as write:
            await counted.execute("update item set qty = qty + :n where id = 1", {"n": number})
        assert (read.round_trips, write.round_trips) == (1, 1)


async def test_begin_travels_with_the_first_statement(counted: Any, wire: WireCounter, backend: Backend) -> None:
    """Two statements and COMMIT. Checkout and return cost nothing."""
    await _make_table(counted)
    with wire.count() as count:
        async with counted.transaction() as tx:
            await tx.execute("update item set qty = qty - 1 where id = 1")
            await tx.fetch_value("select qty from item where id = 1")
    assert count.round_trips == 3


async def test_commit_travels_with_the_last_statement(counted: Any, wire: WireCounter, backend: Backend) -> None:
    """A transaction of n costs n when the caller says which one is the last; a failing one ROLLBACK more."""
    await _make_table(counted)
    with wire.count() as count:
        async with counted.transaction() as tx:
            await tx.fetch_value("select qty from item where id = 1")
            await tx.execute("update item set qty = qty - 1 where id = 1", last=True)
    with wire.count() as single:
        async with counted.transaction() as tx:
            await tx.execute("update item set qty = qty - 1 where id = 1", last=True)
    with wire.count() as failing, pytest.raises(UniqueViolationError):
        async with counted.transaction() as tx:
            await tx.execute("insert into item (id, qty) values (1, 0)", last=True)
    costs = (count.round_trips, single.round_trips, failing.round_trips)
    assert costs == (2, 1, 2)


@pytest.mark.parametrize("options", [{}, {"isolation": "REPEATABLE READ"}])
async def test_a_read_only_transaction_costs_its_statements(
    backend: Backend, world: str, options: dict[str, Any]
) -> None:
    """COMMIT's reply is read with the next use, whatever that is: another transaction, or a statement on its own."""
    assert backend.server is not None
    with SlowCommits(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        await db.open()
        with wire.count() as count:
            for statements in (1, 2, 3):
                async with db.transaction(read_only=True, **options) as tx:
                    for number in range(statements):
                        assert (
                            await tx.fetch_value(f"select {statements} + :number", {"number": number})
                            == statements + number
                        )
            assert await db.fetch_value("select :number + 1", {"number": 1}) == 2
        await db.close()
    assert count.round_trips == 1 + 2 + 3 + 1


async def test_control_who_needs_commits_reply_waits_for_it(backend: Backend, world: str) -> None:
    """What a SERIALIZABLE transaction has read is right only when it has committed, and so is what a writer wrote."""
    assert backend.server is not None
    with SlowCommits(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        await db.open()
        with wire.count() as count:
            async with db.transaction(read_only=True, isolation="SERIALIZABLE") as tx:
                await tx.fetch_value("select 1")
            assert await db.fetch_value("select 1") == 1
        await db.close()
    assert count.round_trips == 3


@pytest.mark.parametrize("options", [{"isolation": "SERIALIZABLE"}, {"read_only": True}])
async def test_how_a_transaction_begins_costs_nothing_more(
    counted: Any, wire: WireCounter, backend: Backend, options: dict[str, Any]
) -> None:
    """Isolation level and read-only travel in BEGIN's own message."""
    await _make_table(counted)
    with wire.count() as count:
        async with counted.transaction(**options) as tx:
            await tx.fetch_value("select qty from item where id = 1")
    # The reply to COMMIT is not waited for if it is read-only, but it is a burst.
    assert count.round_trips == 2


async def test_a_rolled_back_transaction_costs_as_much_as_a_committed_one(
    counted: Any, wire: WireCounter, backend: Backend
) -> None:
    await _make_table(counted)
    with wire.count() as count, pytest.raises(KeyError):
        async with counted.transaction() as tx:
            await tx.execute("update item set qty = 0")
            raise KeyError
    assert count.round_trips == 2


async def test_a_query_after_open_pays_for_no_connection(counted: Any, wire: WireCounter) -> None:
    """open() filled the pool: the first statement is one round trip already."""
    with wire.count() as count:
        await counted.fetch_value("select 1")
    assert count.round_trips == 1


async def test_control_plain_sqlalchemy_costs_more(backend: Backend, wire: WireCounter) -> None:
    """The counter sees what SQLAlchemy sends of its own accord: the yardstick of the other tests."""
    drivers = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
    url = sa.make_url(wire.url(backend.url)).set(drivername=drivers[backend.name])
    options = {"sslmode": "disable"} if backend.name == "postgresql" else {"ssl_disabled": True}
    engine = sa.create_engine(url, connect_args=options)
    with engine.connect() as connection:
        connection.execute(sa.text("select 1")).all()
    with wire.count() as count, engine.connect() as connection:
        connection.execute(sa.text("select 1")).all()
    engine.dispose()
    assert count.round_trips == {"postgresql": 3, "mariadb": 2}[backend.name]
