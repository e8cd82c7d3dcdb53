"""A select is sent again only when its functions are the database's own: one of somebody's may write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.core.database_core import DatabaseCore
from prefiq_db.core.doubt import Doubt
from prefiq_db.errors import OutcomeUnknownError
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.test_retries import QUICK, ReplyCutter, with_lost_reply

CREATE_MOVED = "create table moved (amount integer)"
_MOVE = {
    "postgresql": "create function {0}({1}) returns integer language sql as 'insert into moved values (1) returning 1'",
    "mariadb": "create function {0}(amount {1}) returns integer begin insert into moved values (1); return 1; end",
}


@pytest.fixture
def cutter(backend: Backend) -> Iterator[ReplyCutter]:
    if backend.server is None:
        pytest.skip("SQLite has no reply to lose")
    with ReplyCutter(backend.server.host, backend.server.port) as proxy:
        yield proxy


def behind(cutter: ReplyCutter, backend: Backend, world: str, retry: RetryPolicy = QUICK) -> Any:
    return make_database(world, cutter.url(backend.url), ssl_mode="disable", pool_size=1, retry=retry)


@pytest.fixture
def distant(backend: Backend, world: str, cutter: ReplyCutter, run: Callable[[Any], Any]) -> Iterator[Any]:
    """A database behind the cutter."""
    db = behind(cutter, backend, world)
    run(db.open())
    yield db
    run(db.close())


async def lost(cutter: ReplyCutter, harness: Harness, send: Callable[[], Awaitable[Any]]) -> Any:
    cutter.swallowed = 0
    return await with_lost_reply(cutter, harness, b"marked", send)


async def test_a_function_of_a_schema_is_never_called_twice(
    db: Any, distant: Any, cutter: ReplyCutter, harness: Harness, backend: Backend
) -> None:
    """``func.app.log(...)`` is no ``log`` of the database's: its reply lost, nobody knows, and it is done once."""
    await db.execute(CREATE_MOVED)
    schema = "app"
    if backend.name == "postgresql":
        await db.execute("create schema app")
    else:
        schema = backend.url.rsplit("/", 1)[1]
    for name in ("log", "move_money"):
        await db.execute(_MOVE[backend.name].format(f"{schema}.{name}", "integer"))
        call = getattr(getattr(sa.func, schema), name)(1)
        texts: list[Any] = [f"select {schema}.{name}(1) as marked", sa.select(call.label("marked"))]
        for number, statement in enumerate(texts, 1):
            await db.execute("delete from moved")

            async def send(statement: Any = statement) -> Any:
                return await distant.fetch_all(statement)

            assert isinstance(await lost(cutter, harness, send), OutcomeUnknownError), (name, number)
            assert await db.fetch_value("select count(*) from moved") == 1


_LOG = sa.select(sa.func.log(sa.literal("a", sa.Text)).label("marked"))
_TAKEN = [
    (
        "log",
        "text",
        "select log('a'::text) as marked",
        sa.select(sa.func.log(sa.literal("a", sa.Text)).label("marked")),
    ),
    ("lower", "varchar", "select lower('A'::varchar) as marked", None),
    ("count", "integer", "select count(1) as marked", None),
]


