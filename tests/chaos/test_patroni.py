"""A bank with ``exactly_once`` on three nodes under Patroni, which fails over and switches over by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from prefiq_db.testing import PatroniCluster, PostgresServer
from prefiq_db.testing.faults import Bank
from prefiq_db.testing.processes import wait_until
from tests.chaos.disturbances import OPTIONS, PATIENT, TRANSFERS_BETWEEN, await_transfers, transfer_while
from tests.chaos.table import Line
from tests.clusters import run_alone
from tests.conftest import Backend, _find
from tests.twins.support import upgrade_schema

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(3600)]

_PATIENCE_SECONDS = 240.0
# A dead primary is replaced after 16 s; on a busy machine that takes its time.
LONGER = replace(PATIENT, total_seconds=_PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def patroni() -> Iterator[PatroniCluster]:
    _find(PostgresServer)
    with run_alone("patroni", PatroniCluster, nodes=3) as cluster:
        yield cluster


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


def run_through(world: str, cluster: PatroniCluster, events: list[str], **options: Any) -> tuple[Bank, list[Any]]:
    """Run transfers until all *events* have happened, and resolve what is unknown after that."""
    name = cluster.create_database()
    place = OnThePrimary(cluster, name)
    node: Any = cluster.primary
    upgrade_schema(Backend("postgresql", node.url(name), node))
    bank = Bank(place)
    bank.create()
    resumed: list[tuple[str, float, float]] = []
    settings = {**OPTIONS, "retry": LONGER, **options}
    transfer_while(world, cluster.url(name), bank, lambda: resumed.extend(strike(cluster, bank, events)), **settings)
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
    bank, resumed = run_through(world, patroni, ["stopped"] * 3, statement_timeout_seconds=30)
    report = bank.check()
    words = ", ".join(f"{one:.1f}+{other:.1f} s" for _, one, other in resumed)
    add_line(Line.of(f"patroni, rolling restart: {words}", world, "postgresql", report, len(resumed)))
    assert report.is_exact, report
    assert report.errors == ()
