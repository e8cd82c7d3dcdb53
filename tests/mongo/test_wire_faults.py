"""Faults at chosen messages between PyMongo and its server, in both worlds: what is told is what happened.

The proxy stands before the scripted primary, and before the server of the documents' tests, which may be the stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from prefiq_db import ErrorKind
from prefiq_db.errors import OutcomeUnknownError, PrefiqDbError
from prefiq_db.testing.faults import (
    COMMIT,
    STATEMENT,
    BlackHole,
    CutReply,
    CutRequest,
    Delay,
    DeliverLate,
    Fault,
    FaultProxy,
    Message,
    Reset,
    Slice,
)
from tests.mongo.scripted_server import ScriptedServer

#: The message doesn't reach the server, or not whole.
NEVER_ARRIVES = (CutRequest(), CutRequest(polite=True), CutRequest(after_bytes=20))
#: It does, and the client doesn't hear of it, or not in whole.
REPLY_LOST = (CutReply(), CutReply(polite=True), CutReply(after_bytes=20))
CUTS = (*NEVER_ARRIVES, *REPLY_LOST, Reset())


def writes(message: Message) -> bool:
    return message.command == "insert"


@pytest.fixture
def proxy(scripted: ScriptedServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", scripted.port, "mongodb") as proxy:
        yield proxy


@pytest.fixture
def behind(scripted: ScriptedServer, proxy: FaultProxy, make_db: Callable[..., Any], quick: dict[str, Any]) -> Any:
    """A database behind the proxy, before a primary of a replica set."""
    return make_db(proxy.url(scripted.url), **quick)


@pytest.fixture
def alone(mongodb_server: Any) -> Iterator[FaultProxy]:
    """A proxy before the server of the documents' tests."""
    parts = urlsplit(mongodb_server.base)
    with FaultProxy(parts.hostname or "", parts.port or 27017, "mongodb") as proxy:
        yield proxy


async def pay(tx: Any, runs: list[int]) -> None:
    runs.append(1)
    await tx.insert("payment", {"amount": 5})


# --- a primary of a set --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", CUTS, ids=str)
async def test_a_commit_that_is_cut_is_sent_again_and_commits_once(
    scripted: ScriptedServer, proxy: FaultProxy, behind: Any, fault: Fault
) -> None:
    runs: list[int] = []
    await behind.open()
    with proxy.fault(fault, on=COMMIT, times=1) as plan:
        await behind.run_in_transaction(pay, runs)
    assert (plan.hits, runs, scripted.count("payment")) == (1, [1], 1)
    assert behind.stats().unknown_outcome_count == 0


async def test_a_late_commit_and_the_one_that_is_sent_again_commit_once(
    scripted: ScriptedServer, proxy: FaultProxy, behind: Any
) -> None:
    """The client is cut, and the message reaches the server later, after the repetition or before it."""
    runs: list[int] = []
    await behind.open()
    with proxy.fault(DeliverLate(0.2), on=COMMIT, times=1):
        await behind.run_in_transaction(pay, runs)
    proxy.wait()
    assert scripted.names().count("commitTransaction") == 2
    assert (runs, scripted.count("payment")) == ([1], 1)


