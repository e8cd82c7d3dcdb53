"""A bank with ``exactly_once`` whose primary is killed, frozen, cut off and switched over: nothing is lost or doubled.

How long the cluster takes to have a new primary, and how soon writes resume then, is in the table of the long run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefiq_db.testing import DatabaseServer, MariaDbCluster, PostgresCluster
from prefiq_db.testing.faults import ANY, Bank, BankReport, BlackHole, FaultProxy, FaultyLink, Message
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.servers import SERVERS
from tests.chaos.conftest import run_in
from tests.chaos.controls import blind_retry, plain
from tests.chaos.disturbances import CALM, OPTIONS, TRANSFERS_BETWEEN, await_transfers, reads_beside, transfer_while
from tests.chaos.table import Line
from tests.conftest import Backend, _find
from tests.twins.support import upgrade_schema

_PATIENCE_SECONDS = 120.0

_CLUSTERS: dict[str, Callable[..., Any]] = {"postgresql": PostgresCluster, "mariadb": MariaDbCluster}
both = pytest.mark.parametrize("kind", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in _CLUSTERS])


@dataclass
class Stage:
    """A cluster behind proxies, one for each node; a bank on it, and what happened."""

    cluster: Any
    proxies: dict[DatabaseServer, FaultProxy]
    name: str
    bank: Bank
    #: of each event: its name, the seconds until there was a primary, and from then until a transfer was confirmed
    resumed: list[tuple[str, float, float]] = field(default_factory=list)
    #: what hides the old primary from its clients, until it has rejoined
    hole: Any = None

    @property
    def url(self) -> str:
        url: str = self.cluster.url(self.name)
        for node, proxy in self.proxies.items():
            url = url.replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")
        return url

    def check(self) -> BankReport:
        self.bank.look_at(self.cluster.primary, self.name)
        return self.bank.check()


@contextmanager
def staged(kind: str, **options: Any) -> Iterator[Stage]:
    _find(SERVERS[kind])
    with ExitStack() as stack:
        cluster = stack.enter_context(_CLUSTERS[kind](replicas=1, **options))
        name = cluster.create_database()
        upgrade_schema(Backend(kind, cluster.primary.url(name), cluster.primary))
        bank = Bank(cluster.primary, name)
        bank.create()
        cluster.catch_up()
        proxies = {node: stack.enter_context(FaultProxy(node)) for node in cluster.nodes}
        yield Stage(cluster, proxies, name, bank)


# --- what happens to a primary -------------------------------------------------------------------


def _kill(stage: Stage) -> None:
    stage.cluster.primary.kill()
    stage.cluster.promote()


def _freeze(stage: Stage) -> None:
    stage.cluster.primary.freeze()
    stage.cluster.promote()


def _cut_off(stage: Stage) -> None:
    """Its clients reach it no more, and it doesn't know: it lives, and takes itself for the primary."""
    stage.hole = stage.proxies[stage.cluster.primary].fault(BlackHole(), on=ANY)
    stage.cluster.promote()


def _switch_over(stage: Stage) -> None:
    stage.cluster.switch_over()


EVENTS: dict[str, Callable[[Stage], None]] = {
    "killed": _kill,
    "frozen": _freeze,
    "cut off": _cut_off,
    "switched over": _switch_over,
}


def strike(stage: Stage, events: list[str]) -> None:
    """Let *events* happen one after another, while the bank works; after each one the old primary rejoins."""
    bank = stage.bank
    for event in events:
        await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
        old, began = stage.cluster.primary, time.monotonic()
        EVENTS[event](stage)
        promoted = time.monotonic()
        await_transfers(bank, 1, _PATIENCE_SECONDS)
        stage.resumed.append((event, promoted - began, time.monotonic() - promoted))
        if event != "switched over":
            stage.cluster.rejoin(old)
        if stage.hole is not None:
            stage.hole.stop()
            stage.hole = None


def run_through(world: str, stage: Stage, events: list[str], **options: Any) -> None:
    """Run transfers until all *events* have happened, and resolve what is unknown after that."""
    transfer_while(world, stage.url, stage.bank, lambda: strike(stage, events), **{**OPTIONS, **options})


def _tell(add_line: Callable[[Line], None], world: str, kind: str, stage: Stage, report: BankReport) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for event, until_promoted, until_resumed in stage.resumed:
        before = worst.get(event, (0.0, 0.0))
        worst[event] = (max(before[0], until_promoted), max(before[1], until_resumed))
    words = ", ".join(f"{event} {one:.1f}+{other:.1f} s" for event, (one, other) in worst.items())
    add_line(Line.of(f"primary {words}", world, kind, report, len(stage.resumed)))


