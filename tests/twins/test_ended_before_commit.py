"""A connection that is ended between the last statement and COMMIT: nothing was committed, and that is certain.

So ends work when pgbouncer's ``idle_transaction_timeout``, a proxy's time limit, a restart or an administrator hits it
while the program thinks. Without a look at the socket COMMIT would be sent, and its outcome be unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.drivers import readable
from prefiq_db.errors import ErrorKind, OutcomeUnknownError, PrefiqDbError
from prefiq_db.testing import PgBouncer
from prefiq_db.testing.links import Link
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.proxy import TcpProxy
from tests.clusters import find
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import CREATE_STOCK, kill_session, session_id

both = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)
postgresql_only = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)

ADD = "update stock set quantity = quantity + 1"
QUICK = RetryPolicy(attempts=3, wait_initial_seconds=0.001, wait_max_seconds=0.01)
ONCE = RetryPolicy(attempts=1)


def _is_readable_soon(descriptor: int) -> bool:
    """Wait until the end of the connection has come here; that is what the tests are about."""
    return wait_until(lambda: readable.is_readable(descriptor), timeout_seconds=10)


@pytest.fixture
def ends(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Return what ends the connection of a transaction from the server's side, and lets COMMIT come after that."""

    async def end(executor: Any) -> None:
        session = await session_id(executor, backend)
        kill_session(backend, session)
        monkeypatch.setattr("prefiq_db.dialects.disconnects.is_readable", _is_readable_soon)

    return end


def _written(backend: Backend) -> int:
    assert backend.server is not None
    return int(backend.server.execute("select quantity from stock", backend.url.rpartition("/")[2])[0][0])


async def _create(db: Any) -> None:
    await db.execute(CREATE_STOCK)
    await db.execute("insert into stock (id, quantity) values (1, 0)")


class Ended:
    """A body that adds one; in its first run its connection is ended behind that."""

    def __init__(self, ends: Callable[[Any], Any], *, then: str = "") -> None:
        self.ends = ends
        self.then = then
        self.runs = 0

    async def __call__(self, tx: Any) -> None:
        self.runs += 1
        await tx.execute(ADD)
        if self.runs == 1:
            await self.ends(tx)
        if self.then:
            await tx.execute(self.then, last=True)


@both
@pytest.mark.parametrize("then", ["", "update stock set id = 1"], ids=["block", "last"])
@pytest.mark.parametrize("is_listened", [False, True], ids=["usual", "listened"])
async def test_the_transaction_runs_again(
    make_db: Any, backend: Backend, ends: Callable[[Any], Any], then: str, is_listened: bool
) -> None:
    """Without a token, and although it writes; the short way and the longer one decide alike."""
    db = make_db(retry=QUICK)
    await _create(db)
    if is_listened:
        sa.event.listen(getattr(db.engine, "sync_engine", db.engine), "commit", lambda connection: None)
    body = Ended(ends, then=then)
    await db.run_in_transaction(body)
    assert (_written(backend), body.runs) == (1, 2)
    assert db.stats().unknown_outcome_count == 0


@both
async def test_a_block_says_that_nothing_was_committed(
    make_db: Any, backend: Backend, ends: Callable[[Any], Any]
) -> None:
    db = make_db(retry=ONCE)
    await _create(db)
    rolled_back: list[bool] = []
    with pytest.raises(PrefiqDbError) as caught:
        async with db.transaction() as tx:
            tx.on_rollback(lambda: rolled_back.append(True))
            await tx.execute(ADD)
            await ends(tx)
    assert caught.value.kind is ErrorKind.CONNECTION_LOST
    assert caught.value.classification.retry_transaction
    assert tx.outcome.value == "not committed"
    assert rolled_back == [True]
    assert _written(backend) == 0


@both
async def test_a_session_says_so_too(make_db: Any, backend: Backend, ends: Callable[[Any], Any]) -> None:
    db = make_db(retry=ONCE)
    await _create(db)
    session = db.session()
    async with session:
        await session.execute(sa.text(ADD))
        number = (await session.execute(sa.text(_ID[backend.name]))).scalar()
        await ends(_Known(number))
        with pytest.raises(PrefiqDbError) as caught:
            await session.commit()
    assert caught.value.kind is ErrorKind.CONNECTION_LOST
    assert caught.value.classification.retry_transaction
    assert _written(backend) == 0


