"""An error is judged once, where it is caught first: event, pool, transaction and caller say the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import ErrorKind, PrefiqDbError, RetryPolicy
from prefiq_db.errors import ConnectFailedError, UniqueViolationError
from prefiq_db.events import StatementFailed
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.translation import judging
from prefiq_db.translation.cleaning import KEPT
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import slow_read

K = ErrorKind
Way = Callable[[Any, str, Any], Awaitable[Any]]

_STATEMENTS: dict[str, dict[K, tuple[str, Any]]] = {
    "sqlite": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.DATA: ("select * from item where id = :id", {"id": 2**70}),
    },
    "postgresql": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.DATA: ("select * from item where name = :name", {"name": "\0"}),
        K.CANCELLED: ("select pg_cancel_backend(pg_backend_pid())", None),
        K.SERVER_SHUTDOWN: ("select pg_terminate_backend(pg_backend_pid())", None),
    },
    "mariadb": {
        K.UNIQUE: ("insert into item (id) values (1)", None),
        K.SCHEMA: ("select * from nowhere", None),
        K.CANCELLED: ("kill query connection_id()", None),
        K.CONNECTION_LOST: ("kill connection_id()", None),
    },
}


async def by_verb(db: Any, sql: str, params: Any) -> None:
    await db.execute(sql, params)


async def in_transaction(db: Any, sql: str, params: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(sql, params)


async def in_session(db: Any, sql: str, params: Any) -> None:
    async with db.session() as session:
        await session.execute(sa.text(sql), params or {})


class Halt(BaseException):
    """What a signal handler may raise."""


async def with_items(make_db: Any) -> Any:
    """Return a database with one item in it."""
    db = make_db(pool_size=1, max_overflow=0, retry=RetryPolicy(attempts=1))
    await db.execute("drop table if exists item")
    await db.execute("create table item (id integer primary key, name varchar(20))")
    await db.execute("insert into item (id) values (1)")
    return db


Judged = list[tuple[BaseException, judging.Judgement]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Every driver's exception that is judged, in order, with its judgement."""
    made: Judged = []
    judge_anew = judging._judge

    def judge(error: BaseException, original: BaseException, *args: Any) -> judging.Judgement:
        judgement = judge_anew(error, original, *args)
        made.append((original, judgement))
        return judgement

    monkeypatch.setattr(judging, "_judge", judge)
    return made


async def failing(db: Any, way: Way, sql: str, params: Any = None) -> tuple[PrefiqDbError, StatementFailed]:
    """Return what the caller got, and what the event said."""
    told: list[StatementFailed] = []
    db.hooks.on_error(told.append)
    with pytest.raises(PrefiqDbError) as caught:
        await way(db, sql, params)
    (event,) = told
    return caught.value, event


@pytest.mark.parametrize("kind", [K.UNIQUE, K.SCHEMA, K.DATA, K.CANCELLED, K.SERVER_SHUTDOWN, K.CONNECTION_LOST])
@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_one_judgement_for_everybody(make_db: Any, backend: Backend, judged: Judged, way: Way, kind: K) -> None:
    """The event and the caller's error have one kind and code, and nothing of it stays with the driver's exception."""
    if kind not in _STATEMENTS[backend.name]:
        pytest.skip("its way to say so is another")
    items = await with_items(make_db)
    error, event = await failing(items, way, *_STATEMENTS[backend.name][kind])
    originals = [original for original, _ in judged]
    assert len(set(map(id, originals))) == len(originals) <= (2 if kind is K.CONNECTION_LOST else 1)
    judgement = judged[-1][1]  # on a lost connection, what is to be undone fails as well
    assert event.kind is judgement.kind is kind
    # Whether a statement on its own was carried out, when its answer is lost, nobody knows.
    assert error.kind is (K.OUTCOME_UNKNOWN if judgement.found.connection_lost and way is by_verb else kind)
    assert event.code == error.code == judgement.code
    for each in (error.original, getattr(error, "orig", None)):
        assert not hasattr(each, KEPT)
    assert await items.fetch_value("select count(*) from item") == 1


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_a_timeout_is_judged_once(make_db: Any, backend: Backend, judged: Judged, way: Way) -> None:
    """Our own clock ended it, or the server's for us."""
    db = make_db(statement_timeout_seconds=0.3, retry=RetryPolicy(attempts=1))
    await db.ping()
    error, event = await failing(db, way, slow_read(backend))
    assert [judgement.kind for _, judgement in judged] == [event.kind] == [error.kind] == [K.STATEMENT_TIMEOUT]


# --- what a driver stumbles over -----------------------------------------------------------------


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_an_interruption_over_which_the_driver_stumbles_goes_on(
    make_db: Any, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """Its own error on the way out would hide why; the event calls it a cancellation."""
    items = await with_items(make_db)
    kinds: list[K] = []
    items.hooks.on_error(lambda event: kinds.append(event.kind))
    halt = Halt()
    observe = StatementObserver.observe

    def stumble(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        try:
            raise halt
        except Halt:
            raise context.dialect.loaded_dbapi.OperationalError("stumbled") from None

    with monkeypatch.context() as patched:
        patched.setattr(StatementObserver, "observe", lambda self, send, *args: observe(self, stumble, *args))
        with pytest.raises(Halt) as caught:
            await way(items, "select 1", None)
    assert caught.value is halt
    assert kinds == [K.CANCELLED]
    assert await items.fetch_value("select count(*) from item") == 1


@pytest.mark.parametrize("way", [by_verb, in_transaction, in_session])
async def test_what_the_caller_is_handling_is_his_own_business(make_db: Any, way: Way) -> None:
    """A clean-up after an interruption fails like any other statement."""
    items = await with_items(make_db)
    try:
        raise Halt
    except Halt:
        error, event = await failing(items, way, "insert into item (id) values (1)")
    assert isinstance(error, UniqueViolationError)
    assert event.kind is K.UNIQUE


async def test_nor_is_it_what_kept_us_from_connecting(backend: Backend, world: str) -> None:
    """The same while there is no connection yet."""
    if backend.server is None:
        pytest.skip("SQLite has no server that is away")
    gone = make_database(world, sa.make_url(backend.url).set(port=1).render_as_string(hide_password=False))
    try:
        raise Halt
    except Halt:
        with pytest.raises(ConnectFailedError):
            await gone.using(retry=RetryPolicy(attempts=1)).ping()
    await gone.close()
