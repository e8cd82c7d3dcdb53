"""Random transactions that append to lists and read them, and the history of their reads."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from prefiq_db.errors import OutcomeUnknownError, UsageError
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.faults.checker import check_history
from prefiq_db.testing.faults.crew import run_tasks, run_threads
from prefiq_db.testing.faults.direct import direct
from prefiq_db.testing.faults.histories import Append, HistoryReport, HistoryTransaction, Read

_QUIET_SECONDS = 30.0
# Growing lists make each read slower than the one before, so we move on to new ones.
_TRANSACTIONS_PER_KEYS = 100

_TABLE = sa.table("append_list", sa.column("id", sa.Integer), sa.column("numbers", sa.Text))
_READ = sa.select(_TABLE.c.numbers).where(_TABLE.c.id == sa.bindparam("key"))
# The append is in the statement itself, so that a database can lose none, and only reads show who saw what.
_APPEND = (
    sa.update(_TABLE)
    .where(_TABLE.c.id == sa.bindparam("key"))
    .values(numbers=_TABLE.c.numbers + sa.bindparam("text", type_=sa.Text))
)

_Plan = list[tuple[str, int]]


class _Attempts:
    """One transaction: its planned operations, and the attempts of its body."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.made: list[tuple[int, list[Append | Read]]] = []


