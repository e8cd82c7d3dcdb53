"""What the suites of clusters share: transfers go on while something happens to the servers, and reads beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefiq_db import Database, RetryPolicy
from prefiq_db.testing.faults import Bank
from prefiq_db.testing.processes import wait_until
from tests.chaos.conftest import run_in

WORKERS = 6
PATIENT = RetryPolicy(attempts=10_000, wait_initial_seconds=0.02, wait_max_seconds=0.2, total_seconds=60)
OPTIONS = {
    "pool_size": WORKERS, "max_overflow": 0, "retry": PATIENT, "retry_budget": 100_000, "ssl_mode": "disable",
    "statement_timeout_seconds": 2, "connect_timeout_seconds": 2, "pool_timeout_seconds": 30,
}  # fmt: skip
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
def reads_beside(url: str, **settings: Any) -> Iterator[None]:
    """Read in a thread of its own while the block runs; assert at its end that it read, and that no read failed."""
    failed: list[Exception] = []
    count, over = 0, threading.Event()

    def read() -> None:
        nonlocal count
        with Database(url, **settings) as reader:
            while not over.is_set():
                try:
                    reader.fetch_value("select count(*) from bank_account")
                except Exception as error:
                    failed.append(error)
                count += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failed == []
    assert count > 0
