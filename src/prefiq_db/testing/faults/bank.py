"""A bank: transfers between accounts, and the reported outcome of each."""

from __future__ import annotations

import asyncio
import enum
import inspect
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prefiq_db.errors import OutcomeUnknownError, UsageError
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.faults.bank_report import BankReport
from prefiq_db.testing.faults.crew import run_tasks, run_threads
from prefiq_db.testing.faults.direct import Direct, direct

_QUIET_SECONDS = 30.0
_MAX_AMOUNT = 5

_TABLES = (
    "create table bank_account (id integer not null primary key, balance integer not null)",
    # The number isn't unique on purpose: a transfer that happens twice must be detected, not prevented.
    "create table bank_ledger (transfer integer not null, source integer not null, target integer not null,"
    " amount integer not null)",
)
_TAKE = "update bank_account set balance = balance - :amount where id = :source and balance >= :amount"
_GIVE = "update bank_account set balance = balance + :amount where id = :target"
_NOTE = "insert into bank_ledger (transfer, source, target, amount) values (:transfer, :source, :target, :amount)"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move *amount* from one account to another; *number* is unique over all runs of a bank."""

    number: int
    source: int
    target: int
    amount: int


class Told(enum.StrEnum):
    """The outcome of a transfer as its caller saw it."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"  # without any outcome


class InsufficientFundsError(Exception):
    """The source doesn't have the amount: the transfer must leave nothing behind."""


