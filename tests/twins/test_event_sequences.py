"""These operations give exactly these events, in this order, with all of their fields; from real databases.

What differs from run to run is a :class:`Same`: what it may be is known, and it is the same wherever it is expected
again, as the number of a call or the time that both a checkout and its first statement waited.
"""

from __future__ import annotations

import itertools
import linecache
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import PrefiqDbError, RetryPolicy
from prefiq_db.errors import ErrorKind
from prefiq_db.events import (
    AttemptFailed,
    CallFinished,
    CallStarted,
    ConnectionCheckedIn,
    ConnectionCheckedOut,
    ConnectionLost,
    ConnectionOpened,
    Origin,
    StatementEvent,
    StatementFailed,
    StatementFinished,
    StatementStarted,
    TransactionFinished,
)
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import is_waiting_for_lock, kill_session, session_id
from tests.twins.test_observability import Recorder

QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)
UPDATED = "update item set qty = ? where id = ?"
CREATE = "create table item (id integer primary key, qty integer not null)"
UPDATE = "update item set qty = 0 where id = 1"
DOUBLE = "insert into item (id, qty) values (1, 0)"
_ROW_COUNT_OF_CREATE = {"sqlite": -1, "postgresql": -1, "mariadb": 0}
_UNIQUE = {"sqlite": 1555, "postgresql": "23505", "mariadb": 1062}

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")],
    indirect=True,
)


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", [pytest.param(name, marks=getattr(pytest.mark, name))], indirect=True)


# --- what can't be known before ------------------------------------------------------------------


class Same:
    """Equal to the first value that fits, and from then on to that one only."""

    def __init__(self, fits: Callable[[Any], bool], name: str) -> None:
        self._fits = fits
        self._name = name
        self.found: Any = None

    def __eq__(self, other: object) -> bool:
        if self.found is None and self._fits(other):
            self.found = other
        return self.found is not None and type(other) is type(self.found) and other == self.found

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._name}>" if self.found is None else f"<{self._name} {self.found!r}>"