_ID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}


class _Known:
    """Answers the question for the session's number."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def fetch_value(self, statement: str) -> int:
        return self._number


@both
async def test_control_a_commit_that_is_sent_all_the_same_is_in_doubt(
    make_db: Any, backend: Backend, ends: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    db = make_db(retry=QUICK)
    await _create(db)
    body = Ended(ends)

    async def blind(tx: Any) -> None:
        await body(tx)
        _is_gone(backend)
        monkeypatch.setattr("prefiq_db.dialects.disconnects.is_readable", lambda descriptor: False)

    with pytest.raises(OutcomeUnknownError):
        await db.run_in_transaction(blind)
    assert (_written(backend), body.runs) == (0, 1)


def _is_gone(backend: Backend) -> None:
    """Wait until no other session of the database has a transaction: KILL alone would let COMMIT through."""
    assert backend.server is not None
    server, name = backend.server, backend.url.rpartition("/")[2]
    asked = {
        "postgresql": f"select 1 from pg_stat_activity where datname = '{name}' and xact_start is not null",
        "mariadb": f"select 1 from information_schema.processlist where db = '{name}'",
    }
    assert wait_until(lambda: not server.execute(asked[backend.name]), timeout_seconds=30)


# --- what comes unasked, and is no end --------------------------------------------------------------

_FIELDS = b"SNOTICE\0VNOTICE\0C00000\0Mso that you know\0\0"
_NOTICE = b"N" + (len(_FIELDS) + 4).to_bytes(4, "big") + _FIELDS


class Teller(TcpProxy):
    """Sends a notice to the clients that are there."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.known: set[Link] = set()

    def client_sent(self, link: Link, data: bytes) -> bytes:
        self.known.add(link)
        return data

    def tell(self) -> None:
        for link in self.known:
            if link.is_open:
                link.client.socket.sendall(_NOTICE)


@postgresql_only
async def test_a_notice_is_no_end(world: str, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says unasked is read, and the transaction commits."""
    assert backend.server is not None
    with Teller(backend.server.host, backend.server.port) as teller:
        url = backend.server.url(backend.url.rpartition("/")[2]).replace(f":{backend.server.port}/", f":{teller.port}/")
        db = make_database(world, url, ssl_mode="disable", retry=ONCE)
        await _create(db)
        seen: list[bool] = []

        def look(descriptor: int) -> bool:
            seen.append(_is_readable_soon(descriptor))
            return seen[-1]

        async with db.transaction() as tx:
            await tx.execute(ADD)
            teller.tell()
            monkeypatch.setattr("prefiq_db.dialects.disconnects.is_readable", look)
        monkeypatch.undo()
        assert seen == [True]
        assert await db.fetch_value("select quantity from stock") == 1
        await db.close()


# --- who ends it ----------------------------------------------------------------------------------


@postgresql_only
async def test_a_limit_of_the_poolers_for_an_idle_transaction(
    world: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgbouncer's ``idle_transaction_timeout`` ends both connections while the program thinks; the work runs again."""
    assert backend.server is not None
    name, settings = backend.url.rpartition("/")[2], {"idle_transaction_timeout": "1"}
    with find("pgbouncer", PgBouncer, server=backend.server, settings=settings) as pooler:
        db = make_database(world, pooler.url(name), pgbouncer=True, ssl_mode="disable", retry=QUICK)
        await _create(db)
        runs: list[int] = []

        async def body(tx: Any) -> None:
            runs.append(1)
            await tx.execute(ADD)
            if len(runs) == 1:
                monkeypatch.setattr("prefiq_db.dialects.disconnects.is_readable", _is_readable_soon)
            else:
                monkeypatch.undo()

        await db.run_in_transaction(body)
        assert (_written(backend), len(runs)) == (1, 2)
        await db.close()