async def test_a_commit_into_a_black_hole_is_unknown_and_nothing_runs_again(
    scripted: ScriptedServer, proxy: FaultProxy, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(proxy.url(scripted.url), **quick | {"statement_timeout_seconds": 0.5, "connect_timeout_seconds": 0.5})
    runs: list[int] = []
    await db.open()
    with proxy.fault(BlackHole(delivered=True), on=COMMIT), pytest.raises(OutcomeUnknownError):
        await db.run_in_transaction(pay, runs)
    proxy.restore()
    assert (runs, scripted.count("payment")) == ([1], 1)
    assert await db.find("payment")


@pytest.mark.parametrize("fault", CUTS, ids=str)
async def test_a_write_that_is_cut_is_written_once(
    scripted: ScriptedServer, proxy: FaultProxy, behind: Any, fault: Fault
) -> None:
    await behind.open()
    with proxy.fault(fault, on=writes, times=1) as plan:
        await behind.insert("payment", {"amount": 5})
    assert (plan.hits, scripted.count("payment")) == (1, 1)


@pytest.mark.parametrize("fault", CUTS, ids=str)
async def test_a_cut_in_the_body_runs_the_whole_again(
    scripted: ScriptedServer, proxy: FaultProxy, behind: Any, fault: Fault
) -> None:
    runs: list[int] = []
    await behind.open()
    with proxy.fault(fault, on=writes, times=1):
        await behind.run_in_transaction(pay, runs)
    assert (runs, scripted.count("payment")) == ([1, 1], 1)


@pytest.mark.parametrize("fault", [Delay(request_seconds=0.05), Delay(reply_seconds=0.05), Slice(7)], ids=str)
async def test_what_is_late_or_in_pieces_is_no_failure(
    scripted: ScriptedServer, proxy: FaultProxy, behind: Any, fault: Fault
) -> None:
    await behind.open()
    with proxy.fault(fault, on=STATEMENT) as plan:
        await behind.insert("payment", {"_id": 1})
        assert await behind.find("payment") == [{"_id": 1}]
    assert (plan.hits, behind.stats().retry_count, scripted.names().count("insert")) == (2, 0, 1)


# --- the server of the documents' tests: the stand-in stands alone ---------------------------------


@pytest.mark.parametrize("fault", CUTS, ids=str)
async def test_a_read_that_is_cut_is_sent_again(
    mongodb_server: Any, alone: FaultProxy, make_db: Callable[..., Any], quick: dict[str, Any], fault: Fault
) -> None:
    db = make_db(alone.url(mongodb_server.url(mongodb_server.create_database())), **quick)
    await db.insert("item", {"_id": 1})
    with alone.fault(fault, on=STATEMENT, times=1) as plan:
        assert await db.find("item") == [{"_id": 1}]
    assert (plan.hits, db.stats().retry_count) == (1, 1)


@pytest.mark.parametrize("fault", [*CUTS, DeliverLate(0.1)], ids=str)
async def test_a_write_that_is_cut_is_told_as_unknown_or_written_once(
    mongodb_server: Any, alone: FaultProxy, make_db: Callable[..., Any], quick: dict[str, Any], fault: Fault
) -> None:
    """A server that stands alone knows no numbers, so nobody may send the write again."""
    db = make_db(alone.url(mongodb_server.url(mongodb_server.create_database())), **quick)
    await db.open()
    with alone.fault(fault, on=writes, times=1):
        if mongodb_server.is_real:
            await db.insert("item", {"sku": "A1"})
        else:
            with pytest.raises(OutcomeUnknownError):
                await db.insert("item", {"sku": "A1"})
    alone.wait()
    expected = 0 if fault in NEVER_ARRIVES and not mongodb_server.is_real else 1
    assert await db.count("item") in ({0, 1} if isinstance(fault, Reset) else {expected})


async def test_silence_ends_with_the_time_limit_and_then_it_works_again(
    mongodb_server: Any, alone: FaultProxy, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(alone.url(mongodb_server.url(mongodb_server.create_database())), **quick)
    await db.insert("item", {"_id": 1})
    with alone.fault(BlackHole(), on=STATEMENT, times=1), pytest.raises(PrefiqDbError) as caught:
        await db.using(timeout=0.5).find("item")
    assert caught.value.kind in (ErrorKind.STATEMENT_TIMEOUT, ErrorKind.CONNECT_FAILED)
    alone.restore()
    assert await db.count("item") == 1
    assert db.stats().pool.checked_out == 0


# --- controls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", REPLY_LOST, ids=str)
def test_control_whoever_runs_the_body_again_after_a_lost_commit_pays_twice(
    scripted: ScriptedServer, proxy: FaultProxy, fault: Fault
) -> None:
    """What the others must not do: any error means "run it again"."""
    client: MongoClient[dict[str, Any]] = MongoClient(proxy.url(scripted.url))
    with client, proxy.fault(fault, on=COMMIT, times=2):  # PyMongo repeats a COMMIT once by itself
        while True:
            with client.start_session() as session:
                try:
                    session.start_transaction()
                    client.shop.payment.insert_one({"amount": 5}, session=session)
                    session.commit_transaction()
                    break
                except PyMongoError:
                    continue
    assert scripted.count("payment") == 2


def test_control_whoever_repeats_an_insert_after_a_lost_reply_writes_twice(
    scripted: ScriptedServer, proxy: FaultProxy
) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(proxy.url(scripted.url), retryWrites=False)
    with client, proxy.fault(CutReply(), on=writes, times=1):
        while True:
            try:
                client.shop.payment.insert_one({"amount": 5})
                break
            except PyMongoError:
                continue
    assert scripted.count("payment") == 2
