"""A bank with ``exactly_once`` on three nodes under Patroni, which fails over and switches over by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from prefiq_db.testing import PatroniCluster, PostgresServer, ServerUnavailableError
from prefiq_db.testing.cables import Cables
from prefiq_db.testing.faults import Bank
from prefiq_db.testing.patroni_cluster import PatroniNode
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.proxy import TcpProxy
from tests.chaos.conftest import IS_LONG, mostly_in
from tests.chaos.disturbances import (
    CALM,
    OPTIONS,
    PATIENT,
    TRANSFERS_BETWEEN,
    await_transfers,
    behind_haproxy,
    calls_beside,
    transfer_while,
)
from tests.chaos.table import Line
from tests.clusters import find, run_alone
from tests.conftest import Backend, _find
from tests.twins.support import upgrade_schema

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(3600)]

_PATIENCE_SECONDS = 240.0
# A dead primary is replaced after 16 s; on a busy machine that takes its time.
LONGER = replace(PATIENT, total_seconds=_PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def patroni() -> Iterator[PatroniCluster]:
    _find(PostgresServer)
    with run_alone("patroni", PatroniCluster, nodes=3, networked=_has_cables()) as cluster:
        yield cluster


def _has_cables() -> bool:
    try:
        Cables(1)
    except ServerUnavailableError:
        return False
    return True


class OnThePrimary:
    """A database on whichever node is the primary."""

    def __init__(self, cluster: PatroniCluster, name: str) -> None:
        self._cluster, self._name = cluster, name

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._cluster.wait_for_primary().execute(sql, self._name)

    def wait_until_quiet(self, timeout_seconds: float) -> None:
        question = (
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and xact_start is not null"
        )
        if not wait_until(lambda: self.execute(question) == [(0,)], timeout_seconds=timeout_seconds):
            raise TimeoutError("transactions are still open")


def _happen(cluster: PatroniCluster, event: str) -> Callable[[], None]:
    """Let *event* happen to the primary; return what ends it, once another one works."""
    old = cluster.primary
    if event == "switched over":
        cluster.switch_over()
        return lambda: None
    if event == "restarted":
        cluster.restart(old)
        return lambda: None
    if event == "stopped":
        old.stop()
    elif event == "killed":
        old.kill()
    else:
        old.freeze()
    cluster.wait_for_primary(other_than=old)

    def come_back() -> None:
        if event == "frozen":
            old.thaw()
        else:
            old.start()

    return come_back


@contextmanager
def cut_off(cluster: PatroniCluster, old: PatroniNode, front: list[TcpProxy]) -> Iterator[None]:
    """Cut the primary off from the other nodes; with a proxy in *front* of each node, from its clients as well."""
    with cluster.partitioned(old):
        if front:
            front[old.number].black_hole()
        try:
            cluster.wait_for_primary(other_than=old)
            assert wait_until(lambda: not old.takes_writes(), timeout_seconds=_PATIENCE_SECONDS), "it was demoted"
            yield
        finally:
            if front:
                front[old.number].restore()


EVENTS = ("switched over", "killed", "frozen", "restarted")


def strike(cluster: PatroniCluster, bank: Bank, events: list[str]) -> list[tuple[str, float, float]]:
    resumed = []
    for event in events:
        cluster.wait_until_healthy()
        await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
        began = time.monotonic()
        come_back = _happen(cluster, event)
        happened = time.monotonic()
        await_transfers(bank, 1, _PATIENCE_SECONDS)
        resumed.append((event, happened - began, time.monotonic() - happened))
        come_back()
    cluster.wait_until_healthy()
    return resumed


def new_bank(cluster: PatroniCluster) -> tuple[Bank, OnThePrimary, str]:
    """Make a bank on a database of its own; return it, where it is, and its URL with all nodes."""
    cluster.wait_until_healthy()
    name = cluster.create_database()
    place = OnThePrimary(cluster, name)
    node: Any = cluster.primary
    upgrade_schema(Backend("postgresql", node.url(name), node))
    bank = Bank(place)
    bank.create()
    return bank, place, cluster.url(name)


def run_through(world: str, cluster: PatroniCluster, events: list[str], **options: Any) -> tuple[Bank, list[Any]]:
    """Run transfers until all *events* have happened, and resolve what is unknown after that."""
    bank, _, url = new_bank(cluster)
    resumed: list[tuple[str, float, float]] = []
    settings = {**OPTIONS, "retry": LONGER, **options}
    transfer_while(world, url, bank, lambda: resumed.extend(strike(cluster, bank, events)), **settings)
    return bank, resumed


def test_patroni_fails_over_and_no_transfer_is_lost(
    patroni: PatroniCluster, world: str, is_long: bool, transfers: int, add_line: Callable[[Line], None]
) -> None:
    """Switched over, killed, frozen and restarted in place: each transfer is there once, no outcome stays unknown."""
    bank, resumed = run_through(world, patroni, list(EVENTS) * (transfers // 500) if is_long else list(EVENTS[:2]))
    report = bank.check()
    words = ", ".join(f"{event} {one:.1f}+{other:.1f} s" for event, one, other in resumed[-len(EVENTS) :])
    add_line(Line.of(f"patroni: {words}", world, "postgresql", report, len(resumed)))
    assert report.is_exact, report
    # On a silent server a statement ends with its time, and nothing repeats that by itself.
    assert {name for name, _ in report.errors} <= {"StatementTimeoutError"}, report.errors


def test_a_rolling_restart_costs_no_transfer(
    patroni: PatroniCluster, world: str, add_line: Callable[[Line], None]
) -> None:
    """The primary is shut down in order, and hands over; after that the next one, and the next."""
    bank, resumed = run_through(world, patroni, ["stopped"] * 3, **{**CALM, "retry": LONGER})
    report = bank.check()
    words = ", ".join(f"{one:.1f}+{other:.1f} s" for _, one, other in resumed)
    add_line(Line.of(f"patroni, rolling restart: {words}", world, "postgresql", report, len(resumed)))
    assert report.is_exact, report
    assert report.errors == ()


def restart_each(cluster: PatroniCluster, bank: Bank) -> None:
    """Stop each node in order, and start it again, while the bank works; the primary's role goes around."""
    for node in cluster.nodes:
        cluster.wait_until_healthy()
        await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
        node.stop()
        await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
        node.start()
    cluster.wait_until_healthy()


