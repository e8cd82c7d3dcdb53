"""Events, counters, health, leaks and masks of a document database, in both worlds."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient

from prefiq_db import ErrorKind
from prefiq_db.errors import (
    ConnectFailedError,
    PoolTimeoutError,
    PrefiqDbError,
    StatementBudgetError,
    UniqueViolationError,
)
from prefiq_db.events import Listener
from prefiq_db.testing.proxy import TcpProxy
from tests.mongo.scripted_server import CUT_AFTER, SILENT_AFTER, ScriptedServer

CANARY = "c4n4ry"


class Recorder(Listener):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def _keep(self, event: Any) -> None:
        self.events.append(event)

    statement_started = statement_finished = statement_failed = stream_finished = _keep  # type: ignore[assignment]
    call_started = call_finished = attempt_failed = transaction_finished = outcome_resolved = _keep  # type: ignore[assignment]
    connection_opened = connection_lost = connection_checked_out = connection_checked_in = _keep  # type: ignore[assignment]
    pool_timed_out = connection_leaked = connection_unleaked = health_changed = _keep  # type: ignore[assignment]

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def of(self, name: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == name]


async def test_a_call_gives_these_events_in_this_order(db: Any) -> None:
    await db.insert("item", {"sku": "A1"})
    seen = Recorder()
    db.hooks.add(seen)
    await db.using(tags={"route": "/items"}).find("item", {"sku": CANARY, "qty": {"$gt": 1}})
    assert seen.names() == [
        "CallStarted",
        "ConnectionCheckedOut",
        "StatementStarted",
        "StatementFinished",
        "ConnectionCheckedIn",
        "CallFinished",
    ]
    call, finished, ended = seen.events[0], seen.events[3], seen.events[5]
    assert (call.verb, ended.verb, ended.call_id, finished.call_id) == ("find", "find", call.call_id, call.call_id)
    assert (finished.statement, finished.summary, finished.operation, finished.tables) == (
        "find item",
        "find item",
        "find",
        ("item",),
    )
    assert (finished.parameters, finished.batch_size, finished.rows) == ({"filter": "<dict:2>"}, 1, 0)
    assert (finished.database, finished.retry_number, finished.transaction_id) == ("main", 0, None)
    assert dict(finished.tags) == {"route": "/items"}
    assert finished.origin is not None
    assert finished.origin.file == __file__


async def test_a_failed_write_is_a_failed_statement(db: Any) -> None:
    await db.insert("item", {"_id": 1})
    seen = Recorder()
    db.hooks.add(seen)
    with pytest.raises(UniqueViolationError):
        await db.insert("item", {"_id": 1})
    (failed,) = seen.of("StatementFailed")
    assert (failed.kind, failed.code, failed.summary) == (ErrorKind.UNIQUE, 11000, "insert item")
    assert seen.of("CallFinished")[0].kind is ErrorKind.UNIQUE
    stats = db.stats()
    assert (stats.error_count, stats.errors) == (1, {ErrorKind.UNIQUE: 1})


async def test_operators_are_shown_and_fields_are_not(db: Any) -> None:
    await db.open()  # while no server is known, a ping looks for one
    seen = Recorder()
    db.hooks.add(seen)
    await db.update("item", {"secret_field": 1}, {"$set": {"other_field": 2}, "$inc": {"third_field": 1}})
    await db.aggregate("item", [{"$match": {"secret_field": 1}}, {"$group": {"_id": "$other_field"}}])
    assert [event.statement for event in seen.of("StatementFinished")] == [
        "update item [$set, $inc]",
        "aggregate item [$match, $group]",
    ]


async def test_a_stream_tells_its_end(db: Any) -> None:
    await db.insert_many("item", [{"_id": number} for number in range(12)])
    seen = Recorder()
    db.hooks.add(seen)
    async with db.stream("item", batch_size=5) as items:
        assert len([each async for each in items]) == 12
    (ended,) = seen.of("StreamFinished")
    assert (ended.rows, ended.batches, ended.complete, ended.kind) == (12, 3, True, None)
    assert [event.summary for event in seen.of("StatementFinished")] == ["find item", "getMore item", "getMore item"]


async def test_counters_and_budgets_count_commands(db: Any) -> None:
    await db.insert("item", {"_id": 1})
    for _ in range(3):
        await db.find("item")
    stats = db.stats()
    assert stats.statement_count == 5
    assert {each.summary: each.calls for each in stats.statements} == {"ping": 1, "insert item": 1, "find item": 3}
    assert stats.pool.opened_count >= 1
    assert (stats.pool.checked_out, stats.pool.pending) == (0, 0)
    with pytest.raises(StatementBudgetError):
        async with db.expect(max_statements=1):
            await db.find("item")
            await db.count("item")


async def test_a_slow_command_is_logged_without_its_filter(
    mongodb_server: Any, make_db: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    db = make_db(mongodb_server.url(mongodb_server.create_database()), slow_query_seconds=0)
    with caplog.at_level(logging.WARNING, "prefiq_db.slow"):
        await db.find("item", {"sku": CANARY})
    record = next(each for each in caplog.records if "find item" in each.getMessage())
    assert CANARY not in record.getMessage()
    assert db.stats().slow_count >= 1


async def test_a_transaction_that_is_held_too_long_is_reported(
    scripted: ScriptedServer, make_db: Callable[..., Any], harness: Any
) -> None:
    db = make_db(scripted.url, leak_after_seconds=0.05)
    seen = Recorder()
    db.hooks.add(seen)
    async with db.transaction() as tx:
        await tx.insert("item", {"sku": CANARY})

        async def is_reported() -> bool:
            return bool(seen.of("ConnectionLeaked"))

        await harness.until(is_reported)
        assert db.stats().holders
    (leak,) = seen.of("ConnectionLeaked")
    assert leak.origin.file == __file__
    assert len(seen.of("ConnectionUnleaked")) == 1
    assert db.stats().holders == ()


async def test_health_says_why_and_recovers(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    db = make_db(scripted.url, **quick)
    assert (await db.health()).healthy
    assert await db.test_connection()
    assert await db.ping() > 0
    scripted.stop()
    report = await db.health(1.0)  # it may find the dead connection first
    assert (report.healthy, report.kind in (ErrorKind.CONNECT_FAILED, ErrorKind.CONNECTION_LOST)) == (False, True)
    assert (await db.health(1.0)).kind is ErrorKind.CONNECT_FAILED
    assert not await db.using(timeout=1.0).test_connection()
    with pytest.raises(ConnectFailedError) as caught:
        await db.using(timeout=1.0).find("item")
    assert scripted.address in str(caught.value)
    scripted.start()
    assert (await db.health()).healthy


async def test_a_set_without_a_primary_is_only_fit_for_reading(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    scripted.secondary = True
    db = make_db(scripted.url, **quick)
    report = await db.health()
    assert (report.healthy, report.kind) == (False, ErrorKind.READ_ONLY)
    assert (await db.using(read_only=True).health()).healthy


async def test_cut_connections_are_replaced_and_silence_ends(
    db: Any, mongodb_server: Any, make_db: Callable[..., Any], quick: dict[str, Any]
) -> None:
    host, _, port = mongodb_server.base.split("//")[1].split("/")[0].rpartition("@")[2].rpartition(":")
    with TcpProxy(host, int(port)) as proxy:
        name = mongodb_server.create_database()
        behind = make_db(proxy.url(mongodb_server.url(name)), **quick)
        await behind.insert("item", {"_id": 1})
        proxy.cut_all()
        assert await behind.count("item") == 1
        proxy.black_hole()
        with pytest.raises(PrefiqDbError) as caught:
            await behind.using(timeout=0.5).find("item")
        assert caught.value.kind in (ErrorKind.STATEMENT_TIMEOUT, ErrorKind.CONNECT_FAILED)
        proxy.restore()
        assert await behind.count("item") == 1
        await behind.close()


async def test_a_full_pool_is_a_pool_timeout(
    scripted: ScriptedServer, make_db: Callable[..., Any], harness: Any
) -> None:
    db = make_db(scripted.url, pool_size=1, max_overflow=0)
    await db.open()
    seen = Recorder()
    db.hooks.add(seen)
    scripted.on("find", SILENT_AFTER)

    async def hold() -> None:
        with pytest.raises(PrefiqDbError):
            await db.using(timeout=3).find("item")

    async def wait() -> None:
        async def is_held() -> bool:
            return "find" in scripted.names()

        await harness.until(is_held)
        with pytest.raises(PoolTimeoutError):
            await db.using(timeout=0.3).find("item")

    await harness.together(hold, wait)
    assert (len(seen.of("PoolTimedOut")), db.stats().pool.timeout_count, db.stats().pool.checked_out) == (1, 1, 0)


async def test_clear_text_to_another_machine_is_told(
    scripted: ScriptedServer, make_db: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "prefiq_db.connectors"):
        await make_db(scripted.url).open()
        await make_db(scripted.url, ssl_mode="disable").open()
    assert [(each.levelname, "clear text" in each.getMessage()) for each in caplog.records] == [("INFO", True)]


# --- canaries ------------------------------------------------------------------------------------


async def say_everything(db: Any, scripted: ScriptedServer) -> list[PrefiqDbError]:
    """Plant the canary in every place of a call, let each of them fail somehow, and return the errors."""
    errors: list[PrefiqDbError] = []
    scripted.on(
        "insert", {"code": 11000, "codeName": "DuplicateKey", "errmsg": duplicate(), "ok": 1.0, "n": 0} | failed()
    )
    scripted.on("find", {"code": 2, "codeName": "BadValue", "errmsg": f"unknown operator: {CANARY}"})
    scripted.on("aggregate", {"code": 40324, "codeName": "Location40324", "errmsg": f"stage {CANARY}"})
    scripted.on("update", CUT_AFTER, times=100)
    scripted.on("delete", {"code": 13, "codeName": "Unauthorized", "errmsg": f"not for {CANARY}"})
    for call in (
        lambda: db.insert("item", {"sku": CANARY, CANARY: 1}),
        lambda: db.find("item", {CANARY: CANARY}),
        lambda: db.aggregate("item", [{"$match": {CANARY: CANARY}}]),
        lambda: db.using(timeout=0.3).update("item", {"sku": CANARY}, {"$set": {CANARY: CANARY}}),
        lambda: db.delete("item", {"sku": CANARY}),
        lambda: db.insert("item", {"sku": object(), CANARY: CANARY}),
    ):
        try:
            await call()
        except PrefiqDbError as error:
            errors.append(error)
    return errors


def duplicate() -> str:
    return f'E11000 duplicate key error collection: shop.item index: sku_1 dup key: {{ sku: "{CANARY}" }}'


def failed() -> dict[str, Any]:
    error = {"index": 0, "code": 11000, "errmsg": duplicate(), "keyPattern": {"sku": 1}, "keyValue": {"sku": CANARY}}
    return {"writeErrors": [error]}


async def test_nothing_says_a_value(
    scripted: ScriptedServer,
    make_db: Callable[..., Any],
    quick: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Events, logs of ours and of PyMongo at DEBUG, errors, pickles, tracebacks with locals, counters."""
    db = make_db(
        scripted.url.replace("//", f"//user:{CANARY}@") if False else scripted.url, slow_query_seconds=0, **quick
    )
    seen = Recorder()
    db.hooks.add(seen)
    with caplog.at_level(logging.DEBUG):
        errors = await say_everything(db, scripted)
        await db.close()
    assert len(errors) == 6
    said = [repr(seen.events), repr(db.stats()), *(f"{each.getMessage()} {each.__dict__}" for each in caplog.records)]
    for error in errors:
        with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
        of_ours = [line for line in with_locals.format() if "/tests/" not in line]
        said += [str(error), repr(error), repr(pickle.loads(pickle.dumps(error)).__dict__), "".join(of_ours)]
    assert [text[:300] for text in said if CANARY in text] == []
    assert any("pymongo.command" in each.name for each in caplog.records), "PyMongo's own logs were on"


async def test_control_the_canary_is_in_what_pymongo_says(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without our filter its log quotes the filter of a query."""
    from pymongo import MongoClient

    logger = logging.getLogger("pymongo.command")
    filters, logger.filters = logger.filters, []
    client: MongoClient[dict[str, Any]] = MongoClient(scripted.url)
    try:
        with caplog.at_level(logging.DEBUG), client:
            client.shop.item.find_one({"sku": CANARY})
    finally:
        logger.filters = filters
    assert any(CANARY in each.getMessage() for each in caplog.records)