@both
def test_a_primary_that_fails_costs_no_transfer(
    kind: str, world: str, is_long: bool, transfers: int, add_line: Callable[[Line], None]
) -> None:
    """Killed, frozen, cut off, switched over and back: each transfer is there once, and no outcome stays unknown."""
    cycles = transfers // 500 if is_long else 1
    with staged(kind) as stage:
        run_through(world, stage, list(EVENTS) * cycles)
        report = stage.check()
        _tell(add_line, world, kind, stage, report)
        assert report.is_exact, report
        assert [event for event, *_ in stage.resumed] == list(EVENTS) * cycles
        # On a silent server a statement ends with its time, and nothing repeats that by itself.
        assert {name for name, _ in report.errors} <= {"StatementTimeoutError"}, report.errors


@both
def test_a_rolling_restart_costs_no_call(
    kind: str, world: str, is_long: bool, transfers: int, add_line: Callable[[Line], None]
) -> None:
    """Each node is switched away from, restarted and follows again, twice; reads run beside the transfers."""
    with staged(kind) as stage:
        cycles = transfers // 1000 if is_long else 1
        # A statement may wait for the whole switchover, and one that reaches its limit isn't repeated.
        with reads_beside(stage.url, **CALM):
            run_through(world, stage, ["switched over"] * 2 * cycles, **CALM)
        report = stage.check()
        _tell(add_line, world, kind, stage, report)
        assert report.is_exact, report
        assert report.errors == ()


# --- controls ------------------------------------------------------------------------------------


class KillAtCommit:
    """The COMMIT reaches the primary, its reply doesn't reach the client, and the primary dies."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.drop_reply(message)
        link.forward(message)
        self.told.set()


@both
@pytest.mark.parametrize("way", ["exactly_once", "blind retry"])
def test_control_blind_retry_doubles_over_a_failover(kind: str, way: str, world: str) -> None:
    """The reply to COMMIT dies with the primary, and the new one has it: a blind retry pays twice, a token doesn't."""
    with staged(kind) as stage:
        bank, unheard = stage.bank, KillAtCommit()
        transfer = None if way == "exactly_once" else blind_retry(world, plain(world, bank))
        name = stage.name

        def fail_over() -> None:
            assert unheard.told.wait(_PATIENCE_SECONDS)
            rows = f"select 1 from {'' if kind == 'postgresql' else name + '.'}bank_ledger"
            replica = stage.cluster.replicas[0]
            arguments = (rows, name) if kind == "postgresql" else (rows,)
            assert wait_until(lambda: replica.execute(*arguments), timeout_seconds=_PATIENCE_SECONDS)
            _kill(stage)

        thread = threading.Thread(target=fail_over)

        def of_the_transfer(message: Message) -> bool:
            return message.is_commit and bank._attempts > 0  # not the one of SQLAlchemy's first questions

        with stage.proxies[stage.cluster.primary].fault(unheard, on=of_the_transfer, times=1):
            thread.start()
            run = bank.run if world == "sync" else bank.run_async
            run_in(world, lambda db: run(db, 1, workers=1, transfer=transfer), stage.url, **CALM)
            thread.join()
        report = stage.check()
        assert report.committed == 1
        assert (report.doubled, report.lost) == ((0, 0) if way == "exactly_once" else (1, 0)), report


@both
def test_control_an_asynchronous_replica_loses_what_was_confirmed(
    kind: str, world: str, add_line: Callable[[Line], None]
) -> None:
    """What the cluster itself loses is lost, counted and told; nothing of it is doubled or half there."""
    with staged(kind, synchronous=False) as stage:
        run = stage.bank.run if world == "sync" else stage.bank.run_async

        def work(db: Any) -> Any:
            return run(db, 10, workers=2)

        run_in(world, work, stage.url, **OPTIONS)
        stage.cluster.catch_up()
        replica = stage.cluster.replicas[0]
        if kind == "postgresql":
            replica.stop()
        else:
            replica.execute("stop slave io_thread")
        run_in(world, work, stage.url, **OPTIONS)
        stage.cluster.primary.kill()
        if kind == "postgresql":
            replica.start()
        stage.cluster.promote()
        run_in(world, work, stage.url, **OPTIONS)
        report = stage.check()
        add_line(Line.of("asynchronous replica promoted", world, kind, report, 1))
        assert report.committed == 30
        assert report.lost == 10
        assert (report.doubled, report.torn, report.phantom, report.sum_difference) == (0, 0, 0, 0)
