"""The bank tells right from wrong: without faults all is right, and each wrong way to retry is caught."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.errors import OutcomeUnknownError, UsageError
from prefiq_db.reports import Outcome
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.faults import (
    COMMIT,
    Bank,
    BankReport,
    CutReply,
    CutRequest,
    FaultProxy,
    InsufficientFundsError,
    Told,
    Transfer,
    bank_table,
)
from tests.chaos.conftest import run_bank, wired
from tests.chaos.controls import TOKENS, blind_retry, plain, select_the_token
from tests.conftest import Backend

# --- nothing breaks ------------------------------------------------------------------------------


def test_without_faults_every_transfer_is_committed_once(
    backend: Backend, world: str, bank: Bank, transfers: int
) -> None:
    run_bank(world, bank, backend.url, transfers, transfer=plain(world, bank))
    report = bank.check()
    assert report.is_exact, report
    assert report.committed == report.transfers == transfers
    assert report.attempts >= transfers
    assert bank._direct.execute("select count(*) from bank_ledger") == [(transfers,)]


def test_a_transfer_that_is_refused_leaves_nothing(backend: Backend, world: str, tmp_path: Path) -> None:
    where: Any = backend.server or backend.url.removeprefix("sqlite:///")
    bank = Bank(where, backend.url.rpartition("/")[2], accounts=2, balance=6)
    bank.create()
    run_bank(world, bank, backend.url, 40, transfer=plain(world, bank))
    report = bank.check()
    assert report.is_exact, report
    assert report.not_committed == dict(report.errors)["InsufficientFundsError"] > 0


# --- the wrong ways ------------------------------------------------------------------------------


@wired
def test_without_a_retry_a_lost_reply_is_unknown_and_nothing_worse(
    backend: Backend, world: str, bank: Bank, proxy: FaultProxy, transfers: int
) -> None:
    with proxy.fault(CutReply(), on=COMMIT, every=5) as plan:
        run_bank(world, bank, proxy.url(backend.url), transfers, transfer=plain(world, bank))
    report = bank.check()
    assert report.is_right, report
    assert report.unknown == plan.hits == transfers // 5


@wired
def test_blind_retry_is_right_when_the_request_is_cut(
    backend: Backend, world: str, bank: Bank, proxy: FaultProxy, transfers: int
) -> None:
    with proxy.fault(CutRequest(), on=COMMIT, every=5) as plan:
        run_bank(world, bank, proxy.url(backend.url), transfers, transfer=blind_retry(world, plain(world, bank)))
    assert plan.hits > 0
    assert bank.check().is_exact


@wired
def test_select_the_token_is_right_when_only_the_reply_is_cut(
    backend: Backend, world: str, bank: Bank, proxy: FaultProxy, transfers: int
) -> None:
    bank._direct.execute(TOKENS)
    with proxy.fault(CutReply(), on=COMMIT, every=5) as plan:
        run_bank(world, bank, proxy.url(backend.url), transfers, transfer=select_the_token(world, bank))
    assert plan.hits > 0
    assert bank.check().is_exact


# --- the checker, breach by breach ---------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "bank.db")


@pytest.fixture
def small(file: str) -> Bank:
    made = Bank(file, accounts=3, balance=100)
    made.create()
    return made


def checked(bank: Bank, file: str, transfer: Any, *, count: int = 1) -> BankReport:
    with Database(f"sqlite:///{file}") as db:
        bank.run(db, count, workers=1, transfer=transfer)
    return bank.check()


def test_what_is_lost_is_found(small: Bank, file: str) -> None:
    report = checked(small, file, lambda db, transfer: transfer.number)
    assert (report.committed, report.lost) == (1, 1)
    assert not report.is_right


def test_what_is_doubled_is_found(small: Bank, file: str) -> None:
    def twice(db: Any, transfer: Transfer) -> Any:
        db.run_in_transaction(small.apply, transfer)
        return db.run_in_transaction(small.apply, transfer)

    report = checked(small, file, twice)
    assert report.doubled == 1
    assert str(report).startswith("1 transfers: 1 committed, 0 not, 0 unknown; 1 doubled; 2 attempts")


def test_what_is_there_though_it_was_denied_is_found(small: Bank, file: str) -> None:
    def denied(db: Any, transfer: Transfer) -> Any:
        db.run_in_transaction(small.apply, transfer)
        raise InsufficientFundsError

    report = checked(small, file, denied)
    assert (report.not_committed, report.phantom) == (1, 1)
    assert not report.is_right


@pytest.mark.parametrize("steps", [1, 2])
def test_half_a_transfer_is_found(small: Bank, file: str, steps: int) -> None:
    class Half:
        def __init__(self, tx: Any) -> None:
            self.tx, self.left = tx, steps

        def execute(self, *arguments: Any) -> Any:
            self.left -= 1
            return self.tx.execute(*arguments) if self.left >= 0 else Half.done

        class done:  # noqa: N801 - a result, not a class to others
            rowcount = 1

    def half(db: Any, transfer: Transfer) -> Any:
        return db.run_in_transaction(lambda tx: small.apply(Half(tx), transfer))

    report = checked(small, file, half)
    assert report.torn > 0
    assert report.sum_difference != 0
    assert not report.is_right


def test_another_transfers_answer_is_found(small: Bank, file: str) -> None:
    def mixed(db: Any, transfer: Transfer) -> Any:
        return db.run_in_transaction(small.apply, transfer) + 1

    assert checked(small, file, mixed).wrong_answers == 1


def test_unknown_is_right_whether_it_happened_or_not(small: Bank, file: str) -> None:
    def unknown(db: Any, transfer: Transfer) -> Any:
        if transfer.number % 2:
            db.run_in_transaction(small.apply, transfer)
        raise OutcomeUnknownError("lost")

    report = checked(small, file, unknown, count=4)
    assert (report.unknown, report.is_right, report.is_exact) == (4, True, False)


@pytest.mark.parametrize("answer", ["committed", "not committed", "unknown"])
def test_what_was_unknown_is_asked_for(small: Bank, file: str, world: str, answer: str) -> None:
    """A bank believes the answer, checks it, and asks again for what stays unknown."""
    asked: list[str] = []

    def unknown(db: Any, transfer: Transfer) -> Any:
        raise OutcomeUnknownError("lost", token=f"token {transfer.number}")

    class Answers:
        def resolve_outcome(self, token: str) -> Any:
            asked.append(token)
            return Outcome(answer) if world == "sync" else asyncio.sleep(0, Outcome(answer))

    assert checked(small, file, unknown, count=2).unknown == 2
    for _ in range(2):
        if world == "sync":
            small.resolve(Answers())
        else:
            asyncio.run(small.resolve_async(Answers()))
    assert asked == ["token 1", "token 2"] * (2 if answer == "unknown" else 1)
    report = small.check()
    assert report.lost == (2 if answer == "committed" else 0)
    assert report.is_exact == (answer == "not committed")


@pytest.mark.parametrize("outcome", [None, "committed", "not committed", "unknown"])
def test_a_cancellation_tells_what_it_carries(small: Bank, file: str, outcome: str | None) -> None:
    async def cancelled(db: Any, transfer: Transfer) -> None:
        error = asyncio.CancelledError()
        if outcome:
            error.transaction_outcome = outcome  # type: ignore[attr-defined]
        raise error

    async def run() -> None:
        async with AsyncDatabase(f"sqlite:///{file}") as db:
            await small.run_async(db, 3, workers=2, transfer=cancelled)

    asyncio.run(run())
    assert set(small._told.values()) == {Told(outcome or "cancelled")}
    assert small.check().lost == (3 if outcome == "committed" else 0)


def test_a_run_that_is_cancelled_ends(small: Bank, file: str) -> None:
    async def run() -> None:
        async with AsyncDatabase(f"sqlite:///{file}") as db:
            forever = small.run_async(db, 3, workers=2, transfer=lambda db, transfer: asyncio.sleep(60))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await forever

    asyncio.run(run())
    report = small.check()
    assert (report.cancelled, report.is_right, report.is_exact) == (2, True, False)


def test_runs_add_up_and_the_same_seed_makes_the_same_transfers(tmp_path: Path) -> None:
    seen: list[list[Transfer]] = []
    for name in ("a.db", "b.db"):
        bank = Bank(tmp_path / name, seed=3)
        bank.create()
        seen.append([])
        for _ in range(2):
            bank.run(None, 5, workers=1, transfer=lambda db, transfer: seen[-1].append(transfer))
    assert seen[0] == seen[1]
    assert [transfer.number for transfer in seen[0]] == list(range(1, 11))


def test_a_check_does_not_begin_before_all_is_quiet(small: Bank, file: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(db: Any, transfer: Transfer) -> Any:
        def body(tx: Any) -> Any:
            answer = small.apply(tx, transfer)
            began.set()
            go_on.wait(10)
            return answer

        return db.run_in_transaction(body)

    with Database(f"sqlite:///{file}") as db:
        worker = threading.Thread(target=small.run, args=(db, 1), kwargs={"workers": 1, "transfer": slow})
        worker.start()
        assert began.wait(10)
        threading.Timer(0.2, go_on.set).start()
        report = small.check()
        worker.join()
    assert bool(report.lost) is False
    assert small._direct.execute("select count(*) from bank_ledger") == [(1,)]


def test_the_table_has_a_line_per_report(small: Bank, file: str) -> None:
    good = checked(small, file, plain("sync", small), count=3)
    table = bank_table({"no fault": good, "doubled": replace(good, doubled=1), "lost": replace(good, unknown=1)})
    lines = table.splitlines()
    assert [line.split()[-1] for line in lines] == ["verdict", "exact", "WRONG", "right"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_misuse_is_refused(tmp_path: Path, postgresql_server: DatabaseServer) -> None:
    with pytest.raises(UsageError, match="two"):
        Bank(tmp_path / "x.db", accounts=1)
    with pytest.raises(UsageError, match="which database"):
        Bank(postgresql_server)
