"""What a call costs at the wire, counted there; and what an engine option must not do to the next one-shot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import drive, make_database

# SQLite has no wire.
pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


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


async def test_a_transaction_of_two_costs_four(counted: Any, wire: WireCounter) -> None:
    """BEGIN, two statements, COMMIT; checkout and return cost nothing."""
    await _make_table(counted)
    with wire.count() as count:
        async with counted.transaction() as tx:
            await tx.execute("update item set qty = qty - 1 where id = 1")
            await tx.fetch_value("select qty from item where id = 1")
    assert count.round_trips == 4


@pytest.mark.parametrize("options", [{"isolation": "SERIALIZABLE"}, {"read_only": True}])
async def test_how_a_transaction_begins_costs_nothing_more(
    counted: Any, wire: WireCounter, options: dict[str, Any]
) -> None:
    """Isolation level and read-only travel in BEGIN's own message."""
    await _make_table(counted)
    with wire.count() as count:
        async with counted.transaction(**options) as tx:
            await tx.fetch_value("select qty from item where id = 1")
    assert count.round_trips == 3


async def test_a_rolled_back_transaction_costs_as_much_as_a_committed_one(counted: Any, wire: WireCounter) -> None:
    await _make_table(counted)
    with wire.count() as count, pytest.raises(KeyError):
        async with counted.transaction() as tx:
            await tx.execute("update item set qty = 0")
            raise KeyError
    assert count.round_trips == 3


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
