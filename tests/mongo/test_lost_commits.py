"""A COMMIT whose reply is lost is repeated as a COMMIT; a transient label repeats the body; neither doubles a write.

The server is scripted: it answers as MongoDB's specifications say, see ``scripted_server.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from prefiq_db import ErrorKind
from prefiq_db.errors import (
    OutcomeUnknownError,
    PrefiqDbError,
    TransactionAbortedError,
    UnsupportedError,
)
from prefiq_db.events import AttemptFailed, Listener, TransactionFinished
from tests.mongo.scripted_server import CUT, CUT_AFTER, SILENT_AFTER, ScriptedServer

UNKNOWN = {"code": 91, "codeName": "ShutdownInProgress", "errmsg": "c4n4ry", "errorLabels": ["RetryableWriteError"]}
DOUBTFUL = {**UNKNOWN, "errorLabels": ["UnknownTransactionCommitResult"]}
TRANSIENT = {
    "code": 112,
    "codeName": "WriteConflict",
    "errmsg": "c4n4ry",
    "errorLabels": ["TransientTransactionError"],
}


async def pay(tx: Any, runs: list[int]) -> str:
    runs.append(len(runs) + 1)
    await tx.insert("payment", {"amount": 5})
    return "paid"


@pytest.mark.parametrize(
    "does",
    [CUT, CUT_AFTER, UNKNOWN, {"code": 50, "codeName": "MaxTimeMSExpired", "errmsg": "c4n4ry"}],
    ids=["never came", "lost reply", "shutdown", "too late"],
)
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
async def test_a_commit_without_an_answer_is_repeated_and_the_body_is_not(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], does: Any, after: bool
) -> None:
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    rule = scripted.on("commitTransaction", does, after=after)
    assert await db.run_in_transaction(pay, runs) == "paid"
    assert (runs, scripted.count("payment"), rule.hits) == ([1], 1, 1)
    assert scripted.names().count("commitTransaction") == 2
    assert db.stats().unknown_outcome_count == 0


async def test_a_commit_that_is_never_answered_is_unknown_and_nothing_runs_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    outcomes: list[str] = []
    listen(db, outcomes)
    scripted.on(
        "commitTransaction", {**UNKNOWN, "errorLabels": ["UnknownTransactionCommitResult"]}, times=1000, after=True
    )
    with pytest.raises(OutcomeUnknownError) as caught:
        await db.run_in_transaction(pay, runs)
    assert (runs, scripted.count("payment"), outcomes) == ([1], 1, ["unknown"])
    assert scripted.names().count("commitTransaction") == 4  # the policy's attempts
    assert not caught.value.classification.retry_transaction
    assert "c4n4ry" not in str(caught.value)
    assert db.stats().unknown_outcome_count == 1


async def test_another_error_of_the_second_commit_is_no_answer_to_the_first(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    """It was carried out; that the next one is refused says nothing about it."""
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    scripted.on("commitTransaction", DOUBTFUL, after=True)
    scripted.on("commitTransaction", {"code": 13, "codeName": "Unauthorized", "errmsg": "no"}, times=1000)
    with pytest.raises(OutcomeUnknownError):
        await db.run_in_transaction(pay, runs)
    assert (runs, scripted.count("payment")) == ([1], 1)


@pytest.mark.parametrize("code", [79, 100], ids=["no such concern", "too few members"])
async def test_a_commit_that_can_never_be_confirmed_is_not_repeated(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], code: int
) -> None:
    """It is carried out, and repeating it would not confirm it either: the specification says to leave it."""
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    concern = {"code": code, "errmsg": "c4n4ry"}
    scripted.on("commitTransaction", {"ok": 1.0, "writeConcernError": concern}, times=1000, after=True)
    with pytest.raises(OutcomeUnknownError) as caught:
        await db.run_in_transaction(pay, runs)
    assert (runs, scripted.names().count("commitTransaction"), scripted.count("payment")) == ([1], 1, 1)
    assert caught.value.code == code


async def test_a_read_that_the_servers_own_limit_ended_is_sent_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    """ExceededTimeLimit (262); MaxTimeMSExpired (50) is the caller's limit, and ends the call."""
    db = make_db(scripted.url, **quick)
    scripted.on("find", {"code": 262, "codeName": "ExceededTimeLimit", "errmsg": "c4n4ry"})
    assert await db.find("payment") == []
    scripted.on("find", {"code": 50, "codeName": "MaxTimeMSExpired", "errmsg": "c4n4ry"})
    with pytest.raises(PrefiqDbError) as caught:
        await db.find("payment")
    assert (caught.value.kind, scripted.names().count("find")) == (ErrorKind.STATEMENT_TIMEOUT, 3)


