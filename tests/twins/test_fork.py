"""A forked child has connections of its own; the parent's go on; nobody ever reads another one's rows."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import prefiq_db
from prefiq_db import Application, AsyncDatabase, Database, forks
from prefiq_db.errors import UsageError
from tests.conftest import Backend

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")

PATIENCE_SECONDS = 60
SESSION = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}


def in_child(work: Callable[[], None]) -> Callable[[], None]:
    """Fork and run *work* in the child, ended by an alarm if it hangs; return what waits for its success."""
    stacks = tempfile.TemporaryFile()  # noqa: SIM115 - it is read when the child has ended
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # The handler of a test runner would wait for a bytecode that never comes.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE_SECONDS)
            faulthandler.dump_traceback_later(PATIENCE_SECONDS - 5, file=stacks)
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def wait() -> None:
        _, status = os.waitpid(child, 0)
        with stacks:
            stacks.seek(0)
            where = stacks.read().decode()
        assert os.waitstatus_to_exitcode(status) == 0, f"the child failed, or hung until its alarm: {where}"

    return wait


def ask(db: Database, first: int, count: int = 100) -> None:
    for number in range(first, first + count):
        assert db.fetch_value("select :number", {"number": number}) == number


@pytest.fixture
def db(backend: Backend) -> Iterator[Database]:
    with Database(backend.url, pool_size=3, max_overflow=2) as made:
        yield made


def sessions(db: Database, backend: Backend) -> set[int]:
    if backend.server is None:
        return set()
    held = [db.engine.raw_connection() for _ in range(3)]
    found = set()
    for connection in held:
        cursor = connection.cursor()
        cursor.execute(SESSION[backend.name])
        found.add(cursor.fetchone()[0])
    for connection in held:
        connection.close()
    return found


def test_both_sides_go_on_after_a_fork(db: Database, backend: Backend) -> None:
    """With a full pool and an open transaction: both ask at the same time, each gets its own answers."""
    db.execute("create table item (id integer primary key)")
    before = sessions(db, backend)
    with db.transaction() as tx:
        tx.execute("insert into item (id) values (1)")

        def child() -> None:
            import contextvars

            # The ambient transaction is the parent's; a request of the child's own begins elsewhere.
            contextvars.Context().run(ask, db, 1000)
            if before:
                assert not before & contextvars.Context().run(sessions, db, backend)

        wait = in_child(child)
        for number in range(100):
            assert tx.fetch_value("select :number", {"number": number}) == number
        wait()
        assert tx.fetch_value("select count(*) from item") == 1
    assert db.fetch_value("select count(*) from item") == 1
    assert sessions(db, backend) == before, "the child's end did not disturb the parent's sessions"


def test_a_child_that_ends_properly_leaves_the_parents_sessions_alone(db: Database, backend: Backend) -> None:
    """Not by os._exit: with its own close(), the garbage collector and the exit functions of a real process."""
    before = sessions(db, backend)

    def child() -> None:
        import gc

        ask(db, 0, 5)
        db.close()
        gc.collect()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    ask(db, 0)
    assert sessions(db, backend) == before


def test_forking_from_a_thread_while_others_are_busy(db: Database, backend: Backend) -> None:
    """Whatever lock another thread held in that moment, the child works."""
    if backend.server is None:
        pytest.skip("SQLite's own library waits for ever for a lock that another thread held when the process forked")
    stop = threading.Event()
    errors: list[BaseException] = []

    def busy(first: int) -> None:
        try:
            while not stop.is_set():
                ask(db, first, 10)
        except BaseException as error:
            errors.append(error)

    def forker() -> None:
        try:
            for number in range(20):
                in_child(lambda first=number * 100: ask(db, first, 5))()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=busy, args=(number * 10_000,), daemon=True) for number in range(4)]
    last = threading.Thread(target=forker, daemon=True)
    for thread in (*threads, last):
        thread.start()
    last.join(20 * PATIENCE_SECONDS)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not errors
    assert db.stats().pool.checked_out == 0


def all_locks(root: object) -> list[object]:
    """Return every lock that hangs somewhere on *root*, through objects of ours."""
    found, seen, todo = [], set(), [root]
    while todo:
        owner = todo.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        if isinstance(owner, LOCKS):
            found.append(owner)
        elif isinstance(owner, threading.Event):
            found.append(owner._cond._lock)  # type: ignore[attr-defined]
        elif isinstance(owner, (dict, list, tuple, set)):
            todo.extend(owner.values() if isinstance(owner, dict) else owner)
        elif type(owner).__module__.startswith("prefiq_db"):
            todo.extend(getattr(owner, "__dict__", {}).values())
            slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
            todo.extend(getattr(owner, name, None) for name in slots)
    return found


LOCKS = (type(threading.Lock()), type(threading.RLock()))


def test_a_lock_held_by_another_thread_is_none_in_the_child(db: Database) -> None:
    """What a thread was counting in the moment of the fork: that thread isn't there any more to let go."""
    from prefiq_db.health import HealthCheck, Status
    from prefiq_db.integrations import otel, otel_metrics
    from prefiq_db.integrations.prometheus import DatabaseCollector
    from prefiq_db.pool.watchdog import watchdog

    collector, check = DatabaseCollector(db), HealthCheck(db)
    explaining = Database(db.settings.model_copy(update={"slow_query_seconds": 0.0, "explain_slow_queries": True}))
    otel.instrument(db)
    app = Application()
    app.bind("collector", collector)
    with explaining, db.expect(max_statements=1000) as budget:
        ask(db, 0, 5)
        ask(explaining, 0, 5)
        assert check.health().status is Status.PASS
        roots = [db._core, explaining._core, collector, check, app, budget, watchdog, *vars(otel_metrics).values()]
        instruments = list(otel_metrics._by_provider.values())
        locks = [lock for root in (roots, otel._lock, instruments) for lock in all_locks(root)]
        assert len(locks) >= 20, "the slow log's, explainer's, pruner's, health watch's, exporters' and the rest"
        with db.transaction() as tx:
            tx.fetch_value("select 1")
            held = threading.Event()
            forked = threading.Event()

            def hold() -> None:
                with ExitStack() as stack:
                    for lock in locks:
                        stack.enter_context(lock)  # type: ignore[arg-type]
                    held.set()
                    forked.wait(PATIENCE_SECONDS)

            def child() -> None:
                import contextvars

                watchdog.forget(explaining._core.instance.watcher)
                assert not db.stats().holders, "the parent's transaction is none of ours"
                run = contextvars.Context().run
                run(ask, db, 0, 5)
                run(ask, explaining, 0, 5)
                assert list(collector.collect())
                assert run(check.health).status is Status.PASS
                assert budget.count > 0
                db._core.instance.pruner.prune_if_due()
                otel.instrument(explaining).uninstrument()
                assert app.resolve("collector") is collector
                assert db.stats().pool.checked_out == 0

            holder = threading.Thread(target=hold, daemon=True)
            holder.start()
            assert held.wait(PATIENCE_SECONDS)
            wait = in_child(child)
            forked.set()
            holder.join(PATIENCE_SECONDS)
            wait()


