"""A function whose body has not run is refused: a transaction around it would be committed empty."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import Application, AsyncDatabase, Database, RetryPolicy, with_retry, with_retry_async
from prefiq_db.bridge import AsyncRuntime, SyncRuntime, spawn
from prefiq_db.errors import UsageError
from prefiq_db.health import AsyncHealthCheck, Health, HealthCheck, Status
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


class AsyncCallee:
    async def __call__(self, tx: Any = None) -> int:
        return 1


class Awaitable:
    """No coroutine, but nobody awaits it either."""

    def __await__(self) -> Any:
        yield


async def returns_generator(tx: Any = None) -> Any:
    return generator()


UNRUN: list[Callable[..., Any]] = [
    generator,
    asynchronous,
    Callee(),
    functools.partial(generator),
    lambda tx=None: generator(),
    lambda tx=None: coroutine(),
    AsyncCallee(),
    functools.partial(AsyncCallee()),
    lambda tx=None: AsyncCallee()(),
    lambda tx=None: Awaitable(),
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


@pytest.mark.parametrize("function", UNRUN)
def test_with_retry_asks_what_is_returned(function: Any) -> None:
    """What it took and never repeated looked as if it were guarded."""
    with pytest.raises(UsageError):
        with_retry(function)()
    with pytest.raises(UsageError):
        with_retry(fails, on=function, policy=RetryPolicy(attempts=2, wait_initial_seconds=0, wait_max_seconds=0))()


def fails() -> None:
    raise ValueError


async def test_with_retry_async_asks_what_is_returned() -> None:
    async def returns_awaitable() -> Any:
        return Awaitable()

    for function in (returns_generator, returns_awaitable):
        with pytest.raises(UsageError):
            await with_retry_async(function)()
    for refused in (generator, asynchronous, Callee(), fails):
        with pytest.raises(UsageError):
            with_retry_async(refused)


async def test_with_retry_async_repeats_what_is_called_asynchronously() -> None:
    """An object with an async __call__, and a partial of one, are coroutine functions too."""

    class Flaky:
        calls = 0

        async def __call__(self, answer: int) -> int:
            self.calls += 1
            if self.calls % 2:
                raise ValueError
            return answer

    flaky = Flaky()
    policy = RetryPolicy(attempts=2, wait_initial_seconds=0, wait_max_seconds=0)
    assert await with_retry_async(flaky, policy=policy, on=ValueError)(3) == 3
    assert await with_retry_async(functools.partial(flaky, 4), policy=policy, on=ValueError)() == 4
    assert flaky.calls == 4


AT_ONCE = [generator, asynchronous, Callee(), functools.partial(generator), AsyncCallee(), coroutine]


@pytest.mark.parametrize("function", AT_ONCE)
def test_what_can_never_run_is_refused_where_it_is_given(function: Any, tmp_path: Path) -> None:
    """Hooks, factories, functions after COMMIT: nobody is there to hear of it later."""
    app = Application()
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        with pytest.raises(UsageError):
            db.hooks.after(function)
        with pytest.raises(UsageError):
            app.singleton("it", function)
        with pytest.raises(UsageError):
            db.transactional(function)
        for name in ("on_commit", "on_rollback"):
            with pytest.raises(UsageError), db.transaction() as tx:
                getattr(tx, name)(function)


@pytest.mark.parametrize("function", UNRUN[4:6] + UNRUN[-2:])
def test_what_only_its_result_tells_is_told(function: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A lambda says nothing of what it returns: the result does, wherever one is called."""

    def hidden(*args: Any) -> Any:
        return function()

    app = Application()
    app.singleton("it", hidden)
    if function is not UNRUN[-1]:  # an awaitable may well be what a factory makes
        with pytest.raises(UsageError):
            app.resolve("it")
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        with db.transaction() as tx:
            tx.on_commit(hidden)
        (error,) = tx.callback_errors
        assert isinstance(error, UsageError)
        db.hooks.after(hidden)
        db.fetch_value("select 1")
        assert db.hooks.error_count == 1
        found = HealthCheck(db, checks={"it": hidden}).readiness()
        assert _status_of(found) is Status.FAIL


async def test_an_async_database_runs_what_is_asynchronous_after_commit(tmp_path: Path) -> None:
    called: list[str] = []

    class After:
        async def __call__(self) -> None:
            called.append("object")

    async def after() -> None:
        called.append("lambda")

    def hidden() -> Any:
        return after()

    async with AsyncDatabase(f"sqlite:///{tmp_path}/a.db") as db:
        async with db.transaction() as tx:
            tx.on_commit(After())
            tx.on_commit(hidden)
            tx.on_commit(functools.partial(After()))
        assert tx.callback_errors == ()
        assert called == ["object", "lambda", "object"]

        check = AsyncHealthCheck(db, checks={"it": Verdictless()})
        assert _status_of(await check.readiness()) is Status.FAIL


def _status_of(health: Health) -> Status:
    return next(finding.status for finding in health.findings if finding.name == "it")


class Verdictless:
    """A check that says no, once it is awaited."""

    async def __call__(self) -> bool:
        return False


@pytest.mark.sqlite
@pytest.mark.sync
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_on_commit_refuses_it_before_commit(backend: Backend) -> None:
    with Database(backend.url) as db:
        with pytest.raises(UsageError), db.transaction() as tx:
            tx.execute("create table made (id integer)")
            tx.on_commit(generator)
        assert tx.outcome == "not committed"