async def test_a_commit_that_the_server_refuses_is_not_committed(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    undone: list[str] = []
    scripted.on("commitTransaction", {"code": 13, "codeName": "Unauthorized", "errmsg": "no"})
    with pytest.raises(PrefiqDbError) as caught:
        async with db.transaction() as tx:
            tx.on_rollback(lambda: undone.append("undone"))
            await tx.insert("payment", {"amount": 5})
    assert caught.value.kind is ErrorKind.PERMISSION
    assert (tx.outcome, undone, scripted.count("payment")) == ("not committed", ["undone"], 0)


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
async def test_a_transient_label_runs_the_whole_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], command: str
) -> None:
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    scripted.on(command, TRANSIENT, times=2)
    assert await db.run_in_transaction(pay, runs) == "paid"
    assert (runs, scripted.count("payment")) == ([1, 2, 3], 1)
    assert db.stats().retries == {ErrorKind.SERIALIZATION: 2}


async def test_a_lost_connection_in_the_body_runs_the_whole_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    scripted.on("insert", CUT_AFTER)
    assert await db.run_in_transaction(pay, runs) == "paid"
    assert (runs, scripted.count("payment")) == ([1, 2], 1)


async def test_a_server_that_is_gone_for_a_while_runs_the_whole_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick | {"connect_timeout_seconds": 1.0})
    runs: list[int] = []
    failures: list[AttemptFailed] = []

    class ComesBack(Listener):
        def attempt_failed(self, event: AttemptFailed) -> None:
            failures.append(event)
            if len(failures) == 2:  # the statement found it gone, and so did the next begin
                scripted.start()

    async def pay_twice(tx: Any) -> None:
        runs.append(1)
        await tx.insert("payment", {"amount": 1})
        if len(runs) == 1:
            scripted.stop()
        await tx.insert("payment", {"amount": 2})

    db.hooks.add(ComesBack())
    await db.run_in_transaction(pay_twice)
    assert (len(runs), scripted.count("payment"), len(failures)) == (2, 2, 2)


async def test_an_error_without_the_label_runs_nothing_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    runs: list[int] = []
    scripted.on("insert", {"code": 24, "codeName": "LockTimeout", "errmsg": "c4n4ry"})
    with pytest.raises(PrefiqDbError) as caught:
        await db.run_in_transaction(pay, runs)
    assert (runs, caught.value.kind, scripted.count("payment")) == ([1], ErrorKind.LOCK_TIMEOUT, 0)


