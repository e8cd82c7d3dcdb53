"""``kill -9`` around COMMIT: of one session, of the whole server, of the process that writes to SQLite."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import NotCommittedError, OutcomeUnknownError
from prefiq_db.testing import DatabaseServer, MariaDbServer, PostgresServer
from prefiq_db.testing.faults import COMMIT, Bank, FaultProxy, FaultyLink, Message, Transfer
from prefiq_db.testing.servers import SERVERS
from tests import interpreters
from tests.chaos.conftest import Record, run_bank, run_in
from tests.chaos.controls import blind_retry, plain
from tests.chaos.table import Line
from tests.conftest import Backend, _server_factory
from tests.twins.support import upgrade_schema

_KINDS: dict[str, type[DatabaseServer]] = {"postgresql": PostgresServer, "mariadb": MariaDbServer}
_WIDTH_SECONDS = 0.02  # how far around COMMIT the blow may fall
PATIENT = RetryPolicy(attempts=10_000, wait_initial_seconds=0.02, wait_max_seconds=0.2, total_seconds=60)
#: Gives up while the server is still down.
HASTY = RetryPolicy(attempts=3, wait_initial_seconds=0.02, wait_max_seconds=0.1, total_seconds=0.3)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in SERVERS])
def durable(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A server of this file's own, with its own guarantees against a power cut."""
    with contextmanager(_server_factory)(_KINDS[request.param]) as new_server:
        yield new_server(durable=True)


@pytest.fixture
def backend(durable: DatabaseServer) -> Iterator[Backend]:
    """An empty database with the table of tokens, on the server that is killed."""
    database = durable.create_database()
    made = Backend(durable.name, durable.url(database), durable)
    upgrade_schema(made)
    yield made
    durable.drop_database(database)


class Tell:
    """It tells that a COMMIT is on its way, whose answer nobody will hear when that is *unheard*."""

    def __init__(self, *, unheard: bool) -> None:
        self.told = threading.Event()
        self._unheard = unheard

    def strike(self, link: FaultyLink, message: Message) -> None:
        if self._unheard:
            link.drop_reply(message)
        link.forward(message)
        self.told.set()


class Killer:
    """Waits for a COMMIT, then strikes, a moment later."""

    def __init__(
        self, proxy: FaultProxy, every: int, blow: Callable[[random.Random], None], *, unheard: bool = False
    ) -> None:
        self.blows = 0
        self.errors: list[Exception] = []
        self._proxy = proxy
        self._every = every
        self._blow = blow
        self._unheard = unheard
        self._done = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        tell = Tell(unheard=self._unheard)
        thread = threading.Thread(target=self._work, args=(tell.told,))
        with self._proxy.fault(tell, on=COMMIT, every=self._every):
            thread.start()
            try:
                yield
            finally:
                self._done.set()
                tell.told.set()
                thread.join()

    def _work(self, told: threading.Event) -> None:
        chance = random.Random(7)
        while not self._done.is_set():
            told.wait()
            if self._done.is_set():
                return
            time.sleep(chance.uniform(0, _WIDTH_SECONDS))
            try:
                self._blow(chance)
            except Exception as error:
                self.errors.append(error)
                return
            self.blows += 1
            told.clear()


def blow_at(server: DatabaseServer, database: str, what: str, down_seconds: float) -> Callable[[random.Random], None]:
    def at_session(chance: random.Random) -> None:
        if sessions := server.sessions(database):
            server.kill_session(chance.choice(sessions))
        server.wait_until_ready()

    def at_server(chance: random.Random) -> None:
        server.kill()
        time.sleep(down_seconds * chance.uniform(0.5, 1))
        server.start()

    return at_session if what == "session" else at_server


@pytest.fixture
def every(is_long: bool) -> int:
    """A blow falls at each so many-th COMMIT."""
    return 100 if is_long else 25


@pytest.mark.parametrize("what", ["session", "server"])
def test_a_kill_around_commit_loses_and_doubles_nothing(
    backend: Backend,
    durable: DatabaseServer,
    world: str,
    bank: Bank,
    proxy: FaultProxy,
    transfers: int,
    every: int,
    record: Record,
    what: str,
) -> None:
    """Whoever has the patience is told the truth: nobody is left in the dark, and each transfer is made."""
    killer = Killer(proxy, every, blow_at(durable, backend.url.rpartition("/")[2], what, 0.1))
    with killer.at_work():
        run_bank(world, bank, proxy.url(backend.url), transfers, retry=PATIENT, retry_budget=1_000_000)
    durable.wait_until_ready()
    report = bank.check()
    record(f"kill -9, {what}", report, killer.blows)
    assert not killer.errors
    assert killer.blows > 1, report
    assert report.is_exact, report
    assert report.committed == transfers, report


def test_who_gives_up_while_the_server_is_down_can_ask_later(
    backend: Backend,
    durable: DatabaseServer,
    world: str,
    bank: Bank,
    proxy: FaultProxy,
    transfers: int,
    every: int,
    record: Record,
) -> None:
    """Unknown is legal while nobody can be asked. Asked later, by its token, each of them has its answer."""
    killer = Killer(proxy, every, blow_at(durable, "", "server", 1.5), unheard=True)
    with killer.at_work():
        run_bank(world, bank, proxy.url(backend.url), transfers, retry=HASTY, retry_budget=1_000_000)
    durable.wait_until_ready()
    before = bank.check()
    record("kill -9, server, no patience", before, killer.blows)
    assert not killer.errors
    assert before.is_right, before
    assert before.unknown > 0, before

    run_in(world, bank.resolve if world == "sync" else bank.resolve_async, backend.url)
    report = bank.check()
    record("... and asked later", replace(report, seconds=0.0), killer.blows)
    assert report.is_exact, report


