"""Whatever interrupts, and wherever: nothing stays open, nothing is lost, and the outcome is the true one.

A signal's exception is raised at each line of the library in turn, on the ways into and out of a block; then a second
database looks at what is left. On SQLite every line of the library is interrupted in the first way that comes to it,
with one of the two kinds of exceptions, and in the other ways every 16th; on the servers it is every 48th, where each
way and kind begins at another one. ``PREFIQ_INJECT_EVERY=1`` does all lines of all ways with both.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database, RetryPolicy
from prefiq_db.bridge import can_await
from prefiq_db.errors import NotCommittedError, OutcomeUnknownError, PoolTimeoutError, SchemaError
from prefiq_db.masking import border_translates
from prefiq_db.pool.slots import Slot, SlottedPool
from prefiq_db.transaction import Block, Outcome, ownership
from prefiq_db.translation import judging
from tests import through
from tests.conftest import Backend
from tests.twins.injection import (
    LIBRARY,
    Halt,
    Injector,
    JobTimeout,
    Line,
    LineInjector,
    Recorder,
    handled,
    interrupted,
)
from tests.twins.support import upgrade_schema

MOVE = "update account set balance = balance + 1 where id = 1"
BALANCE = "select balance from account where id = 1"
Seen = list[Any]

_EVERY = os.environ.get("PREFIQ_INJECT_EVERY")
_SIGNALS = int(os.environ.get("PREFIQ_INJECT_SIGNALS") or 130)
# Every how manieth of the lines that an earlier way has come to, too.
_SHARED = 16


# --- the ways into and out of a block ------------------------------------------------------------


def commit(db: Database, seen: Seen) -> None:
    seen.append(db.transaction())
    with seen[-1] as tx:
        tx.execute(MOVE)


def rollback(db: Database, seen: Seen) -> None:
    seen.append(db.transaction())
    with seen[-1] as tx:
        tx.execute(MOVE)
        raise ZeroDivisionError


def nested(db: Database, seen: Seen) -> None:
    seen.append(db.transaction())
    with seen[-1]:
        with db.transaction():
            db.execute(MOVE)
        try:
            with db.transaction():
                db.execute(MOVE)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass


def run_in_transaction(db: Database, seen: Seen) -> None:
    def body(tx: Any) -> None:
        seen.append(tx)
        tx.execute(MOVE)
        tx.on_commit(lambda: None)

    db.run_in_transaction(body)


def transactional(db: Database, seen: Seen) -> None:
    @db.transactional
    def body(tx: Any) -> None:
        seen.append(tx)
        tx.execute(MOVE)

    body()


def attempts(db: Database, seen: Seen) -> None:
    for attempt in db.attempts():
        with attempt as tx:
            seen.append(tx)
            tx.execute(MOVE)


def exactly_once(db: Database, seen: Seen) -> None:
    seen.append(db.transaction(exactly_once=True))
    with seen[-1] as tx:
        tx.execute(MOVE)


def bound(db: Database, seen: Seen) -> None:
    seen.append(db.transaction())
    with seen[-1] as tx, tx.bind():
        db.execute(MOVE)


def overridden(db: Database, seen: Seen) -> None:
    with db.override(read_only=True):
        db.fetch_all("select 1")


def execute(db: Database, seen: Seen) -> None:
    db.execute(MOVE)


def fetch_all(db: Database, seen: Seen) -> None:
    db.fetch_all(BALANCE)


def fail(db: Database, seen: Seen) -> None:
    with suppress(SchemaError):
        db.fetch_value("select 1 from missing_table")


def execute_many(db: Database, seen: Seen) -> None:
    db.execute_many("update account set balance = balance + 1 where id = :id", [{"id": 1}])


def batch(db: Database, seen: Seen) -> None:
    db.batch([MOVE, BALANCE])


def batch_in_transaction(db: Database, seen: Seen) -> None:
    seen.append(db.transaction())
    with seen[-1] as tx:
        tx.batch([MOVE, BALANCE])


WAYS = [
    *(commit, rollback, nested, run_in_transaction, transactional, attempts, exactly_once, bound),
    *(overridden, execute, fetch_all, fail, execute_many),
]


async def commit_async(db: AsyncDatabase, seen: Seen) -> None:
    seen.append(db.transaction())
    async with seen[-1] as tx:
        await tx.execute(MOVE)


async def nested_async(db: AsyncDatabase, seen: Seen) -> None:
    seen.append(db.transaction())
    async with seen[-1]:
        async with db.transaction():
            await db.execute(MOVE)
        try:
            async with db.transaction():
                await db.execute(MOVE)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass


async def run_in_transaction_async(db: AsyncDatabase, seen: Seen) -> None:
    async def body(tx: Any) -> None:
        seen.append(tx)
        await tx.execute(MOVE)

    await db.run_in_transaction(body)


async def execute_async(db: AsyncDatabase, seen: Seen) -> None:
    await db.execute(MOVE)


async def batch_async(db: AsyncDatabase, seen: Seen) -> None:
    await db.batch([MOVE, BALANCE])


WAYS_ASYNC = [commit_async, nested_async, run_in_transaction_async, execute_async]
_ONE_SHOTS = (execute, fetch_all, execute_async)
FEWEST_LINES = 60  # of a statement by itself; a transaction has many more


# --- what is looked at ---------------------------------------------------------------------------


class Scene:
    """A database that is interrupted, and a second one that looks."""

    def __init__(self, backend: Backend, db: Any) -> None:
        self.backend = backend
        self.db = db
        self.by_chance = False
        self.witness = Database(
            backend.url, pool_size=1, max_overflow=0, lock_timeout_seconds=5, retry=RetryPolicy(attempts=1)
        )
        self.witness.execute("create table account (id integer primary key, balance integer not null)")
        self.witness.execute("create table mark (id integer primary key)")
        self.witness.execute("insert into account (id, balance) values (1, 0)")
        # It looks thousands of times, so it does so with the driver's own cursor.
        self._sight = self.witness.engine.raw_connection()
        self.marks = 0
        self.balance = 0

    def prepare(self, *, new_connection: bool = False) -> None:
        """Begin each time with a connection in the pool."""
        if new_connection:
            self.db.engine.dispose()
        self.run(self.db.fetch_value, "select 1")

    def run(self, verb: Callable[..., Any], *args: Any) -> Any:
        return verb(*args)

    def stats(self) -> Any:
        return self.db.stats().pool

    def problems(self, injector: Injector, seen: Seen) -> list[str]:
        """Say what is not as it should be after an interruption, on the word of the second database."""
        found = []
        if self.by_chance:
            # In SQLAlchemy's own lines only what holds the connection can let it go: an exception, or a cycle of them.
            gc.collect()
        pool = self.stats()
        if pool.checked_out or pool.pending:
            found.append(f"{pool.checked_out} checked out, {pool.pending} pending")
        if self.translates():
            found.append("errors of sessions are not translated any more")
        self.marks += 1
        try:
            self.run(self.db.execute, "insert into mark (id) values (:id)", {"id": self.marks})
        except BaseException as error:
            found.append(f"the next write: {error!r}")
        if problem := self.look("update account set balance = balance where id = 1"):
            found.append(f"the lock: {problem!r}")
        before = self.balance
        if not self.look_at_balance():
            found.append("the next write is not there")
        moved = self.balance - before
        found += [problem for tx in seen for problem in self._untrue(tx, moved, injector)]
        return found

    def look(self, sql: str) -> BaseException | tuple[Any, ...] | None:
        """Run a statement in a transaction of its own; return its row, or what the driver says against it."""
        cursor = self._sight.cursor()
        try:
            cursor.execute(sql)
            row = cursor.fetchone() if cursor.description else None
            self._sight.commit()
        except self.witness.engine.dialect.dbapi.Error as error:  # type: ignore[union-attr]
            self._sight.rollback()
            return error
        finally:
            cursor.close()
        return tuple(row) if row is not None else None

    def look_at_balance(self) -> bool:
        """Remember the balance; return whether the last mark is there."""
        row = self.look(f"select (select count(*) from mark where id = {self.marks}), ({BALANCE})")
        assert isinstance(row, tuple), row
        self.balance = row[1]
        return bool(row[0])

    def translates(self) -> bool:
        """Return whether this thread is taken for one inside our border, where errors are left to it."""
        return border_translates.get()

    def _untrue(self, tx: Any, moved: int, injector: Injector) -> Iterator[str]:
        outcome = tx.outcome
        if outcome is Outcome.UNKNOWN:
            if not _was_in_commit(injector):
                yield "unknown, though COMMIT was never sent"
            if tx.token is not None:
                outcome = self.run(self.db.resolve_outcome, tx.token)
        if outcome is Outcome.ACTIVE:
            yield "the outcome is still active"
        if outcome is not Outcome.UNKNOWN and moved != (outcome is Outcome.COMMITTED):
            yield f"{outcome.value}, but {moved} moved"

    def full(self) -> None:
        """Take all connections that the pool may have, and give them back."""
        with self.db.engine.connect(), self.db.engine.connect():
            assert self.db.stats().pool.checked_out == 2

    def close(self) -> None:
        self._sight.close()
        self.witness.close()


class AsyncScene(Scene):
    def __init__(self, backend: Backend, db: AsyncDatabase, runner: asyncio.Runner) -> None:
        super().__init__(backend, db)
        self.runner = runner

    def run(self, verb: Callable[..., Any], *args: Any) -> Any:
        return self.runner.run(_awaited(verb, args))

    def translates(self) -> bool:
        # All that the runner runs shares one context.
        return bool(self.runner.get_loop() and self.runner.run(_translates()))

    def full(self) -> None:
        self.runner.run(self._full())

    async def _full(self) -> None:
        async with self.db.engine.connect(), self.db.engine.connect():
            assert self.db.stats().pool.checked_out == 2


async def _translates() -> bool:
    return border_translates.get()


async def _awaited(verb: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
    return await verb(*args)


def _was_in_commit(injector: Injector) -> bool:
    return injector.was_in("_commit") or injector.was_in("_commit_usually")


def came_through(injector: Injector, error: BaseException | None) -> bool:
    """Return whether it is the very exception that came out.

    In COMMIT an ordinary exception asks a question instead; with a token the answer takes its place.
    """
    if error is injector.error:
        return True
    answers = (OutcomeUnknownError, NotCommittedError, type(None))
    asks = _was_in_commit(injector) or injector.was_in("send_burst")  # a batch is one message with its COMMIT
    asks = asks or (through.IS_ON and injector.was_in("send_in_burst"))  # and so is a statement by itself
    return injector.kind is JobTimeout and asks and isinstance(error, answers)


def inject_everywhere(
    scene: Scene,
    work: Callable[[Seen], Any],
    kind: type[BaseException],
    first: int,
    step: int,
    make: type[Injector] = Injector,
) -> tuple[int, list[str]]:
    """Interrupt *work* at each *step*-th line from *first* on; return how many there were and what was wrong."""
    injectors = (make(kind, at) for at in range(first, 100_000, step))
    return inject(scene, work, injectors, until_its_end=True)


def inject(
    scene: Scene, work: Callable[[Seen], Any], injectors: Iterable[Injector], *, until_its_end: bool = False
) -> tuple[int, list[str]]:
    """Let each of *injectors* interrupt *work*; return how many did and what was wrong.

    *until_its_end*: the first that does not is behind the last line. Otherwise its line may be one for new connections.
    """
    wrong: list[str] = []
    lines = 0
    for injector in injectors:
        for new_connection in (False, True):
            scene.prepare(new_connection=new_connection)
            seen: Seen = []
            error = interrupted(injector, lambda seen=seen: work(seen))
            if injector.error is not None or until_its_end:
                break
            injector.count = 0
            scene.look_at_balance()
        if injector.error is None:
            if until_its_end:
                break
            continue
        lines += 1
        problems = [] if came_through(injector, error) else [f"{error!r} came out"]
        # What a traceback holds is let go when the exception has been dealt with.
        del error
        injector.error.__traceback__ = None
        if scene.db.stats().pool.checked_out:
            gc.collect()  # a cycle of asyncio's may hold it a little longer
        problems += scene.problems(injector, seen)
        if problems:
            wrong.append(f"{' < '.join(injector.stack[:4])}: {'; '.join(problems)}")
            if len(wrong) >= 5:
                break
    if not wrong:
        scene.full()
    return lines, wrong


def lines_of(scene: Scene, way: Callable[[Any, Seen], Any]) -> list[tuple[Line, int]]:
    """Return the lines that *way* executes, each with how many times it was there before; also on a new connection."""
    found: dict[tuple[Line, int], None] = {}
    for which in ("first", "usual", "new connection"):
        scene.prepare(new_connection=which == "new connection")
        recorder = Recorder()
        interrupted(recorder, lambda recorder=recorder: way(scene.db, []))
        if which != "first":  # when it learns what it knows from then on
            found.update(dict.fromkeys(recorder.visits))
    scene.look_at_balance()
    return list(found)


# What the ways execute on SQLite, in the sync world.
_known: dict[Any, set[Line]] = {}


def lines_to_interrupt(scene: Scene, way: Any, kind: type[BaseException]) -> list[tuple[Line, int]]:
    """Return those lines of *way* that no earlier one comes to and some of the others; half of them for each kind."""
    number = WAYS.index(way)
    for earlier in WAYS[:number]:
        if earlier not in _known:
            _known[earlier] = {line for line, _ in lines_of(scene, earlier)}
    known = set[Line]().union(*(_known[earlier] for earlier in WAYS[:number]))
    mine = lines_of(scene, way)
    assert len(mine) > FEWEST_LINES, "the way has more lines than that, or they were not counted"
    chosen = [
        (line, visits)
        for at, (line, visits) in enumerate(mine)
        if (visits == 0 and line not in known) or at % _SHARED == number % _SHARED
    ]
    return chosen[kind is Halt :: 2]


def step_of(backend: Backend, way: Any) -> int:
    """Return every how manieth line of *way* it is; a statement by itself has few, if it isn't a transaction."""
    if way in _ONE_SHOTS and not through.IS_ON:
        return int(_EVERY or 3)
    return int(_EVERY or (4 if backend.name == "sqlite" else 48))