def test_no_lock_is_made_without_being_registered() -> None:
    """Whoever makes one registers it with the same line; there is no list that could forget it."""
    made = re.compile(r"threading\.(Lock|RLock|Condition|Event|Semaphore|BoundedSemaphore|Barrier)\(")
    source = Path(prefiq_db.__file__).parent
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] != "testing" and made.search(path.read_text())
    }
    # They are the pool's, and a child has a pool of its own.
    assert found == {"pool/idle_connections.py", "pool/slots.py", "pool/waiting_line.py"}


def test_there_is_one_registry_of_what_a_child_renews() -> None:
    """Nobody else asks the interpreter to be called after a fork: in which order that would be nobody could tell."""
    source = Path(prefiq_db.__file__).parent
    found = [path for path in source.rglob("*.py") if "register_at_fork" in path.read_text()]
    assert found == [source / "forks.py"]


def test_what_is_gone_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry goes with its owner; who registers more than one thing gets all of them, in order."""

    class Owner:
        pass

    # Not the process's own: that would take the pools of databases that others use here.
    monkeypatch.setattr(forks, "_renewals", {})
    owner = Owner()
    lock = forks.renewed(owner, "lock", threading.RLock)
    calls: list[str] = []
    forks.in_child(owner, lambda found: calls.append(type(found).__name__))
    forks._renew_all()
    assert owner.lock is not lock  # type: ignore[attr-defined]
    assert calls == ["Owner"]
    assert len(forks._renewals) == 2
    del owner
    assert forks._renewals == {}


class _Part:
    """An owner in a cycle: only the garbage collector ends it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_that_is_collected_meanwhile_keeps_nothing_from_being_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases that nobody closed may be collected right then, and their entries go with them."""
    monkeypatch.setattr(forks, "_renewals", {})
    renewed: list[_Part] = []
    kept = _Part()
    thresholds = gc.get_threshold()
    gc.disable()
    try:
        for _ in range(100):
            forks.in_child(_Part(), lambda part: None)
        forks.in_child(kept, renewed.append)
        pairs = [(number, number) for number in range(5000)]  # Python keeps used ones, which are not counted
        gc.set_threshold(gc.get_count()[0] + 30)  # reached in the middle of copying what is registered
        gc.enable()
        forks._renew_all()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    assert renewed == [kept]
    assert pairs


def test_a_part_that_can_not_be_renewed_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a child would go on with the parent's connections."""

    class Owner:
        pass

    def fail(found: Owner) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(forks, "_renewals", {})
    first, second = Owner(), Owner()
    calls: list[Owner] = []
    forks.in_child(first, fail)
    forks.in_child(second, calls.append)
    with pytest.raises(ZeroDivisionError):
        forks._renew_all()
    assert calls == [second]