def test_blind_retry_doubles_when_the_server_is_killed(
    backend: Backend, durable: DatabaseServer, world: str, bank: Bank, proxy: FaultProxy, record: Record
) -> None:
    """The control: the server dies when the COMMIT is through and its answer is not, which needs no luck here."""

    class KillBeforeTheReply:
        def strike(self, link: FaultyLink, message: Message) -> None:
            link.drop_reply(message)
            link.when_answered(message, answered.set)
            link.forward(message)

    answered = threading.Event()

    def kill() -> None:
        answered.wait(10)
        durable.kill()
        durable.start()

    killer = threading.Thread(target=kill)
    killer.start()
    with proxy.fault(KillBeforeTheReply(), on=COMMIT, every=3, times=1):  # the first ones may be a connection's own
        run_bank(
            world, bank, proxy.url(backend.url), 5, workers=1, retry=PATIENT, retry_budget=1_000_000,
            transfer=blind_retry(world, plain(world, bank)),
        )  # fmt: skip
    killer.join()
    report = bank.check()
    record("kill -9, server, blind (control)", report, 1)
    assert report.doubled == 1, report


# --- SQLite: the server is the process ---------------------------------------------------------------

_CLERK = """
import asyncio, os, signal, sys
from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing.faults import Bank, Transfer

world, path = sys.argv[1:]
bank = Bank(path)

def tell(*words):
    print(*words, flush=True)

def orders():
    while line := sys.stdin.readline():
        *numbers, ends = map(int, line.split())
        yield Transfer(*numbers), ends

def tell_token(token, ends):
    tell(token)
    if ends:
        os.kill(os.getpid(), signal.SIGKILL)

def work():
    db = Database(f"sqlite:///{path}")
    tell("ready")
    for order, ends in orders():
        with db.transaction(exactly_once=True) as tx:
            bank.apply(tx, order)
            tell_token(tx.token, ends)
        tell("done")

async def work_async():
    db = AsyncDatabase(f"sqlite:///{path}")
    tell("ready")
    for order, ends in orders():
        async with db.transaction(exactly_once=True) as tx:
            await bank.apply_async(tx, order)
            tell_token(tx.token, ends)
        tell("done")

work() if world == "sync" else asyncio.run(work_async())
"""


class Clerks:
    """A process for each thread of a bank; now and then one is killed when it is about to COMMIT.

    The first ends itself there: on a busy machine the others may all be done before they are killed.
    """

    def __init__(self, world: str, path: str, probability: float) -> None:
        self.kills = 0
        self._command = [sys.executable, "-c", _CLERK, world, path]
        self._chance = random.Random(7)
        self._probability = probability
        self._is_first = True
        self._here = threading.local()
        self._all: list[subprocess.Popen[str]] = []

    def transfer(self, db: object, order: Transfer) -> int:
        clerk, ends = self._clerk(), self._is_first
        self._is_first = False
        assert clerk.stdin is not None
        assert clerk.stdout is not None
        clerk.stdin.write(f"{order.number} {order.source} {order.target} {order.amount} {ends:d}\n")
        clerk.stdin.flush()
        token = clerk.stdout.readline().strip()
        if not token:
            raise NotCommittedError("the clerk died at work")
        if ends:
            self.kills += 1
            self._here.clerk = None
        elif self._chance.random() < self._probability:
            # COMMIT takes a millisecond or so, and in memory a tenth of that.
            time.sleep(self._chance.uniform(0, self._chance.choice((0.0, 0.0003, 0.003))))
            os.kill(clerk.pid, signal.SIGKILL)
            self.kills += 1
            self._here.clerk = None
        done = clerk.stdout.readline()
        if not done:
            raise OutcomeUnknownError("the clerk died in COMMIT", token=token)
        return order.number

    def close(self) -> None:
        for clerk in self._all:
            clerk.kill()
            clerk.communicate()

    def _clerk(self) -> subprocess.Popen[str]:
        if getattr(self._here, "clerk", None) is None:
            clerk = interpreters.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._all.append(clerk)
            assert clerk.stdout is not None
            assert clerk.stdout.readline() == "ready\n"
            self._here.clerk = clerk
        found: subprocess.Popen[str] = self._here.clerk
        return found


@pytest.mark.sqlite
def test_a_process_that_is_killed_in_commit_leaves_all_or_nothing(
    world: str, tmp_path: Path, transfers: int, is_long: bool, add_line: Callable[..., None]
) -> None:
    """SQLite: what the dead left unknown is asked for by others, and nothing is lost or doubled."""
    path = str(tmp_path / "bank.db")
    upgrade_schema(Backend("sqlite", f"sqlite:///{path}"))
    bank = Bank(path)
    bank.create()
    clerks = Clerks(world, path, 0.05 if is_long else 0.15)
    try:
        bank.run(None, transfers if is_long else 40, workers=2, transfer=clerks.transfer)
    finally:
        clerks.close()
    before = bank.check()
    assert before.is_right, before
    assert before.unknown > 0, before
    run_in(world, bank.resolve if world == "sync" else bank.resolve_async, f"sqlite:///{path}")
    report = bank.check()
    add_line(Line.of("kill -9, process", world, "sqlite", report, clerks.kills))
    assert report.is_exact, report
