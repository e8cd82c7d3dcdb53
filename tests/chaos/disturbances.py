"""What the suites of clusters share: transfers go on while something happens to the servers, and reads beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefiq_db import Database, RetryPolicy
from prefiq_db.testing import HAProxy
from prefiq_db.testing.faults import Bank
from prefiq_db.testing.processes import wait_until
from tests.chaos.conftest import run_in
from tests.clusters import find

WORKERS = 6
PATIENT = RetryPolicy(attempts=10_000, wait_initial_seconds=0.02, wait_max_seconds=0.2, total_seconds=60)
OPTIONS = {
    "pool_size": WORKERS, "max_overflow": 0, "retry": PATIENT, "retry_budget": 100_000, "ssl_mode": "disable",
    "statement_timeout_seconds": 2, "connect_timeout_seconds": 2, "pool_timeout_seconds": 30,
}  # fmt: skip
#: Where no server is silent: limits that a busy machine doesn't reach, and a switch-over doesn't either.
CALM = {**OPTIONS, "statement_timeout_seconds": 60, "connect_timeout_seconds": 15}
#: Between two events; so that there is always work under way.
TRANSFERS_BETWEEN = 15


def await_transfers(bank: Bank, count: int, timeout_seconds: float) -> None:
    """Wait until *count* more transfers were confirmed."""
    before = bank.committed_count
    if not wait_until(lambda: bank.committed_count >= before + count, timeout_seconds=timeout_seconds):
        raise TimeoutError(f"no {count} transfers were confirmed in {timeout_seconds:g} s")


def transfer_while(world: str, url: str, bank: Bank, happen: Callable[[], None], **settings: Any) -> None:
    """Run transfers until *happen*, in a thread of its own, has ended; resolve what is unknown after that."""
    failures: list[Exception] = []
    over = threading.Event()

    def happen_once() -> None:
        try:
            happen()
        except Exception as error:
            failures.append(error)
        finally:
            over.set()

    def work(db: Any) -> None:
        while not over.is_set():
            bank.run(db, 60, workers=WORKERS)
        bank.resolve(db)

    async def work_async(db: Any) -> None:
        while not over.is_set():
            await bank.run_async(db, 60, workers=WORKERS)
        await bank.resolve_async(db)

    thread = threading.Thread(target=happen_once, name="what happens")
    thread.start()
    try:
        run_in(world, work if world == "sync" else work_async, url, **settings)
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def behind_haproxy(cluster: Any, **checks: Any) -> Iterator[HAProxy]:
    """Run HAProxy in front of a cluster, skipped or failed by name where there is none."""
    with find("haproxy", HAProxy, nodes=cluster.nodes, **checks) as proxy:
        yield proxy


_READ = "select count(*) from bank_account"
_BEAT_TABLE = "create table beat (id integer not null primary key, last integer not null)"
_BEAT = "update beat set last = :number where id = 1 and last < :number"
_PATIENCE_SECONDS = 30.0


@dataclass
class Calls:
    """Calls that somebody makes beside the bank: how many, and the errors of those that failed."""

    count: int = 0
    failed: list[Exception] = field(default_factory=list)


@contextmanager
def reads_beside(url: str, **settings: Any) -> Iterator[None]:
    """Read while the block runs; assert at its end that it read, and that no read failed."""
    with _beside(url, lambda db, number: db.fetch_value(_READ), settings) as reads:
        yield
    assert reads.failed == []
    assert reads.count > 0


@contextmanager
def calls_beside(url: str, execute: Callable[[str], list[tuple[Any, ...]]], **settings: Any) -> Iterator[None]:
    """Read, and write what may be repeated, while the block runs; assert that no call failed, and nothing was lost.

    The control: somebody who repeats nothing sees calls fail. *execute* makes a table for it, and looks there at the
    end, past all proxies.
    """
    execute(_BEAT_TABLE)
    execute("insert into beat (id, last) values (1, 0)")

    def call(db: Database, number: int) -> None:
        db.fetch_value(_READ)
        db.using(idempotent=True).execute(_BEAT, {"number": number})

    hasty = {**settings, "retry": RetryPolicy(attempts=1)}
    with (
        _beside(url, call, settings) as calls,
        _beside(url, lambda db, number: db.fetch_value(_READ), hasty) as control,
    ):
        yield
    assert calls.failed == []
    assert wait_until(
        lambda: execute("select last from beat") == [(calls.count,)], timeout_seconds=_PATIENCE_SECONDS
    ), "what was confirmed is there"
    assert control.failed != [], "something happened"


@contextmanager
def _beside(url: str, call: Callable[[Database, int], object], settings: dict[str, Any]) -> Iterator[Calls]:
    """Make numbered calls in a thread of its own while the block runs."""
    calls, over = Calls(), threading.Event()

    def work() -> None:
        with closing(Database(url, **settings)) as db:  # not opened before, which nobody repeats
            while not over.is_set():
                calls.count += 1
                try:
                    call(db, calls.count)
                except Exception as error:
                    calls.failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield calls
    finally:
        over.set()
        thread.join()