class ListAppend:
    """Lists in a table, transactions that append to some of them and read some, and a checker of their reads.

    ::

        lists = ListAppend(server, database)
        lists.create()
        lists.run(db, 500, workers=8, run=lambda db, body: db.run_in_transaction(body, isolation="SERIALIZABLE"))
        assert not lists.check().beyond("SERIALIZABLE")

    Each attempt of a transaction appends unique values, so that a read shows which attempts had written.

    Args:
        where: a server, or the path of a SQLite file; the final read queries it directly, past every proxy.
        database: the server's database.
        keys: how many lists are in use at a time; fewer cause more contention.
        max_operations: the maximum per transaction.
        seed: determines the transactions.
    """

    def __init__(
        self,
        where: DatabaseServer | str | os.PathLike[str],
        database: str | None = None,
        *,
        keys: int = 4,
        max_operations: int = 4,
        seed: int = 0,
    ) -> None:
        if keys < 1 or max_operations < 1:
            raise UsageError("keys and max_operations: expected a number from 1")
        self._direct = direct(where, database)
        self._keys = keys
        self._max_operations = max_operations
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._begun = 0
        self._lists = 0
        self._numbers = itertools.count(1)
        self._values = itertools.count(1)
        self._history: list[HistoryTransaction] = []
        self._seconds = 0.0

    def create(self) -> None:
        """Create the table ``append_list``."""
        self._direct.execute("create table append_list (id integer not null primary key, numbers text not null)")

    # --- runs ------------------------------------------------------------------------------------

    def run(
        self, db: Any, transactions: int, *, workers: int = 8, run: Callable[[Any, Any], Any] | None = None
    ) -> None:
        """Run that many transactions in *workers* threads, each by ``run(db, body)`` with ``body(tx)``.

        Default: ``db.run_in_transaction(body)``.
        """
        do = run or (lambda db, body: db.run_in_transaction(body))
        self._make_lists(transactions)
        last = self._begun + transactions

        def work() -> None:
            while attempts := self._next(last):
                try:
                    do(db, lambda tx, attempts=attempts: self._body(tx, attempts))
                except Exception as error:  # noqa: BLE001 - every error is an outcome
                    self._note_end(attempts, error)
                else:
                    self._note_end(attempts, None)

        began = time.monotonic()
        run_threads(work, workers)
        self._seconds += time.monotonic() - began

    async def run_async(
        self, db: Any, transactions: int, *, workers: int = 8, run: Callable[[Any, Any], Any] | None = None
    ) -> None:
        """Run that many transactions in *workers* tasks; see :meth:`run`."""
        do = run or (lambda db, body: db.run_in_transaction(body))
        self._make_lists(transactions)
        last = self._begun + transactions

        async def work() -> None:
            while attempts := self._next(last):
                try:
                    answer = do(db, lambda tx, attempts=attempts: self._body_async(tx, attempts))
                    if inspect.isawaitable(answer):
                        await answer
                except asyncio.CancelledError as error:
                    self._note_end(attempts, error)
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                except Exception as error:  # noqa: BLE001 - every error is an outcome
                    self._note_end(attempts, error)
                else:
                    self._note_end(attempts, None)

        began = time.monotonic()
        await run_tasks(work, workers)
        self._seconds += time.monotonic() - began

    def _make_lists(self, transactions: int) -> None:
        wanted = ((self._begun + transactions) // _TRANSACTIONS_PER_KEYS + 1) * self._keys
        rows = ", ".join(f"({key}, '')" for key in range(self._lists, wanted))
        if rows:
            self._direct.execute(f"insert into append_list (id, numbers) values {rows}")
        self._lists = wanted

    def _next(self, last: int) -> _Attempts | None:
        with self._lock:
            if self._begun == last:
                return None
            first_key = self._begun // _TRANSACTIONS_PER_KEYS * self._keys
            self._begun += 1
            return _Attempts(
                [
                    (self._random.choice(("append", "read")), first_key + self._random.randrange(self._keys))
                    for _ in range(self._random.randint(1, self._max_operations))
                ]
            )

    def _note_end(self, attempts: _Attempts, error: BaseException | None) -> None:
        outcome: bool | None = error is None
        if isinstance(error, OutcomeUnknownError | asyncio.CancelledError):
            carried = getattr(error, "transaction_outcome", None)
            outcome = {"committed": True, "not committed": False}.get(str(getattr(carried, "value", carried)))
        with self._lock:
            for position, (number, done) in enumerate(attempts.made, 1):
                became = outcome if position == len(attempts.made) else False
                self._history.append(HistoryTransaction(number, tuple(done), became))

    # --- one attempt -----------------------------------------------------------------------------

    def _body(self, tx: Any, attempts: _Attempts) -> None:
        done = self._attempt(attempts)
        for verb, key in attempts.plan:
            if verb == "read":
                done.append(_read(key, tx.fetch_value(_READ, {"key": key})))
            else:
                tx.execute(_APPEND, self._append(done, key))

    async def _body_async(self, tx: Any, attempts: _Attempts) -> None:
        done = self._attempt(attempts)
        for verb, key in attempts.plan:
            if verb == "read":
                done.append(_read(key, await tx.fetch_value(_READ, {"key": key})))
            else:
                await tx.execute(_APPEND, self._append(done, key))

    def _attempt(self, attempts: _Attempts) -> list[Append | Read]:
        with self._lock:
            done: list[Append | Read] = []
            attempts.made.append((next(self._numbers), done))
            return done

    def _append(self, done: list[Append | Read], key: int) -> dict[str, Any]:
        with self._lock:
            value = next(self._values)
        done.append(Append(key, value))  # before it is sent: its outcome is unknown from then on
        return {"key": key, "text": f"{value},"}

    # --- the check -------------------------------------------------------------------------------

    @property
    def history(self) -> tuple[HistoryTransaction, ...]:
        """Every attempt so far, by its number."""
        return tuple(sorted(self._history, key=lambda transaction: transaction.number))

    def check(self) -> HistoryReport:
        """Check all runs so far, and the present lists, for anomalies.

        Raises:
            TimeoutError: if transactions stay open, so that there is no final state.
        """
        self._direct.wait_until_quiet(_QUIET_SECONDS)
        final = {int(key): _numbers(text) for key, text in self._direct.execute("select id, numbers from append_list")}
        return check_history(self.history, final, seconds=self._seconds)


def _read(key: int, text: Any) -> Read:
    return Read(key, _numbers(str(text)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