class At:
    """Equal to an origin in this file whose line has *code*."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Origin)
            and Path(other.file) == Path(__file__)
            and other.function.startswith("test_")
            and self._code in linecache.getline(other.file, other.line)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<the line with {self._code}>"


def seconds() -> Any:
    return Same(lambda value: isinstance(value, float) and math.isfinite(value) and value >= 0, "seconds")


def number() -> Any:
    return Same(lambda value: type(value) is int and value > 0, "number")


def sixteen_digits() -> Any:
    return Same(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{16}", value)), "fingerprint")


# --- what is expected ----------------------------------------------------------------------------


class Story:
    """Makes the events that are expected of operations, and compares.

    All fields that aren't given have the value that the event has by itself: that, too, is expected.
    """

    def __init__(self, backend: Backend, db: Any) -> None:
        self.backend = backend
        self.recorder = db.hooks.add(Recorder())
        self._style = db.engine.dialect.paramstyle
        self._fingerprints: dict[str, Any] = {}
        self._numbers: list[Any] = []

    def forget(self) -> None:
        """Leave out what was told until now."""
        self.recorder.events.clear()

    def number(self) -> Any:
        self._numbers.append(number())
        return self._numbers[-1]

    def marker(self, name: str) -> str:
        return {"qmark": "?", "format": "%s", "pyformat": f"%({name})s"}[self._style]

    def call(
        self,
        code: str,
        verb: str,
        statement: str,
        *,
        before: tuple[Any, ...] = (),
        after: tuple[Any, ...] = (),
        rows: int = 1,
        failed: tuple[ErrorKind, str | int] | None = None,
        lost: bool = False,
        tags: dict[str, str] | None = None,
        parameters: dict[str, str] | None = None,
        **more: Any,
    ) -> list[Any]:
        """Return a call at the line with *code* that sends *statement*, between *before* and *after*."""
        operation = statement.split()[0].upper()
        call, origin, tags = self.number(), At(code), tags or {}
        event = StatementEvent(
            "main",
            statement,
            parameters or {},
            operation=operation,
            summary=f"{operation} item",
            tables=("item",),
            fingerprint=self._fingerprints.setdefault(statement, sixteen_digits()),
            call_id=call,
            origin=origin,  # type: ignore[arg-type]
            tags=tags,
        )
        event = replace(event, **more)
        told = {field.name: getattr(event, field.name) for field in fields(event)}
        kind, code_of = failed or (None, None)
        if failed:
            end: Any = StatementFailed(**told, duration_seconds=seconds(), kind=failed[0], code=failed[1])
        else:
            end = StatementFinished(**told, duration_seconds=seconds(), rows=rows)
        if lost:
            after = (ConnectionLost("main", "invalidated"), ConnectionCheckedIn("main", seconds()))
        return [
            CallStarted("main", call, verb, origin, tags),  # type: ignore[arg-type]
            *(*before, StatementStarted(**told), end, *after),
            CallFinished("main", call, verb, seconds(), 1, kind, code_of),
        ]

    def one_shot(self, code: str, verb: str, statement: str, *, opened: tuple[Any, ...] = (), **more: Any) -> list[Any]:
        """Return a call on a connection of its own; the statement tells how long that was waited for."""
        waited = seconds()
        before = (*opened, ConnectionCheckedOut("main", waited))
        after = (ConnectionCheckedIn("main", seconds()),)
        return self.call(code, verb, statement, before=before, after=after, wait_seconds=waited, **more)

    def transaction(
        self,
        code: str,
        outcome: str,
        *calls: Callable[..., list[Any]],
        retry_number: int = 0,
        opened: tuple[Any, ...] = (),
        lost: bool = False,
    ) -> list[Any]:
        """Return a transaction of *calls*; the first tells how long its connection was waited for."""
        transaction, waited = self.number(), seconds()
        told: list[Any] = [*opened, ConnectionCheckedOut("main", waited)]
        for call in calls:
            told += call(transaction_id=transaction, wait_seconds=waited, retry_number=retry_number)
            waited = 0.0
        if not lost:
            told.append(ConnectionCheckedIn("main", seconds()))
        return [*told, TransactionFinished("main", transaction, outcome, seconds(), At(code))]  # type: ignore[arg-type]

    def later(self, *args: Any, **options: Any) -> Callable[..., list[Any]]:
        """Return a call of a transaction, which knows the rest."""
        return lambda **more: self.call(*args, **options, **more)

    def failed_attempt(self, kind: ErrorKind, code: str | int) -> AttemptFailed:
        return AttemptFailed("main", 1, seconds(), kind, code)

    def assert_told(self, *expected: Any) -> None:
        """Check that exactly this was told, and that no two calls or transactions have one number."""
        told = self.recorder.events
        for place, (event, wanted) in enumerate(itertools.zip_longest(told, expected)):
            assert wanted == event, f"{place}: {event}\nis not\n{wanted}"
        numbers = [each.found for each in self._numbers]
        assert len(set(numbers)) == len(numbers)


async def test_control_what_is_not_told_so_is_found(make_db: Callable[..., Any], backend: Backend) -> None:
    """One event too many or too few, another order, another field, and one number for two calls."""
    db = make_db(pool_size=1)
    await db.execute(CREATE)
    story = Story(backend, db)
    await db.execute(UPDATE)
    await db.execute(UPDATE)
    story.assert_told(*_two(story))

    def others() -> Iterator[list[Any]]:
        right = _two(story, rows=0)
        yield right[:-1]
        yield [*right, right[-1]]
        yield [right[1], right[0], *right[2:]]
        yield _two(story, rows=1)
        yield _two(story, rows=0, retry_number=1)
        right = _two(story, rows=0)
        right[6] = replace(right[6], call_id=right[0].call_id)
        yield right

    for wrong in others():
        with pytest.raises(AssertionError):
            story.assert_told(*wrong)


def _two(story: Story, **more: Any) -> list[Any]:
    told = {"rows": 0, **more}
    return [event for _ in range(2) for event in story.one_shot("db.execute(UPDATE)", "execute", UPDATED, **told)]


@pytest.fixture
def story(make_db: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    """Make a database with a table, and tell of what is done from then on."""

    async def begin(**options: Any) -> tuple[Any, Story]:
        db = make_db(pool_size=1, max_overflow=0, **options)
        await db.execute(CREATE)
        await db.execute_many("insert into item (id, qty) values (:id, 0)", [{"id": each} for each in range(1, 21)])
        return db, Story(backend, db)

    return begin


# --- calls ---------------------------------------------------------------------------------------


async def test_the_first_call_opens_the_connection(make_db: Callable[..., Any], backend: Backend) -> None:
    db = make_db(pool_size=1)
    story = Story(backend, db)
    await db.execute(CREATE)
    opened = (ConnectionOpened("main", seconds()),)
    rows = _ROW_COUNT_OF_CREATE[backend.name]
    story.assert_told(*story.one_shot("db.execute(CREATE)", "execute", CREATE, opened=opened, rows=rows))


async def test_a_one_shot(story: Any) -> None:
    """With a value of which only the type is told, and with tags."""
    db, told = await story()
    await db.using(tags={"route": "/items"}).fetch_all("select id from item where qty > :least", {"least": 2})
    told.assert_told(
        *told.one_shot(
            'db.using(tags={"route": "/items"})',
            "fetch_all",
            f"select id from item where qty > {told.marker('least')}",
            parameters={"least": "<int>"},
            tags={"route": "/items"},
            rows=-1 if told.backend.name == "sqlite" else 0,
        )
    )


async def test_a_statement_that_fails(story: Any) -> None:
    db, told = await story()
    with pytest.raises(PrefiqDbError):
        await db.execute(DOUBLE)
    text = "insert into item (id, qty) values (?, ?)"
    failed = (ErrorKind.UNIQUE, _UNIQUE[told.backend.name])
    told.assert_told(*told.one_shot("db.execute(DOUBLE)", "execute", text, failed=failed))


async def test_many_rows(story: Any) -> None:
    """They are one statement in a transaction of their own, and the call begins before it and ends after it."""
    db, told = await story()
    await db.execute_many("insert into item (id, qty) values (:id, :qty)", [{"id": 30, "qty": 1}, {"id": 31, "qty": 2}])
    call, *inside, ended = told.one_shot(
        "db.execute_many(",
        "execute_many",
        f"insert into item (id, qty) values ({told.marker('id')}, {told.marker('qty')})",
        parameters={"id": "<int>", "qty": "<int>"},
        batch_size=2,
        rows=2,
        transaction_id=(transaction := told.number()),
    )
    finished = TransactionFinished("main", transaction, "committed", seconds(), At("db.execute_many("))
    told.assert_told(call, *inside, finished, ended)


# --- transactions --------------------------------------------------------------------------------


async def test_a_commit(story: Any) -> None:
    db, told = await story()
    async with db.transaction() as tx:
        await tx.execute(UPDATE)
        await tx.execute(UPDATE)
    update = told.later("tx.execute(UPDATE)", "execute", UPDATED)
    told.assert_told(*told.transaction("db.transaction()", "committed", update, update))


async def test_a_rollback(story: Any) -> None:
    db, told = await story()
    with pytest.raises(KeyError):
        async with db.transaction() as tx:
            await tx.execute(UPDATE)
            raise KeyError
    update = told.later("tx.execute(UPDATE)", "execute", UPDATED)
    told.assert_told(*told.transaction("db.transaction()", "not committed", update))


async def test_a_transaction_without_a_statement(story: Any) -> None:
    db, told = await story()
    async with db.transaction():
        pass
    told.assert_told(*told.transaction("db.transaction()", "committed"))


async def test_a_savepoint(story: Any) -> None:
    """Its statements are the transaction's; that it was set, released or rolled back to is no event."""
    db, told = await story()
    async with db.transaction() as tx:
        await tx.execute(UPDATE)
        with pytest.raises(PrefiqDbError):
            async with tx.transaction() as inner:
                await inner.execute(DOUBLE)
        async with tx.transaction() as kept:
            await kept.execute(UPDATE)
    failed = (ErrorKind.UNIQUE, _UNIQUE[told.backend.name])
    told.assert_told(
        *told.transaction(
            "db.transaction()",
            "committed",
            told.later("tx.execute(UPDATE)", "execute", UPDATED),
            told.later("inner.execute(DOUBLE)", "execute", "insert into item (id, qty) values (?, ?)", failed=failed),
            told.later("kept.execute(UPDATE)", "execute", UPDATED),
        )
    )