class Bank:
    """Accounts, a ledger with one row per transfer, and a check that both agree with the reported outcomes.

    ::

        bank = Bank(server, database)
        bank.create()
        with proxy.fault(CutReply(), on=COMMIT, probability=0.1, seed=7):
            bank.run(db, 1000, workers=8)          # or: await bank.run_async(db, 1000)
        proxy.wait()
        report = bank.check()
        assert report.is_right, report

    A transfer is ``db.run_in_transaction(bank.apply, transfer, exactly_once=True)``; give another callable to test
    other ways (``bank.apply`` for a ``Transaction``, ``bank.apply_async`` for an ``AsyncTransaction``).

    Args:
        where: a server, or the path of a SQLite file; the check queries it directly, past every proxy. Or an object
            with ``execute(sql)`` and ``wait_until_quiet(timeout_seconds)``: one that asks the primary of a cluster.
        database: the server's database.
        accounts: fewer accounts cause more contention.
        balance: the initial balance of each account; if it is small, some transfers are refused.
        seed: determines the transfers.
    """

    def __init__(
        self,
        where: DatabaseServer | Direct | str | os.PathLike[str],
        database: str | None = None,
        *,
        accounts: int = 8,
        balance: int = 1000,
        seed: int = 0,
    ) -> None:
        if accounts < 2:
            raise UsageError("accounts: a transfer needs two")
        self._direct = direct(where, database)
        self._accounts = accounts
        self._balance = balance
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._told: dict[int, Told] = {}
        self._tokens: dict[int, str] = {}
        self._errors: Counter[str] = Counter()
        self._wrong_answers = 0
        self._attempts = 0
        self._seconds = 0.0

    def create(self) -> None:
        """Create the tables ``bank_account`` and ``bank_ledger``."""
        for statement in _TABLES:
            self._direct.execute(statement)
        rows = ", ".join(f"({account}, {self._balance})" for account in range(self._accounts))
        self._direct.execute(f"insert into bank_account (id, balance) values {rows}")

    def look_at(self, where: DatabaseServer, database: str) -> None:
        """Check another server from now on: after a failover, the new primary."""
        self._direct = direct(where, database)

    @property
    def committed_count(self) -> int:
        """How many transfers were reported as committed so far; other threads may read it during a run."""
        with self._lock:
            return sum(told is Told.COMMITTED for told in self._told.values())

    # --- one transfer ----------------------------------------------------------------------------

    def apply(self, tx: Any, transfer: Transfer) -> int:
        """Do a transfer in a transaction and return its number.

        Raises:
            InsufficientFundsError: if the source doesn't have the amount.
        """
        parameters = self._begin(transfer)
        for statement, names in _statements(transfer):
            if tx.execute(statement, {name: parameters[name] for name in names}).rowcount != 1:
                raise InsufficientFundsError
        return transfer.number

    async def apply_async(self, tx: Any, transfer: Transfer) -> int:
        """Do the same in an ``AsyncTransaction``."""
        parameters = self._begin(transfer)
        for statement, names in _statements(transfer):
            if (await tx.execute(statement, {name: parameters[name] for name in names})).rowcount != 1:
                raise InsufficientFundsError
        return transfer.number

    def _begin(self, transfer: Transfer) -> dict[str, int]:
        with self._lock:
            self._attempts += 1
        return {
            "transfer": transfer.number,
            "source": transfer.source,
            "target": transfer.target,
            "amount": transfer.amount,
        }

    # --- many ------------------------------------------------------------------------------------

    def run(
        self, db: Any, transfers: int, *, workers: int = 8, transfer: Callable[[Any, Transfer], Any] | None = None
    ) -> None:
        """Run that many transfers in *workers* threads, each by ``transfer(db, transfer)``; keep the outcomes."""
        do = transfer or (lambda db, each: db.run_in_transaction(self.apply, each, exactly_once=True))
        orders = self._orders(transfers)

        def work() -> None:
            while order := self._next(orders):
                try:
                    self._note_answer(order, do(db, order))
                except Exception as error:  # noqa: BLE001 - every error is an outcome
                    self._note_failure(order, error)

        began = time.monotonic()
        run_threads(work, workers)
        self._seconds += time.monotonic() - began

    async def run_async(
        self, db: Any, transfers: int, *, workers: int = 8, transfer: Callable[[Any, Transfer], Any] | None = None
    ) -> None:
        """Run that many transfers in *workers* tasks; see :meth:`run`.

        A transfer that ends with ``CancelledError`` is kept with the outcome that the error carries.
        """
        do = transfer or (lambda db, each: db.run_in_transaction(self.apply_async, each, exactly_once=True))
        orders = self._orders(transfers)

        async def work() -> None:
            while order := self._next(orders):
                try:
                    answer = do(db, order)
                    self._note_answer(order, await answer if inspect.isawaitable(answer) else answer)
                except asyncio.CancelledError as error:
                    self._note_failure(order, error)
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                except Exception as error:  # noqa: BLE001 - every error is an outcome
                    self._note_failure(order, error)

        began = time.monotonic()
        await run_tasks(work, workers)
        self._seconds += time.monotonic() - began

    def _orders(self, count: int) -> Iterator[Transfer]:
        for _ in range(count):
            source, target = self._random.sample(range(self._accounts), 2)
            yield Transfer(len(self._told) + 1, source, target, self._random.randint(1, _MAX_AMOUNT))

    def _next(self, orders: Iterator[Transfer]) -> Transfer | None:
        with self._lock:
            order = next(orders, None)
            if order is not None:
                self._told[order.number] = Told.CANCELLED  # until an outcome is reported
            return order

    def _note_answer(self, order: Transfer, answer: Any) -> None:
        with self._lock:
            self._told[order.number] = Told.COMMITTED
            self._wrong_answers += answer is not None and answer != order.number

    def _note_failure(self, order: Transfer, error: BaseException) -> None:
        with self._lock:
            self._told[order.number] = _read_outcome(error)
            if isinstance(error, OutcomeUnknownError) and error.token is not None:
                self._tokens[order.number] = error.token
            self._errors[type(error).__name__] += 1

    # --- unknown outcomes ------------------------------------------------------------------------

    def resolve(self, db: Any) -> None:
        """Ask *db* about each transfer whose unknown outcome came with a token, and keep the answers."""
        for number, token in sorted(self._tokens.items()):
            self._note_resolution(number, db.resolve_outcome(token))

    async def resolve_async(self, db: Any) -> None:
        """Do the same with an ``AsyncDatabase``."""
        for number, token in sorted(self._tokens.items()):
            self._note_resolution(number, await db.resolve_outcome(token))

    def _note_resolution(self, number: int, outcome: Any) -> None:
        self._told[number] = Told(str(outcome.value))
        if self._told[number] is not Told.UNKNOWN:
            del self._tokens[number]

    # --- the check -------------------------------------------------------------------------------

    def check(self) -> BankReport:
        """Compare the reported outcomes with the database, over all runs so far.

        It waits until no transaction is open; with a proxy, call :meth:`FaultProxy.wait` before.

        Raises:
            TimeoutError: if transactions stay open, so that the database has no final state.
        """
        self._direct.wait_until_quiet(_QUIET_SECONDS)
        balances = dict(self._direct.execute("select id, balance from bank_account"))
        ledger = self._direct.execute("select transfer, source, target, amount from bank_ledger")
        applied = Counter(int(row[0]) for row in ledger)
        by_ledger = dict.fromkeys(range(self._accounts), self._balance)
        for _, source, target, amount in ledger:
            by_ledger[source] -= amount
            by_ledger[target] += amount
        told = Counter(self._told.values())
        return BankReport(
            transfers=len(self._told),
            committed=told[Told.COMMITTED],
            not_committed=told[Told.NOT_COMMITTED],
            unknown=told[Told.UNKNOWN],
            cancelled=told[Told.CANCELLED],
            lost=sum(told is Told.COMMITTED and not applied[number] for number, told in self._told.items()),
            doubled=sum(count > 1 for count in applied.values()),
            phantom=sum(told is Told.NOT_COMMITTED and applied[number] > 0 for number, told in self._told.items()),
            wrong_answers=self._wrong_answers,
            torn=sum(by_ledger[account] != balances.get(account) for account in by_ledger),
            negative=sum(balance < 0 for balance in balances.values()),
            sum_difference=sum(balances.values()) - self._accounts * self._balance,
            attempts=self._attempts,
            seconds=self._seconds,
            errors=tuple(sorted(self._errors.items())),
        )


def _statements(transfer: Transfer) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the statements and their binds, in the order of the accounts, so that two transfers can't deadlock.

    The ledger row is in the middle, so that half of a transfer makes ledger and balances disagree.
    """
    take, give = (_TAKE, ("source", "amount")), (_GIVE, ("target", "amount"))
    first, last = (take, give) if transfer.source < transfer.target else (give, take)
    return first, (_NOTE, ("transfer", "source", "target", "amount")), last


def _read_outcome(error: BaseException) -> Told:
    if isinstance(error, OutcomeUnknownError):
        return Told.UNKNOWN
    if not isinstance(error, asyncio.CancelledError):
        return Told.NOT_COMMITTED
    outcome = getattr(error, "transaction_outcome", None)
    try:
        return Told(str(getattr(outcome, "value", outcome)))
    except ValueError:
        return Told.CANCELLED