async def test_the_block_form_repeats_the_commit_too(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    done: list[str] = []
    scripted.on("commitTransaction", CUT_AFTER)
    async with db.transaction() as tx:
        tx.on_commit(lambda: done.append("done"))
        await db.insert("payment", {"amount": 5})  # the database's own verb joins it
    assert (tx.outcome, done, scripted.count("payment")) == ("committed", ["done"], 1)


async def test_a_loop_of_attempts_runs_the_block_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    scripted.on("commitTransaction", TRANSIENT)
    numbers = []
    for attempt in db.attempts():
        async with attempt as tx:
            numbers.append(attempt.number)
            await tx.insert("payment", {"amount": 5})
    assert (numbers, scripted.count("payment")) == ([1, 2], 1)


async def test_a_swallowed_error_aborts_the_transaction(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    scripted.on("insert", {"code": 2, "codeName": "BadValue", "errmsg": "c4n4ry"})
    with pytest.raises(TransactionAbortedError):
        async with db.transaction() as tx:
            with contextlib.suppress(PrefiqDbError):
                await tx.insert("payment", {"amount": 1})
    assert (tx.outcome, scripted.count("payment")) == ("not committed", 0)


async def test_an_exception_rolls_back(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    with pytest.raises(KeyError):
        async with db.transaction() as tx:
            await tx.insert("payment", {"amount": 1})
            raise KeyError("mine")
    assert (tx.outcome, scripted.count("payment")) == ("not committed", 0)
    assert "abortTransaction" in scripted.names()


async def test_there_are_no_savepoints(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    async with db.transaction():
        with pytest.raises(UnsupportedError, match="no savepoints"):
            db.transaction()
        await db.insert("payment", {"amount": 1})
    assert scripted.count("payment") == 1


async def test_a_server_that_stands_alone_has_no_transactions(make_db: Callable[..., Any]) -> None:
    with ScriptedServer(stands_alone=True) as server:
        db = make_db(server.url)
        with pytest.raises(UnsupportedError, match="replica set"):
            async with db.transaction():
                raise AssertionError("it began")
        with pytest.raises(UnsupportedError, match="replica set"):
            await db.run_in_transaction(pay, [])
        assert set(server.names()) <= {"ping", "endSessions"}
        await db.close()


# --- single writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("does", [CUT, CUT_AFTER])
async def test_a_write_whose_reply_is_lost_is_written_once(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], does: str
) -> None:
    """PyMongo sends it again under its number, and the server knows that."""
    db = make_db(scripted.url, **quick)
    await db.open()
    numbers: list[int] = []
    db.hooks.before(lambda event: numbers.append(event.retry_number))
    scripted.on("insert", does)
    await db.insert("payment", {"amount": 5})
    assert (scripted.count("payment"), scripted.names().count("insert"), numbers) == (1, 2, [0, 1])


@pytest.mark.parametrize("does", [CUT, CUT_AFTER])
async def test_a_write_without_a_number_is_never_repeated_on_a_guess(
    make_db: Callable[..., Any], quick: dict[str, Any], does: str
) -> None:
    with ScriptedServer(stands_alone=True) as server:
        db = make_db(server.url, **quick)
        server.on("insert", does)
        with pytest.raises(OutcomeUnknownError):
            await db.insert("payment", {"amount": 5})
        assert server.names().count("insert") == 1
        assert db.stats().unknown_outcome_count == 1
        server.on("insert", does)
        await db.using(idempotent=True).insert("payment", {"_id": "p1", "amount": 5})
        assert server.names().count("insert") == 3
        await db.close()


async def test_a_read_whose_reply_is_lost_is_sent_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    await db.insert("payment", {"_id": 1})
    scripted.on("find", CUT_AFTER, times=2)
    assert await db.find("payment") == [{"_id": 1}]
    assert scripted.names().count("find") == 3
    assert db.stats().retry_count == 2


async def test_a_write_that_was_refused_unread_is_sent_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    """The primary has stepped down, and another one, here the same, is found."""
    db = make_db(scripted.url.replace("directConnection=true", "directConnection=true&retryWrites=false"), **quick)
    scripted.on("insert", {"code": 10107, "codeName": "NotWritablePrimary", "errmsg": "not primary"})
    await db.insert("payment", {"amount": 5})
    assert scripted.count("payment") == 1


async def test_a_write_that_was_stopped_in_the_middle_is_unknown(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url.replace("directConnection=true", "directConnection=true&retryWrites=false"), **quick)
    scripted.on("insert", {"code": 11602, "codeName": "InterruptedDueToReplStateChange", "errmsg": "c4n4ry"})
    with pytest.raises(OutcomeUnknownError):
        await db.insert("payment", {"amount": 5})
    assert scripted.names().count("insert") == 1


async def test_a_write_that_too_few_copies_confirm_is_unknown(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    unconfirmed = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "c4n4ry"}
    scripted.on("insert", {"ok": 1.0, "n": 1, "writeConcernError": unconfirmed}, after=True)
    with pytest.raises(OutcomeUnknownError) as caught:
        await db.insert("payment", {"amount": 5})
    assert (caught.value.code, scripted.names().count("insert"), scripted.count("payment")) == (64, 1, 1)


async def test_silence_ends_with_the_time_limit(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    scripted.on("find", SILENT_AFTER)
    with pytest.raises(PrefiqDbError) as caught:
        await db.using(timeout=0.3).find("payment")
    assert caught.value.kind is ErrorKind.STATEMENT_TIMEOUT
    scripted.stop()
    scripted.start()  # what was silent is gone
    assert await db.find("payment") == []


# --- the control ---------------------------------------------------------------------------------


@pytest.mark.parametrize("does", [CUT_AFTER])
def test_control_whoever_runs_the_body_again_after_a_lost_commit_pays_twice(
    scripted: ScriptedServer, does: str
) -> None:
    """What the others must not do: any error means "run it again"."""
    client: MongoClient[dict[str, Any]] = MongoClient(scripted.url, retryWrites=False)
    scripted.on("commitTransaction", CUT_AFTER, times=2)  # PyMongo repeats a COMMIT once by itself
    with client, client.start_session() as session:
        while True:
            try:
                session.start_transaction()
                client.shop.payment.insert_one({"amount": 5}, session=session)
                session.commit_transaction()
                break
            except PyMongoError:
                continue
    assert scripted.count("payment") == 2


def test_control_whoever_repeats_an_insert_after_a_lost_reply_writes_twice(scripted: ScriptedServer) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(scripted.url, retryWrites=False)
    scripted.on("insert", CUT_AFTER)
    with client:
        while True:
            try:
                client.shop.payment.insert_one({"amount": 5})
                break
            except PyMongoError:
                continue
    assert scripted.count("payment") == 2


def listen(db: Any, outcomes: list[str]) -> None:
    class Outcomes(Listener):
        def transaction_finished(self, event: TransactionFinished) -> None:
            outcomes.append(event.outcome)

    db.hooks.add(Outcomes())