# --- repeated ------------------------------------------------------------------------------------


@only("sqlite")
async def test_a_wait_in_vain_for_the_writers_lock(story: Any, backend: Backend) -> None:
    """The attempt that got no further than BEGIN has no transaction to tell of."""
    db, told = await story(lock_timeout_seconds=0.05)
    other = sqlite3.connect(backend.url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")

    class Release(Recorder):
        def attempt_failed(self, event: AttemptFailed) -> None:
            other.close()

    db.hooks.add(Release())

    async def test_body(tx: Any) -> None:
        await tx.execute(UPDATE)

    await db.run_in_transaction(test_body, retry=QUICK)
    again = told.later("tx.execute(UPDATE)", "execute", UPDATED)
    told.assert_told(
        ConnectionCheckedOut("main", seconds()),
        ConnectionCheckedIn("main", seconds()),
        told.failed_attempt(ErrorKind.LOCK_TIMEOUT, 5),
        *told.transaction("db.run_in_transaction(", "committed", again, retry_number=1),
    )


@only("postgresql")
async def test_a_serialization_failure(story: Any, backend: Backend) -> None:
    """Somebody wrote what the transaction had read before."""
    db, told = await story()
    tries = itertools.count()

    async def test_body(tx: Any) -> None:
        await tx.fetch_value("select qty from item where id = 1")
        if next(tries) == 0:
            backend.server.execute("update item set qty = 7 where id = 1", backend.url.rpartition("/")[2])
        await tx.execute(UPDATE)

    await db.run_in_transaction(test_body, retry=QUICK, isolation="serializable")
    read = told.later("tx.fetch_value(", "fetch_value", "select qty from item where id = ?")
    failure = (ErrorKind.SERIALIZATION, "40001")
    told.assert_told(
        *told.transaction(
            "db.run_in_transaction(",
            "not committed",
            read,
            told.later("tx.execute(UPDATE)", "execute", UPDATED, failed=failure),
        ),
        told.failed_attempt(*failure),
        *told.transaction(
            "db.run_in_transaction(",
            "committed",
            read,
            told.later("tx.execute(UPDATE)", "execute", UPDATED),
            retry_number=1,
        ),
    )


@on_servers
async def test_a_deadlock(story: Any, make_db: Callable[..., Any], backend: Backend, harness: Harness) -> None:
    """The victim's; the other one has done more, and looks for deadlocks later."""
    db, told = await story()
    other, sessions, tries = make_db(), [], itertools.count()
    mine, theirs = harness.event(), harness.event()

    async def test_victim(tx: Any) -> None:
        await tx.execute(UPDATE)
        if next(tries) == 0:
            mine.set()
            await theirs.wait()
            await harness.until(lambda: is_waiting_for_lock(backend, sessions[0]))
        await tx.execute("update item set qty = 0 where id = 2")

    async def test_repeat() -> None:
        await db.run_in_transaction(test_victim, retry=QUICK)

    async def survivor() -> None:
        async with other.transaction() as tx:
            if backend.name == "postgresql":
                await tx.execute("set local deadlock_timeout = '60s'")
            sessions.append(await session_id(tx, backend))
            await mine.wait()
            await tx.execute("update item set qty = 2 where id > 1")
            theirs.set()
            await tx.execute("update item set qty = 2 where id = 1")

    await harness.together(test_repeat, survivor)
    failure = (ErrorKind.DEADLOCK, {"postgresql": "40P01", "mariadb": 1213}[backend.name])
    first = told.later("tx.execute(UPDATE)", "execute", UPDATED)
    second = 'tx.execute("update item set qty = 0 where id = 2")'
    told.assert_told(
        *told.transaction(
            "db.run_in_transaction(",
            "not committed",
            first,
            told.later(second, "execute", UPDATED, failed=failure),
        ),
        told.failed_attempt(*failure),
        *told.transaction(
            "db.run_in_transaction(", "committed", first, told.later(second, "execute", UPDATED), retry_number=1
        ),
    )


# --- lost ----------------------------------------------------------------------------------------


async def _kill(backend: Backend, session: int, harness: Harness) -> None:
    """End a session, and wait until the server has: the client's socket knows it by then."""
    kill_session(backend, session)
    server, database = backend.server, backend.url.rpartition("/")[2]
    assert server is not None

    async def is_gone() -> bool:
        return session not in server.sessions(database)

    await harness.until(is_gone)


@on_servers
async def test_a_connection_that_was_lost_in_the_pool(story: Any, backend: Backend, harness: Harness) -> None:
    """It costs a new one, and no failed call."""
    db, told = await story()
    await _kill(backend, await session_id(db, backend), harness)
    told.forget()
    await db.execute(UPDATE)
    opened = (ConnectionLost("main", "dead"), ConnectionOpened("main", seconds()))
    told.assert_told(*told.one_shot("db.execute(UPDATE)", "execute", UPDATED, opened=opened))


@on_servers
async def test_a_connection_that_is_lost_in_a_transaction(story: Any, backend: Backend, harness: Harness) -> None:
    """It runs again on a new one."""
    db, told = await story()
    session, tries = await session_id(db, backend), itertools.count()  # the pool's only one
    told.forget()

    async def test_body(tx: Any) -> None:
        await tx.execute(UPDATE)
        if next(tries) == 0:
            await _kill(backend, session, harness)
        await tx.execute("update item set qty = 0 where id = 2")

    await db.run_in_transaction(test_body, retry=QUICK)
    loss = {
        "postgresql": (ErrorKind.SERVER_SHUTDOWN, "57P01"),
        # A task may hear of the end before it sends, or while it waits for the reply.
        "mariadb": (ErrorKind.CONNECTION_LOST, Same(lambda code: code in (2006, 2013), "code of a lost connection")),
    }[backend.name]
    first = told.later("tx.execute(UPDATE)", "execute", UPDATED)
    second = 'tx.execute("update item set qty = 0 where id = 2")'
    told.assert_told(
        *told.transaction(
            "db.run_in_transaction(",
            "not committed",
            first,
            told.later(second, "execute", UPDATED, failed=loss, lost=True),
            lost=True,
        ),
        told.failed_attempt(*loss),
        *told.transaction(
            "db.run_in_transaction(",
            "committed",
            first,
            told.later(second, "execute", UPDATED),
            retry_number=1,
            opened=(ConnectionOpened("main", seconds()),),
        ),
    )