@mostly_in("async")
def test_a_rolling_restart_behind_haproxy_costs_no_call(
    patroni: PatroniCluster, world: str, is_long: bool, add_line: Callable[[Line], None]
) -> None:
    """Clients know the proxy only: no transfer, no read and no write that may be repeated fails, or is lost."""
    bank, place, url = new_bank(patroni)
    settings = {**CALM, "retry": LONGER}
    rounds = 3 if is_long else 1
    with (
        behind_haproxy(patroni, check_ports=patroni.check_ports, check_path="/primary") as proxy,
        calls_beside(proxy.url(url), place.execute, **settings),
    ):
        for _ in range(rounds):
            transfer_while(world, proxy.url(url), bank, lambda: restart_each(patroni, bank), **settings)
    report = bank.check()
    add_line(Line.of("patroni behind haproxy, rolling restart", world, "postgresql", report, rounds * 3))
    assert report.is_exact, report
    assert report.errors == ()


def run_cut_off(
    world: str, cluster: PatroniCluster, bank: Bank, url: str, rounds: int, *, reached: bool, **options: Any
) -> list[tuple[float, float]]:
    """Run transfers while the primary is cut off, so many times; return how long each failover and resuming took."""
    find("cables", Cables, count=1)
    resumed = []
    with ExitStack() as stack:
        front = [] if reached else [stack.enter_context(TcpProxy(node.host, node.port)) for node in cluster.nodes]
        for node, proxy in zip(cluster.nodes, front, strict=False):
            url = url.replace(f"{node.host}:{node.port}", f"{proxy.host}:{proxy.port}")

        def happen() -> None:
            for _ in range(rounds):
                cluster.wait_until_healthy()
                await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
                began = time.monotonic()
                with cut_off(cluster, cluster.primary, front):
                    happened = time.monotonic()
                    await_transfers(bank, TRANSFERS_BETWEEN, _PATIENCE_SECONDS)
                    resumed.append((happened - began, time.monotonic() - happened))
            cluster.wait_until_healthy()

        transfer_while(world, url, bank, happen, **{**options, "retry": LONGER})
    return resumed


@mostly_in("async")
@pytest.mark.parametrize("clients", ["reach it", "don't"] if IS_LONG else ["reach it"])
def test_a_primary_that_is_cut_off_costs_no_transfer(
    clients: str, patroni: PatroniCluster, world: str, is_long: bool, transfers: int, add_line: Callable[[Line], None]
) -> None:
    """It lives, and the other nodes hear no more of it: it is demoted, another one promoted, and nothing is lost."""
    bank, _, url = new_bank(patroni)
    rounds = transfers // 500 if is_long else 1
    reached = clients == "reach it"
    # A COMMIT waits for its standby, and others for its rows, until Patroni ends all sessions.
    limits = CALM if reached else OPTIONS
    resumed = run_cut_off(world, patroni, bank, url, rounds, reached=reached, **limits)
    report = bank.check()
    words = ", ".join(f"{one:.1f}+{other:.1f} s" for one, other in resumed)
    add_line(Line.of(f"patroni, cut off, clients {clients}: {words}", world, "postgresql", report, rounds))
    assert report.is_exact, report
    # On a silent server a statement ends with its time, and nothing repeats that by itself.
    allowed = set() if reached else {"StatementTimeoutError"}
    assert {name for name, _ in report.errors} <= allowed, report.errors


@mostly_in("sync")
def test_control_a_primary_that_waits_for_no_standby_loses_what_it_confirms_alone(
    patroni: PatroniCluster, world: str, add_line: Callable[[Line], None]
) -> None:
    """Cut off, it takes work until it is demoted, and the new primary has none of that; nothing is doubled."""
    bank, place, url = new_bank(patroni)
    place.execute(f'alter database "{url.rpartition("/")[2]}" set synchronous_commit = local')
    run_cut_off(world, patroni, bank, url, 1, reached=True, **CALM)
    report = bank.check()
    add_line(Line.of("patroni, cut off, waits for no standby", world, "postgresql", report, 1))
    assert report.lost > 0
    assert (report.doubled, report.torn, report.phantom, report.sum_difference) == (0, 0, 0, 0), report
