"""A function whose body has not run is refused: a transaction around it would be committed empty."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database, with_retry, with_retry_async
from prefiq_db.bridge import AsyncRuntime, SyncRuntime, spawn
from prefiq_db.errors import UsageError
from prefiq_db.unrun import refuse_generator_function, refuse_unrun
from tests.conftest import Backend


def generator(tx: Any = None) -> Any:
    yield 1


async def asynchronous(tx: Any = None) -> Any:
    yield 1


async def coroutine(tx: Any = None) -> int:
    return 1


class Callee:
    def __call__(self, tx: Any = None) -> Any:
        yield 1


async def returns_generator(tx: Any = None) -> Any:
    return generator()


UNRUN: list[Callable[..., Any]] = [
    generator,
    asynchronous,
    Callee(),
    functools.partial(generator),
    lambda tx=None: generator(),
    lambda tx=None: coroutine(),
]


def _exhausted(tx: Any = None) -> Any:
    made = generator()
    assert list(made) == [1]
    return made


def _begun(tx: Any = None) -> Any:
    made = generator()
    next(made)
    return made


RUN: list[Callable[..., Any]] = [
    lambda tx=None: [1],
    lambda tx=None: iter([1]),
    _exhausted,
    _begun,
    lambda tx=None: None,
]


@pytest.mark.sqlite
@pytest.mark.sync
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("function", UNRUN)
def test_a_body_that_has_not_run_is_refused(backend: Backend, function: Any) -> None:
    """What is returned is asked, not only the function; nothing is committed, and the outcome says so."""
    with Database(backend.url) as db:
        seen: list[Any] = []

        def body(tx: Any) -> Any:
            seen.append(tx)
            tx.execute("create table made (id integer)")
            return function(tx)

        with pytest.raises(UsageError):
            db.run_in_transaction(body)
        with pytest.raises(UsageError):
            db.transactional(function)()
        assert seen[0].outcome == "not committed"
        assert db.fetch_value("select count(*) from sqlite_master") == 0


@pytest.mark.sqlite
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("function", [*UNRUN[:5], returns_generator])
async def test_likewise_in_the_async_world(backend: Backend, world: str, function: Any) -> None:
    """An awaitable that resolves to a generator, too."""
    async with AsyncDatabase(backend.url) as db:
        with pytest.raises(UsageError):
            await db.run_in_transaction(function)
        with pytest.raises(UsageError):
            await db.transactional(function)()
        assert await db.run_in_transaction(coroutine) == 1


@pytest.mark.parametrize("function", RUN)
async def test_what_has_run_is_accepted(function: Any) -> None:
    """A list, an iterator, a generator that has begun or ended: the body ran."""
    SyncRuntime().call(function, None)
    await spawn(AsyncRuntime().call, function, None)


async def test_a_started_async_generator_is_accepted() -> None:
    made = asynchronous()
    assert await anext(made) == 1
    refuse_unrun(made, "it")
    await made.aclose()
    refuse_unrun(made, "it")


@pytest.mark.parametrize("function", UNRUN[:4])
def test_generator_functions_are_refused_at_once(function: Any) -> None:
    with pytest.raises(UsageError, match="without yield"):
        refuse_generator_function(function, "on_commit")
    with pytest.raises(UsageError):
        with_retry(function)


async def test_with_retry_asks_what_is_returned() -> None:
    with pytest.raises(UsageError):
        with_retry(lambda tx=None: generator(tx))()
    with pytest.raises(UsageError):
        await with_retry_async(returns_generator)()


@pytest.mark.sqlite
@pytest.mark.sync
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_on_commit_refuses_it_before_commit(backend: Backend) -> None:
    with Database(backend.url) as db:
        with pytest.raises(UsageError), db.transaction() as tx:
            tx.execute("create table made (id integer)")
            tx.on_commit(generator)
        assert tx.outcome == "not committed"