_inherited: Database | None = None


def _asked_in_worker(number: int) -> int:
    assert _inherited is not None
    return int(_inherited.fetch_value("select :number", {"number": number}))


def _asked_with_settings(work: tuple[str, int]) -> int:
    url, number = work
    with Database(url, pool_size=1) as db:
        return int(db.fetch_value("select :number", {"number": number}))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(db: Database, backend: Backend, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers made by fork use the inherited database; spawned ones make their own from its URL."""
    monkeypatch.setattr(sys.modules[__name__], "_inherited", db)
    ask(db, 0, 5)
    numbers = list(range(20))
    with multiprocessing.get_context(method).Pool(2) as workers:
        if method == "fork":
            answers = workers.map_async(_asked_in_worker, numbers)
        else:
            with pytest.raises(UsageError, match="pickled"):
                workers.apply(_asked_with_settings, (db,))
            answers = workers.map_async(_asked_with_settings, [(backend.url, number) for number in numbers])
        ask(db, 0)
        assert answers.get(PATIENCE_SECONDS) == numbers
    ask(db, 0, 5)


def test_an_async_database_over_a_fork(backend: Backend) -> None:
    """The child runs a loop of its own on connections of its own; the parent's loop goes on with its own."""

    async def asked(db: AsyncDatabase, first: int) -> None:
        for number in range(first, first + 50):
            assert await db.fetch_value("select :number", {"number": number}) == number

    with asyncio.Runner() as runner:
        db = AsyncDatabase(backend.url, pool_size=2)
        runner.run(db.open())
        runner.run(asked(db, 0))

        def child() -> None:
            asyncio.run(asked(db, 1000))

        wait = in_child(child)
        runner.run(asked(db, 0))
        wait()
        runner.run(asked(db, 0))
        runner.run(db.close())


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_control_without_the_guard_the_rows_get_mixed(backend: Backend) -> None:
    """Two processes on one plain connection: an error, or another one's row, or a hang that the alarm ends."""
    import psycopg

    connection = psycopg.connect(backend.url, autocommit=True)

    def asked(first: int) -> None:
        for number in range(first, first + 300):
            assert connection.execute("select %s::int", [number]).fetchone() == (number,)

    wait = in_child(lambda: (signal.alarm(3), asked(1000))[-1])
    broken = False
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(5)
    try:
        asked(0)
    except Exception:
        broken = True
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    try:
        wait()
    except AssertionError:
        broken = True
    connection.close()
    assert broken


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError("a row never came")