@pytest.fixture
def only_what_is_new() -> None:
    """Let the garbage collector pass over what is older than the test: this file calls it hundreds of times.

    It stays like that: to look at all that the run has collected, once more for each test, is more than the test.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def scene(backend: Backend, only_what_is_new: None) -> Iterator[Scene]:
    upgrade_schema(backend)
    db = Database(
        backend.url, pool_size=1, max_overflow=1, pool_timeout_seconds=5, lock_timeout_seconds=5,
        retry=RetryPolicy(attempts=1),
    )  # fmt: skip
    scene = Scene(backend, db)
    yield scene
    db.close()
    scene.close()


@pytest.mark.sync
@pytest.mark.parametrize("kind", [Halt, JobTimeout])
@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_at_any_line_leaves_nothing(scene: Scene, way: Any, kind: type[BaseException]) -> None:
    """The very exception comes out; no ambient transaction, no connection, no lock is left; the outcome is true."""
    if scene.backend.name == "sqlite" and not _EVERY:
        chosen = lines_to_interrupt(scene, way, kind)
        injectors = (LineInjector(kind, line, visits) for line, visits in chosen)
        lines, wrong = inject(scene, lambda seen: way(scene.db, seen), injectors)
        assert not wrong, "\n".join(wrong)
        assert lines >= len(chosen) - max(1, len(chosen) // 20), f"only {lines} of {len(chosen)} lines were interrupted"
        return
    step = step_of(scene.backend, way)
    first = 1 + (2 * WAYS.index(way) + (kind is Halt)) % step
    lines, wrong = inject_everywhere(scene, lambda seen: way(scene.db, seen), kind, first, step)
    assert not wrong, "\n".join(wrong)
    assert lines * step > FEWEST_LINES, "the way has more lines than that, or they were not counted"


@pytest.mark.sync
@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")],
    indirect=True,
)
@pytest.mark.parametrize("kind", [Halt, JobTimeout])
@pytest.mark.parametrize("way", [batch, batch_in_transaction])
def test_an_interruption_of_a_batch_leaves_nothing(scene: Scene, way: Any, kind: type[BaseException]) -> None:
    """BEGIN, statements and COMMIT are one message there, and what was sent is all done or not at all."""
    step = int(_EVERY or 48)
    lines, wrong = inject_everywhere(
        scene, lambda seen: way(scene.db, seen), kind, 1 + 24 * (kind is Halt) % step, step
    )
    assert not wrong, "\n".join(wrong)
    assert lines * step > 150


# --- controls ------------------------------------------------------------------------------------


def _no_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Block, "abandon", lambda self: None)


def _counting_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlottedPool, "_drop", lambda self, slot: None)
    monkeypatch.setattr(SlottedPool, "fallen", lambda self, slot: None)
    kept: list[Any] = []
    monkeypatch.setattr(Slot, "__del__", lambda slot: kept.append(slot))  # noqa: PLW0108 - bound it must be


def _interruptions_are_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "is_interruption", lambda error: False)


@pytest.mark.sqlite
@pytest.mark.sync
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("old", [_no_clean_up, _counting_up_and_down, _interruptions_are_answers])
def test_control_without_one_of_the_means_it_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, old: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The same look finds what is left when the clean-up, the count of slots or the look at interruptions is gone."""
    old(monkeypatch)
    try:
        _, wrong = inject_everywhere(scene, lambda seen: commit(scene.db, seen), JobTimeout, 1, 1)
    except PoolTimeoutError:
        wrong = ["the pool has lost all of its slots"]
    monkeypatch.undo()
    for held in list(ownership._ambient.get().values()):
        for block in held.scope.blocks[:1]:  # another test may have left one that has ended
            block.abandon()
    assert wrong