@pytest.mark.parametrize(("name", "argument", "sql", "core"), _TAKEN, ids=[case[0] for case in _TAKEN])
async def test_a_function_that_took_a_built_in_name_is_never_called_twice(
    db: Any,
    distant: Any,
    cutter: ReplyCutter,
    harness: Harness,
    backend: Backend,
    name: str,
    argument: str,
    sql: str,
    core: Any,
) -> None:
    """PostgreSQL prefers a ``log(text)`` of somebody's own: it is asked before such a select is sent again."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL picks a function by its arguments")
    await db.execute(CREATE_MOVED)
    await db.execute(_MOVE["postgresql"].format(name, argument))
    for statement in [sql] if core is None else [sql, core]:
        await db.execute("delete from moved")

        async def send(statement: Any = statement) -> Any:
            return await distant.fetch_all(statement)

        assert isinstance(await lost(cutter, harness, send), OutcomeUnknownError)
        assert await db.fetch_value("select count(*) from moved") == 1


async def test_the_databases_own_functions_are_sent_again(
    db: Any, distant: Any, cutter: ReplyCutter, harness: Harness, backend: Backend
) -> None:
    """Nobody took their names: the answer of the second attempt is the answer, as for a select without functions."""
    own = "'A'::varchar" if backend.name == "postgresql" else "'A'"
    for sql in (f"select lower({own}) as marked", "select coalesce(null, 'a') as marked", "select 'a' as marked"):

        async def send(sql: str = sql) -> Any:
            return await distant.fetch_value(sql)

        assert await lost(cutter, harness, send) == "a"


async def test_control_without_the_question_it_is_called_twice(
    db: Any, distant: Any, cutter: ReplyCutter, harness: Harness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: by its name alone ``log(text)`` is a read, and a lost reply moves the money again."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL picks a function by its arguments")
    monkeypatch.setattr(DatabaseCore, "_ask_who_took", lambda self, names: False)
    await db.execute(CREATE_MOVED)
    await db.execute(_MOVE["postgresql"].format("log", "text"))

    async def send() -> Any:
        return await distant.fetch_value("select log('a'::text) as marked")

    assert await lost(cutter, harness, send) == 1
    assert await db.fetch_value("select count(*) from moved") == 2


async def test_a_doubt_that_nobody_settled_is_an_unknown_outcome(
    db: Any, cutter: ReplyCutter, harness: Harness, backend: Backend, world: str
) -> None:
    """Without another attempt nobody is asked, so the select with a function of a taken name may have written."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL picks a function by its arguments")
    await db.execute(CREATE_MOVED)
    await db.execute(_MOVE["postgresql"].format("log", "text"))
    async with behind(cutter, backend, world, RetryPolicy(attempts=1)) as once:

        async def send() -> Any:
            return await once.fetch_value("select log('a'::text) as marked")

        assert isinstance(await lost(cutter, harness, send), OutcomeUnknownError)
    assert await db.fetch_value("select count(*) from moved") == 1


def test_a_doubt_is_settled_once() -> None:
    """Asked once per call; with no names there is none."""
    from prefiq_db import classify_error
    from prefiq_db.errors import ConnectionLostError

    asked: list[frozenset[str]] = []

    def taken(names: frozenset[str]) -> bool:
        asked.append(names)
        return False

    error = ConnectionLostError("gone", code="57P01", classification=classify_error("postgresql", "08006"))
    doubt = Doubt(frozenset({"lower"}), taken)
    assert not doubt.settles()
    doubt.note(error)
    assert doubt.is_open
    assert not doubt.settles()
    doubt.note(error)
    assert not doubt.is_open
    assert asked == [frozenset({"lower"})]
    none = Doubt(frozenset(), taken)
    none.note(error)
    assert not none.is_open


async def test_a_blank_makes_it_somebody_elses_function(
    db: Any, distant: Any, cutter: ReplyCutter, harness: Harness, backend: Backend
) -> None:
    """MariaDB calls a stored function for ``count (1)``, and its own for ``count(1)``."""
    if backend.name != "mariadb":
        pytest.skip("only MariaDB looks at the blank")
    await db.execute(CREATE_MOVED)
    await db.execute(_MOVE["mariadb"].format("count ", "integer"))

    async def spaced() -> Any:
        return await distant.fetch_value("select count (1) as marked")

    async def glued() -> Any:
        return await distant.fetch_value("select count(1) as marked")

    assert isinstance(await lost(cutter, harness, spaced), OutcomeUnknownError)
    assert await db.fetch_value("select count(*) from moved") == 1
    assert await lost(cutter, harness, glued) == 1
    assert await db.fetch_value("select count(*) from moved") == 1
