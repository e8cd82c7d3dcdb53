"""A bank with ``exactly_once`` on three Galera nodes: killed, drained, taken out of step, cut off and restarted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from prefiq_db.testing import GaleraCluster, MariaDbServer
from prefiq_db.testing.faults import Bank
from prefiq_db.testing.mariadb_server import PLAIN_USER
from prefiq_db.testing.processes import wait_until
from tests.chaos.conftest import mostly_in
from tests.chaos.disturbances import (
    CALM,
    PATIENT,
    TRANSFERS_BETWEEN,
    await_transfers,
    behind_haproxy,
    calls_beside,
    reads_beside,
    transfer_while,
)
from tests.chaos.table import Line
from tests.clusters import PATIENCE_OF_TESTS, run_alone
from tests.conftest import Backend
from tests.twins.support import upgrade_schema

pytestmark = [pytest.mark.mariadb, PATIENCE_OF_TESTS]

_PATIENCE_SECONDS = 240.0
# A dead node is left after 10 s; on a busy machine that takes its time.
LONGER = replace(PATIENT, total_seconds=_PATIENCE_SECONDS)
SETTINGS = {**CALM, "retry": LONGER}


@pytest.fixture(scope="module")
def galera() -> Iterator[GaleraCluster]:
    with run_alone("galera", GaleraCluster, nodes=3) as cluster:
        yield cluster


@dataclass
class Stage:
    cluster: GaleraCluster
    name: str
    bank: Bank
    resumed: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.cluster.url(self.name)


@pytest.fixture
def stage(galera: GaleraCluster) -> Stage:
    for node in galera.nodes:  # one that failed in the middle of an event has left it as it was
        node.start()
    galera.wait_until_synced()
    name = galera.create_database()
    node = galera.nodes[0]
    upgrade_schema(Backend("mariadb", node.url(name), node))
    bank = Bank(node, name)
    bank.create()
    return Stage(galera, name, bank)


# --- what happens to the node that is written to -------------------------------------------------


@contextmanager
def _killed(cluster: GaleraCluster, node: MariaDbServer) -> Iterator[None]:
    node.kill()
    try:
        yield
    finally:
        node.start()
    cluster.wait_until_synced(node)


@contextmanager
def _restarted(cluster: GaleraCluster, node: MariaDbServer) -> Iterator[None]:
    node.stop()
    try:
        yield
    finally:
        node.start()
    cluster.wait_until_synced(node)


EVENTS: dict[str, Callable[[GaleraCluster, MariaDbServer], Any]] = {
    "killed": _killed,
    "drained": GaleraCluster.drained,
    "out of step": GaleraCluster.desynced,
    "cut off": GaleraCluster.partitioned,
}


def strike(stage: Stage, events: list[tuple[str, int | None]]) -> None:
    """Let each event happen to its node, ``None``: the one that is written to, while the bank works."""
    for event, number in events:
        await_transfers(stage.bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
        node = _busiest(stage.cluster) if number is None else stage.cluster.nodes[number]
        began = time.monotonic()
        happens = {**EVENTS, "restarted": _restarted}[event](stage.cluster, node)
        with happens:
            happened = time.monotonic()
            await_transfers(stage.bank, 1, _PATIENCE_SECONDS)
            stage.resumed.append((event, happened - began, time.monotonic() - happened))
            await_transfers(stage.bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)


def _busiest(cluster: GaleraCluster) -> MariaDbServer:
    """Return the node that most of the bank's connections lead to."""
    question = f"select count(*) from information_schema.processlist where user = '{PLAIN_USER}'"
    return max(cluster.nodes, key=lambda node: node.execute(question)[0][0])


def run_through(
    world: str, stage: Stage, events: list[tuple[str, int | None]], url: str | None = None, **options: Any
) -> None:
    """Run transfers until all *events* have happened, and resolve what is unknown after that."""
    transfer_while(world, url or stage.url, stage.bank, lambda: strike(stage, events), **{**SETTINGS, **options})


@pytest.mark.parametrize("write_to", ["one", "any"])
def test_a_node_that_fails_costs_no_transfer(
    write_to: str, stage: Stage, world: str, is_long: bool, transfers: int, add_line: Callable[[Line], None]
) -> None:
    """Each transfer is there once, on all nodes, and no outcome stays unknown, with one writable node and with all."""
    cycles = transfers // 1000 if is_long else 1
    events: list[tuple[str, int | None]] = [(event, None) for event in EVENTS] * cycles
    run_through(world, stage, events, write_to=write_to)
    report = stage.bank.check()
    worst = ", ".join(f"{event} {one:.1f}+{other:.1f} s" for event, one, other in stage.resumed)
    add_line(Line.of(f"galera, {write_to}: {worst}", world, "mariadb", report, len(events)))
    assert report.is_exact, report
    assert report.errors == ()
    rows = f"select count(*), sum(amount) from {stage.name}.bank_ledger"
    mine = stage.cluster.nodes[0].execute(rows)
    for node in stage.cluster.nodes:
        assert wait_until(lambda node=node: node.execute(rows) == mine, timeout_seconds=_PATIENCE_SECONDS), node


def test_a_rolling_restart_costs_no_call(stage: Stage, world: str, add_line: Callable[[Line], None]) -> None:
    """Each of three nodes is stopped, started and synced again; reads run beside the transfers."""
    with reads_beside(stage.url, **SETTINGS):
        run_through(world, stage, [("restarted", number) for number in range(3)])
    report = stage.bank.check()
    add_line(Line.of("galera, rolling restart", world, "mariadb", report, 3))
    assert report.is_exact, report
    assert report.errors == ()


@mostly_in("sync")
def test_a_rolling_restart_behind_haproxy_costs_no_call(
    stage: Stage, world: str, is_long: bool, add_line: Callable[[Line], None]
) -> None:
    """Clients know the proxy only: no transfer, no read and no write that may be repeated fails, or is lost."""
    events: list[tuple[str, int | None]] = [("restarted", number) for number in range(3)]
    events *= 3 if is_long else 1

    def execute(sql: str) -> list[tuple[Any, ...]]:
        return stage.cluster.nodes[0].execute(sql, stage.name)

    with (
        behind_haproxy(stage.cluster, is_fit=stage.cluster.is_synced) as proxy,
        calls_beside(proxy.url(stage.url), execute, **SETTINGS),
    ):
        run_through(world, stage, events, proxy.url(stage.url))
    report = stage.bank.check()
    add_line(Line.of("galera behind haproxy, rolling restart", world, "mariadb", report, len(events)))
    assert report.is_exact, report
    assert report.errors == ()
