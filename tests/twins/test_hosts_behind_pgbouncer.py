"""A pgbouncer before each node, and several of them in one URL: the primary is found by asking, not at login.

pgbouncer tells each client what its first session of the server heard, also after a failover, and keeps its clients
when the server's sessions end. So neither the login nor a lost connection tells that a node has another role now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from prefiq_db.errors import ReadOnlyError
from prefiq_db.testing import PgBouncer, PostgresPair, PostgresServer
from tests.clusters import find
from tests.conftest import _find
from tests.twins.test_wrong_node import ONCE, QUICK

pytestmark = pytest.mark.postgresql

PORT = "select setting::int from pg_settings where name = 'port'"
ADD = "update stock set quantity = quantity + 1"


@pytest.fixture
def usual_fields() -> dict[str, Any]:
    """The settings of the databases that these tests open."""
    return {"retry": QUICK, "pgbouncer": True, "ssl_mode": "disable", "connect_timeout_seconds": 10}


@pytest.fixture
def pair() -> Iterator[PostgresPair]:
    _find(PostgresServer)
    with PostgresPair() as made:
        made.primary.execute("create table stock (quantity integer)")
        made.primary.execute("insert into stock values (0)")
        yield made


@pytest.fixture
def poolers(pair: PostgresPair) -> Iterator[list[PgBouncer]]:
    """One before the primary, and one before the standby; each has been used once."""
    settings = {"server_login_retry": "0.1", "query_wait_timeout": "2"}
    made = [find("pgbouncer", PgBouncer, server=node, settings=settings) for node in pair.nodes]
    try:
        for pooler in made:
            assert _told(pooler.start()) == ("off" if pooler.server is pair.primary else "on")
        yield made
    finally:
        for pooler in made:
            pooler.close()


def _told(pooler: PgBouncer) -> str | None:
    """Return what it tells at login of its server: whether that is a standby."""
    with psycopg.connect(pooler.url("postgres")) as connection:
        return connection.info.parameter_status("in_hot_standby")


def _url(poolers: list[PgBouncer], wanted: str = "") -> str:
    login, _, _ = poolers[0].url("postgres").rpartition("@")
    hosts = ",".join(f"{pooler.host}:{pooler.port}" for pooler in poolers)
    return f"{login}@{hosts}/postgres{wanted and f'?target_session_attrs={wanted}'}"


@pytest.mark.parametrize("asks", [True, False], ids=["", "control"])
@pytest.mark.parametrize("is_new", [False, True], ids=["old_pool", "new_pool"])
async def test_the_promoted_node_is_written_to(
    opened: Callable[..., Any],
    pair: PostgresPair,
    poolers: list[PgBouncer],
    monkeypatch: pytest.MonkeyPatch,
    asks: bool,
    is_new: bool,
) -> None:
    """Who was there before the failover goes there, and who comes after it; whoever believes the login never does."""
    if not asks:
        monkeypatch.setattr("prefiq_db.connectors.postgresql_connector.POSTGRESQL_ROLES", {})
    db = opened(_url(poolers))
    await db.execute(ADD)
    pair.switch_over()
    assert [_told(pooler) for pooler in poolers] == ["off", "on"], "pgbouncer tells what was"
    if is_new:
        db = opened(_url(poolers))
    if not asks:
        with pytest.raises(ReadOnlyError):
            await db.execute(ADD)
        return
    await db.execute(ADD)
    await db.run_in_transaction(lambda tx: tx.execute(ADD))
    assert await db.fetch_value(PORT) == pair.primary.port
    assert pair.primary.execute("select quantity from stock") == [(3,)]


@pytest.mark.parametrize("asks_soon", [True, False], ids=["", "control"])
async def test_who_only_reads_leaves_a_demoted_node(
    opened: Callable[..., Any], pair: PostgresPair, poolers: list[PgBouncer], asks_soon: bool
) -> None:
    """The pooled connection is to pgbouncer, and outlives the sessions of the server; so the server is asked."""
    db = opened(_url(poolers), pool_size=1, ask_role_after_seconds=0 if asks_soon else 3600)
    assert await db.fetch_value(PORT) == pair.primary.port
    old = pair.primary
    pair.switch_over()
    assert await db.fetch_value(PORT) == (pair.primary if asks_soon else old).port


@pytest.mark.parametrize("wanted", ["standby", "read-only"])
async def test_who_wants_the_standby_finds_it(
    opened: Callable[..., Any], pair: PostgresPair, poolers: list[PgBouncer], wanted: str
) -> None:
    pair.switch_over()
    assert pair.standby is not None
    db = opened(_url(poolers, wanted))
    assert await db.fetch_value(PORT) == pair.standby.port
    alone = opened(_url(poolers[1:], wanted), retry=ONCE)  # its node is the primary now
    with pytest.raises(Exception, match="target_session_attrs"):
        await alone.fetch_value(PORT)


async def test_a_node_that_is_gone_behind_its_pooler_is_passed(
    opened: Callable[..., Any], pair: PostgresPair, poolers: list[PgBouncer]
) -> None:
    """pgbouncer lets a client in although its server is dead; what waits there in vain was certainly not sent."""
    db = opened(_url(poolers))
    await db.execute(ADD)
    pair.primary.kill()
    pair.promote()
    await db.execute(ADD)
    assert await db.fetch_value(PORT) == pair.primary.port
    assert pair.primary.execute("select quantity from stock") == [(2,)]