# --- the async world -----------------------------------------------------------------------------


# The coroutines that wait for the pool and the driver; see docs/decisions/0151-how-a-task-waits-without-a-greenlet.md.
_AWAITED = tuple(f"{LIBRARY}/{name}" for name in ("execution/awaited_one_shot.py", "execution/awaited_shot.py"))


class CoreInjector(Injector):
    """Interrupts the core, in greenlets and in its own coroutines; between them it is the loop's and asyncio's turn."""

    def _reached(self, frame: Any) -> None:
        if can_await() or _is_below_a_shot(frame):
            super()._reached(frame)


def _is_below_a_shot(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _AWAITED:
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def async_scene(backend: Backend, loop_runner: asyncio.Runner, only_what_is_new: None) -> Iterator[AsyncScene]:
    upgrade_schema(backend)
    db = AsyncDatabase(
        backend.url, pool_size=1, max_overflow=1, pool_timeout_seconds=5, lock_timeout_seconds=5,
        retry=RetryPolicy(attempts=1),
    )  # fmt: skip
    scene = AsyncScene(backend, db, loop_runner)
    yield scene
    loop_runner.run(db.close())
    scene.close()


# Interrupted between the making of a body's coroutine and its first step, Python says rightly that nobody awaited it.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
# A coroutine that is interrupted drops its connection, which says so when it is collected; its slot is what counts.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
@pytest.mark.parametrize("kind", [Halt, JobTimeout])
@pytest.mark.parametrize("way", WAYS_ASYNC)
def test_the_same_in_the_core_of_the_async_world(
    async_scene: AsyncScene, world: str, way: Any, kind: type[BaseException]
) -> None:
    scene = async_scene
    step = step_of(scene.backend, way) * (1 if _EVERY or way in _ONE_SHOTS else 4)
    first = 1 + (2 * WAYS_ASYNC.index(way) + (kind is Halt)) % step
    lines, wrong = inject_everywhere(
        scene, lambda seen: scene.runner.run(way(scene.db, seen)), kind, first, step, CoreInjector
    )
    gc.collect()  # or a later test would hear of it
    assert not wrong, "\n".join(wrong)
    assert lines * step > FEWEST_LINES, "the way has more lines than that, or they were not counted"


# --- real signals, at moments of chance ----------------------------------------------------------


# One that hits a finaliser of Python's own (a WeakSet's, say) is printed by Python, and goes nowhere.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.sync
@pytest.mark.parametrize("kind", [Halt, JobTimeout])
def test_a_signal_at_a_moment_of_chance_leaves_nothing(scene: Scene, kind: type[BaseException]) -> None:
    """Not only in our own lines: in SQLAlchemy's, the driver's and Python's, too."""
    draw = random.Random(7)
    scene.by_chance = True
    heard = 0
    # How long each way took when nothing interrupted it: a signal after that is none.
    lasted = dict.fromkeys(WAYS, 6e-3)
    for number in range(_SIGNALS):
        scene.prepare()
        seen: Seen = []
        injector = Injector(kind, None)
        way = WAYS[number % len(WAYS)]
        with handled(injector):
            try:
                try:
                    started = time.perf_counter()
                    signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, lasted[way]))
                    way(scene.db, seen)
                    lasted[way] = time.perf_counter() - started
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except (Halt, JobTimeout, ZeroDivisionError, OutcomeUnknownError, NotCommittedError):
                pass
        if injector.error is not None:
            heard += 1
            injector.error.__traceback__ = None
            problems = scene.problems(injector, seen)
            assert not problems, (way.__name__, number, problems)
        else:
            scene.look_at_balance()
    assert heard > _SIGNALS // 10
    scene.full()
