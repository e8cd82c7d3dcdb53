"""Work that was half done when something failed: never done twice, never committed by halves, never told as undone.

A bulk is several commands; an error of the second says nothing about the first. The server is scripted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import DeleteMany, UpdateMany

from prefiq_db import ErrorKind
from prefiq_db.errors import NotCommittedError, OutcomeUnknownError, PrefiqDbError, UniqueViolationError
from prefiq_db.events import Listener, StatementFailed, StatementFinished, StatementStarted
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase, asking, mongo_calls
from prefiq_db.mongo.session_block import SessionScope
from tests.mongo.scripted_server import CUT, ScriptedServer
from tests.twins.harness import make_harness

CANARY = "c4n4ry"
DONE = {"n": 1, "nModified": 1, "ok": 1.0}
NOT_PRIMARY = {"code": 10107, "codeName": "NotWritablePrimary", "errmsg": CANARY}
NOTHING_DONE = {"code": 91, "codeName": "ShutdownInProgress", "errmsg": CANARY, "errorLabels": ["NoWritesPerformed"]}
CONFLICT = {"code": 112, "codeName": "WriteConflict", "errmsg": CANARY}
RAISE_AND_CLEAR = [UpdateMany({}, {"$inc": {"qty": 1}}), DeleteMany({"qty": 0})]


def counted(server: ScriptedServer, name: str) -> int:
    return server.names().count(name)


@pytest.mark.parametrize(
    "refused", [NOT_PRIMARY, NOTHING_DONE, CONFLICT], ids=["not primary", "nothing done", "conflict"]
)
async def test_a_bulk_whose_second_command_is_refused_is_not_sent_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], refused: dict[str, Any]
) -> None:
    scripted.on("update", DONE, times=99)
    scripted.on("delete", refused)
    db = make_db(scripted.url, **quick)
    with pytest.raises(OutcomeUnknownError):
        await db.bulk_write("item", RAISE_AND_CLEAR)
    assert counted(scripted, "update") == 1
    assert db.stats().unknown_outcome_count == 1


async def test_a_bulk_whose_first_command_is_refused_is_sent_again(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    scripted.on("update", NOT_PRIMARY)
    scripted.on("update", DONE, times=99)
    scripted.on("delete", DONE, times=99)
    db = make_db(scripted.url, **quick)
    assert (await db.bulk_write("item", RAISE_AND_CLEAR)).modified == 1
    assert (counted(scripted, "update"), counted(scripted, "delete")) == (2, 1)


async def test_a_bulk_that_is_cut_at_its_second_command_is_unknown(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    scripted.on("update", DONE, times=99)
    scripted.on("delete", CUT)
    db = make_db(scripted.url, **quick)
    with pytest.raises(OutcomeUnknownError):
        await db.bulk_write("item", RAISE_AND_CLEAR)
    assert counted(scripted, "update") == 1


async def test_the_servers_own_word_about_a_bulk_stays_what_it_is(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    """A duplicate key tells how far the bulk came, so nothing about it is unknown; and it names no value."""
    scripted.on("update", DONE, times=99)
    duplicate = {
        "index": 0,
        "code": 11000,
        "errmsg": f'E11000 duplicate key error collection: shop.item index: sku_1 dup key: {{ sku: "{CANARY}" }}',
        "keyPattern": {"sku": 1},
        "keyValue": {"sku": CANARY},
    }
    scripted.on("delete", {"n": 0, "ok": 1.0, "writeErrors": [duplicate]})
    db = make_db(scripted.url, **quick)
    heard: list[Any] = []

    class Hears(Listener):
        def statement_failed(self, event: StatementFailed) -> None:
            heard.append(event)

    db.hooks.add(Hears())
    with pytest.raises(UniqueViolationError) as caught:
        await db.bulk_write("item", RAISE_AND_CLEAR)
    error = caught.value
    assert (error.table, error.column, error.statement_index) == ("item", "sku", 1)
    assert CANARY not in f"{error} {error!r} {heard}"
    assert [each.kind for each in heard] == [ErrorKind.UNIQUE]
    assert counted(scripted, "update") == 1


@pytest.mark.parametrize("write", ["insert", "insert_many", "update", "upsert", "bulk_write"])
async def test_a_write_that_too_few_copies_confirm_is_counted_once(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], write: str
) -> None:
    concern = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": CANARY, "errInfo": {"wtimeout": True}}
    for name in ("insert", "update"):
        scripted.on(name, {**DONE, "writeConcernError": concern}, times=9)
    db = make_db(scripted.url, **quick)
    calls = {
        "insert": lambda: db.insert("item", {"sku": 1}),
        "insert_many": lambda: db.insert_many("item", [{"sku": 1}, {"sku": 2}], ordered=False),
        "update": lambda: db.update("item", {}, {"$inc": {"qty": 1}}),
        "upsert": lambda: db.upsert("item", {"sku": 1, "qty": 2}, key="sku"),
        "bulk_write": lambda: db.bulk_write("item", RAISE_AND_CLEAR[:1]),
    }
    with pytest.raises(OutcomeUnknownError) as caught:
        await calls[write]()
    assert CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    assert db.stats().unknown_outcome_count == 1
    assert counted(scripted, "insert") + counted(scripted, "update") == 1


async def test_a_transaction_reads_from_the_primary_whatever_the_url_prefers(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(f"{scripted.url}&readPreference=secondaryPreferred", **quick)
    async with db.transaction() as tx:
        await tx.insert("item", {"_id": 1})
        assert await tx.find("item") == []  # the model keeps what isn't committed apart
    assert scripted.count("item") == 1


async def test_control_an_error_that_is_judged_alone_does_a_bulk_twice(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_calls, "may_write_again", lambda error, told: error.code in asking._NOT_STARTED)
    monkeypatch.setattr(mongo_calls, "fate_unknown", lambda error, told: False)
    scripted.on("update", DONE, times=99)
    scripted.on("delete", NOT_PRIMARY)
    scripted.on("delete", DONE, times=99)
    db = make_db(scripted.url, **quick)
    await db.bulk_write("item", RAISE_AND_CLEAR)
    assert counted(scripted, "update") == 2


# --- a statement that was interrupted ---------------------------------------------------------------


async def came(server: ScriptedServer, name: str, times: int) -> None:
    async def has_come() -> bool:
        return counted(server, name) >= times

    await make_harness("async").until(has_come)


async def test_a_cancelled_statement_that_is_swallowed_commits_nothing(scripted: ScriptedServer) -> None:
    async with AsyncMongoDatabase(scripted.url) as db:
        scripted.on("insert", "silent after", skip=1)
        seen: list[Any] = []

        async def pay() -> None:
            async with db.transaction() as tx:
                seen.append(tx)
                await tx.insert("item", {"_id": 1})
                task = asyncio.ensure_future(tx.insert("item", {"_id": 2}))
                await came(scripted, "insert", 2)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        with pytest.raises(NotCommittedError):
            await pay()
        assert (seen[0].outcome, scripted.count("item")) == ("not committed", 0)
        assert "commitTransaction" not in scripted.names()


async def test_control_without_the_doubt_half_of_the_work_is_committed(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionScope, "doubt", lambda self: None)
    async with AsyncMongoDatabase(scripted.url) as db:
        scripted.on("insert", "silent after")
        async with db.transaction() as tx:
            task = asyncio.ensure_future(tx.insert("item", {"_id": 1}))
            await came(scripted, "insert", 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert "commitTransaction" in scripted.names()


class _Interruption(BaseException):
    pass


def test_an_interrupted_statement_that_is_swallowed_commits_nothing(scripted: ScriptedServer) -> None:
    def interrupt(*_: object) -> None:
        raise _Interruption

    def when_it_came() -> None:
        while counted(scripted, "insert") < 2:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with MongoDatabase(scripted.url) as db:
            scripted.on("insert", "silent after", skip=1)
            helper = threading.Thread(target=when_it_came)
            helper.start()
            begun = []
            with pytest.raises(NotCommittedError), db.transaction() as tx:
                begun.append(tx)
                tx.insert("item", {"_id": 1})
                with pytest.raises(_Interruption):
                    tx.insert("item", {"_id": 2})
            helper.join()
            assert (begun[0].outcome, scripted.count("item")) == ("not committed", 0)
            assert "commitTransaction" not in scripted.names()
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- a database that is closed meanwhile ------------------------------------------------------------


async def test_a_transaction_whose_database_is_closed_ends_with_our_error(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    await db.open()
    begun = []
    with pytest.raises(NotCommittedError):
        async with db.transaction() as tx:
            begun.append(tx)
            await tx.insert("item", {"_id": 1})
            await db.close()
    assert (begun[0].outcome, scripted.count("item")) == ("not committed", 0)
    assert db.stats().unknown_outcome_count == 0


async def test_a_commit_that_never_left_this_process_is_not_unknown(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    """The primary steps down before COMMIT, and there is no other one."""
    url = f"mongodb://{scripted.address}/shop?replicaSet=rs0"
    db = make_db(url, **{**quick, "statement_timeout_seconds": 1.5, "retry": {**quick["retry"], "attempts": 2}})
    await db.open()
    begun = []
    with pytest.raises(NotCommittedError):
        async with db.transaction() as tx:
            begun.append(tx)
            await tx.insert("item", {"_id": 1})
            scripted.secondary = True
            scripted.on("ping", NOT_PRIMARY)
            assert not await db.test_connection()  # PyMongo has noticed
    assert (begun[0].outcome, scripted.count("item")) == ("not committed", 0)
    assert "commitTransaction" not in scripted.names()
    assert db.stats().unknown_outcome_count == 0


async def test_a_stream_whose_database_is_closed_ends_with_our_error(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    first = {"cursor": {"id": 7, "ns": "shop.item", "firstBatch": [{"_id": 1}]}, "ok": 1.0}
    scripted.on("find", first, times=9)
    db = make_db(scripted.url, **quick)
    await db.open()
    with pytest.raises(PrefiqDbError):
        async with db.stream("item", batch_size=1) as rows:
            await db.close()
            async for _ in rows:
                pass


# --- what listeners start ---------------------------------------------------------------------------


async def test_a_task_that_a_listener_starts_is_no_part_of_the_call(scripted: ScriptedServer) -> None:
    """It inherits the context; its own commands must not be counted as sent by the call, nor end the call's."""
    async with AsyncMongoDatabase(scripted.url) as db:
        started: list[asyncio.Task[Any]] = []
        finished: list[StatementFinished] = []

        class Starts(Listener):
            def statement_started(self, event: StatementStarted) -> None:
                if event.operation == "find" and not started:
                    started.append(asyncio.ensure_future(db.client.shop.other.count_documents({})))

            def statement_finished(self, event: StatementFinished) -> None:
                finished.append(event)

        scripted.on("aggregate", {"cursor": {"id": 0, "ns": "shop.other", "firstBatch": [{"n": 1}]}, "ok": 1.0})
        db.hooks.add(Starts())
        await db.find("item")
        await asyncio.gather(*started)
        by_call = {event.operation: event.call_id for event in finished}
        assert by_call["find"] is not None
        assert by_call["aggregate"] is None
        assert {event.retry_number for event in finished} == {0}
        assert db.stats().pool.checked_out == 0
