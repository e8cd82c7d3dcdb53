"""A pooler that is not what the settings say: no statement is taken for another one, and errors say what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg
import pytest

from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.testing import PgBouncer
from tests.clusters import find
from tests.conftest import Backend
from tests.twins.harness import make_database

pytestmark = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)

ADD = "update {} set quantity = quantity + :n where id = 1"
WARM = 8  # psycopg prepares what it has seen five times


@pytest.fixture
def silent(backend: Backend) -> Iterator[PgBouncer]:
    """A pgbouncer with two sessions, which ignores what it can't keep."""
    assert backend.server is not None
    settings = {"ignore_startup_parameters": "options"}
    with find("pgbouncer", PgBouncer, server=backend.server, pool_size=2, settings=settings) as made:
        for table in ("stock", "debt"):
            backend.server.execute(f"create table {table} (id integer primary key, quantity integer)", _name(backend))
            backend.server.execute(f"insert into {table} values (1, 0)", _name(backend))
        yield made


@pytest.fixture
def make(backend: Backend, silent: PgBouncer, opened: Callable[..., Any]) -> Callable[[], Any]:
    fields = {"pgbouncer": False, "ssl_mode": "disable", "pool_size": 1, "max_overflow": 0}
    return lambda: opened(silent.url(_name(backend)), **fields)


def _name(backend: Backend) -> str:
    return backend.url.rpartition("/")[2]


@contextmanager
def _all_but(silent: PgBouncer, backend: Backend, wanted: int) -> Iterator[tuple[int, int]]:
    """Hold one of the two sessions; return the process of the other one, which serves, and the one that is held.

    Args:
        wanted: the process to serve; 0: either.
    """
    with ExitStack() as stack:
        holders: dict[int, Any] = {}
        for _ in range(2):
            holder = stack.enter_context(closing(psycopg.connect(silent.url(_name(backend)))))
            ((pid,),) = holder.execute("select pg_backend_pid()", prepare=False).fetchall()
            holders[pid] = holder
            stack.callback(holder.rollback)  # else pgbouncer ends the session
        serving = wanted or min(holders)
        holders[serving].rollback()
        yield serving, next(pid for pid in holders if pid != serving)


@pytest.mark.parametrize("own_names", [True, False], ids=["", "control"])
async def test_no_statement_is_run_in_place_of_another(
    make: Any, silent: PgBouncer, backend: Backend, monkeypatch: pytest.MonkeyPatch, own_names: bool
) -> None:
    """Two clients have prepared a statement each, on different sessions; then one of them is lent the other's.

    Where both count from the same number, the server runs the other client's statement, and says nothing.
    """
    assert backend.server is not None
    if not own_names:
        monkeypatch.setattr("prefiq_db.drivers.psycopg_preparing.secrets.randbits", lambda bits: 0)
    one, other = make(), make()
    with _all_but(silent, backend, 0) as (first, second):
        for _ in range(WARM):
            await one.execute(ADD.format("stock"), {"n": 1})
    with _all_but(silent, backend, second):
        for _ in range(WARM):
            await other.execute(ADD.format("debt"), {"n": 1})
    with _all_but(silent, backend, first):
        await other.execute(ADD.format("debt"), {"n": 100})
    found = [backend.server.execute(f"select quantity from {name}", _name(backend)) for name in ("stock", "debt")]
    assert found == ([[(WARM,)], [(WARM + 100,)]] if own_names else [[(WARM + 100,)], [(WARM,)]])


async def test_a_pooler_in_statement_mode_says_what_to_change(world: str, backend: Backend) -> None:
    """It refuses transactions, and even a login looks at the server in one; trying again doesn't help."""
    assert backend.server is not None
    settings = {"pool_mode": "statement"}
    with find("pgbouncer", PgBouncer, server=backend.server, settings=settings) as pooler:
        db = make_database(world, pooler.url(_name(backend)), pgbouncer=True, ssl_mode="disable")
        for attempt in (db.fetch_value("select 1"), db.batch(["select 1", "select 2"])):
            with pytest.raises(PrefiqDbError, match="pool_mode = transaction") as refused:
                await attempt
            assert refused.value.kind is ErrorKind.UNSUPPORTED
            assert not refused.value.is_transient
        assert db.stats().retry_count == 0
        await db.close()
