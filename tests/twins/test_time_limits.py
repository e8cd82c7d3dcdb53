"""A time limit that a signal handler raises, as those of RQ and Celery, comes out as it is."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from prefiq_db import Database, RetryPolicy
from prefiq_db.errors import ErrorKind, ForeignKeyViolationError, PrefiqDbError
from prefiq_db.translation import judging
from tests.conftest import Backend

SLEEP = {
    "sqlite": "with recursive t(n) as (select 1 union all select n + 1 from t where n < 400000000) "
    "select count(*) from t",
    "postgresql": "select pg_sleep(2)",
    "mariadb": "select sleep(2)",
}

# Long enough to be in the middle of it then; a busy machine may be somewhere else, and that is as good.
SECONDS = 0.05


class JobTimeoutError(Exception):
    """As RQ's: a class of the application's."""


# The last two are what sockets raise, too.
LIMITS = [JobTimeoutError, ValueError, TimeoutError, EOFError]


@pytest.fixture(params=LIMITS)
def limit(request: pytest.FixtureRequest) -> Iterator[Exception]:
    """An exception that is raised when the timer rings: ``signal.setitimer(signal.ITIMER_REAL, SECONDS)``."""
    raised: Exception = request.param("the job took too long")

    def ring(number: int, frame: object) -> None:
        raise raised

    before = signal.signal(signal.SIGALRM, ring)
    yield raised
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    """A database whose statements take too long."""
    with Database(backend.url, pool_size=1, max_overflow=0, retry=RetryPolicy(attempts=2)) as made:
        made.fetch_value("select 1")
        yield made


def by_verb(db: Database, sql: str) -> None:
    db.fetch_all(sql)


def in_transaction(db: Database, sql: str) -> None:
    db.run_in_transaction(lambda tx: tx.fetch_all(sql))


def in_session(db: Database, sql: str) -> None:
    with db.session() as session:
        session.execute(text(sql))


def on_connection(db: Database, sql: str) -> None:
    with db.engine.connect() as connection:
        connection.execute(text(sql)).all()


@pytest.mark.sync
@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session, on_connection])
def test_the_very_same_comes_out(
    backend: Backend, db: Database, limit: Exception, way: Callable[[Database, str], None]
) -> None:
    """Nothing is repeated; the connection is not used again, and nobody is kept from another one."""
    told: list[ErrorKind] = []
    db.hooks.on_error(lambda event: told.append(event.kind))
    db.hooks.before(lambda event: signal.setitimer(signal.ITIMER_REAL, SECONDS))
    with pytest.raises(type(limit)) as caught:
        way(db, SLEEP[backend.name])
    assert caught.value is limit
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert set(told) <= {ErrorKind.CANCELLED}
    assert db.stats().pool.checked_out == 0
    statistics = db.stats()
    with Database(backend.url) as other:
        assert other.fetch_value("select 1") == 1
    assert statistics.retry_count == 0
    if backend.server is not None:
        assert sum(statistics.pool.lost.values()) == 1


@pytest.mark.sync
@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
@pytest.mark.parametrize("limit", [TimeoutError], indirect=True)
def test_a_later_error_is_not_taken_for_the_limit(backend: Backend, db: Database, limit: Exception) -> None:
    """On the same connection: what a statement met stays with that statement."""
    db.execute("create table parent (id integer primary key)")
    db.execute("create table child (id integer references parent deferrable initially deferred)")
    with db.engine.connect() as connection:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with pytest.raises(TimeoutError):
            connection.execute(text(SLEEP["sqlite"])).all()
        connection.execute(text("insert into child values (1)"))
        with pytest.raises(ForeignKeyViolationError):
            connection.commit()


@pytest.mark.sync
@pytest.mark.parametrize("scheme", ["postgresql", "mariadb"])
@pytest.mark.parametrize("open_one", [lambda db: db.ping(), lambda db: db.engine.connect()], ids=["verb", "engine"])
def test_the_same_while_connecting(scheme: str, limit: Exception, open_one: Callable[[Database], Any]) -> None:
    """To a server that is silent: the limit is neither a failed connect nor another host's turn."""
    pytest.importorskip({"postgresql": "psycopg", "mariadb": "pymysql"}[scheme])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = Database(f"{scheme}://u:p@127.0.0.1:{silent.getsockname()[1]}/x", connect_timeout_seconds=20)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with pytest.raises(type(limit)) as caught:
            open_one(db)
        assert caught.value is limit
        db.close()


@pytest.mark.sync
@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
@pytest.mark.parametrize("limit", [TimeoutError], indirect=True)
def test_control_taken_for_an_answer_it_is_swallowed(
    backend: Backend, db: Database, limit: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged to be an answer where it is caught first, it is one to everybody."""
    monkeypatch.setattr(judging, "is_interruption", lambda error: False)
    db.hooks.before(lambda event: signal.setitimer(signal.ITIMER_REAL, SECONDS))
    with pytest.raises(PrefiqDbError):
        by_verb(db, SLEEP[backend.name])
