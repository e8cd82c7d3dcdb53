"""Who may use a transaction, what a cancellation leaves, and that the twins stay twins. The server is scripted."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import ErrorKind
from prefiq_db.errors import (
    ClosedError,
    ForkError,
    PrefiqDbError,
    ReadOnlyError,
    TransactionOwnershipError,
    UnsupportedError,
)
from prefiq_db.mongo import (
    AsyncMongoDatabase,
    AsyncMongoTransaction,
    MongoDatabase,
    MongoTransaction,
)
from tests.mongo.scripted_server import ScriptedServer
from tests.twins.harness import make_harness


async def test_the_databases_own_verbs_join_the_transaction(
    scripted: ScriptedServer, make_db: Callable[..., Any]
) -> None:
    db = make_db(scripted.url)
    async with db.transaction() as tx:
        await db.insert("item", {"_id": 1})
        await tx.insert("item", {"_id": 2})
        assert scripted.count("item") == 0
    assert (tx.outcome, scripted.count("item")) == ("committed", 2)
    with pytest.raises(ClosedError):
        await tx.insert("item", {"_id": 3})
    numbers = {each.transaction for each in scripted.seen if each.name in ("insert", "commitTransaction")}
    assert len(numbers) == 1


async def test_another_task_may_not_use_what_it_inherited(scripted: ScriptedServer) -> None:
    async with AsyncMongoDatabase(scripted.url) as db:
        with pytest.raises(TransactionOwnershipError):
            async with db.transaction():
                await asyncio.gather(db.insert("item", {"_id": 1}), db.insert("item", {"_id": 2}))
        assert scripted.count("item") == 0


async def test_an_adopted_transaction_may_be_used_elsewhere(scripted: ScriptedServer) -> None:
    async with AsyncMongoDatabase(scripted.url) as db:

        async def elsewhere(tx: AsyncMongoTransaction) -> None:
            with tx.bind():
                await db.insert("item", {"_id": 1})

        async with db.transaction() as tx:
            await asyncio.create_task(elsewhere(tx))
        assert scripted.count("item") == 1


def test_threads_have_transactions_of_their_own(scripted: ScriptedServer) -> None:
    with MongoDatabase(scripted.url) as db, db.transaction():
        thread = threading.Thread(target=lambda: db.insert("item", {"_id": 1}))
        thread.start()
        thread.join()
        assert scripted.count("item") == 1


async def test_a_read_only_transaction_refuses_writes(scripted: ScriptedServer, make_db: Callable[..., Any]) -> None:
    db = make_db(scripted.url)
    async with db.transaction(read_only=True) as tx:
        assert await tx.find("item") == []
        with pytest.raises(ReadOnlyError):
            await tx.insert("item", {"_id": 1})
    assert scripted.count("item") == 0


async def test_a_word_of_sql_names_the_document_verb(scripted: ScriptedServer, make_db: Callable[..., Any]) -> None:
    async with make_db(scripted.url).transaction() as tx:
        with pytest.raises(UnsupportedError, match="insert"):
            tx.execute("delete from item")


async def test_an_isolation_level_is_refused(scripted: ScriptedServer, make_db: Callable[..., Any]) -> None:
    db = make_db(scripted.url)
    with pytest.raises(UnsupportedError, match="isolation"):
        db.transaction(isolation="SERIALIZABLE")
    with pytest.raises(UnsupportedError, match="isolation"):
        await db.run_in_transaction(lambda tx: None, isolation="SERIALIZABLE")


async def test_callbacks_follow_the_end_and_never_fail_it(
    scripted: ScriptedServer, make_db: Callable[..., Any]
) -> None:
    db = make_db(scripted.url)
    said: list[str] = []

    def broken() -> None:
        raise KeyError("mine")

    async with db.transaction() as tx:
        tx.on_commit(lambda: said.append(f"{scripted.count('item')} there"))
        tx.on_commit(broken)
        tx.on_rollback(lambda: said.append("undone"))
        await tx.insert("item", {"_id": 1})
    assert (said, [type(each) for each in tx.callback_errors]) == (["1 there"], [KeyError])


async def test_a_decorated_function_runs_in_a_transaction(
    scripted: ScriptedServer, make_db: Callable[..., Any]
) -> None:
    db = make_db(scripted.url)

    @db.transactional
    async def add(tx: Any, number: int) -> int:
        await tx.insert("item", {"_id": number})
        return number

    assert await add(7) == 7
    assert scripted.count("item") == 1


async def test_a_transaction_has_a_time_limit(scripted: ScriptedServer, make_db: Callable[..., Any]) -> None:
    db = make_db(scripted.url)
    await db.open()
    begun: list[Any] = []
    with pytest.raises(PrefiqDbError) as caught:
        async with db.transaction(timeout=0.5) as tx:
            begun.append(tx)
            while True:
                await tx.insert("item", {})
    assert caught.value.kind in (ErrorKind.TRANSACTION_TIMEOUT, ErrorKind.STATEMENT_TIMEOUT)
    assert (begun[0].outcome, scripted.count("item")) == ("not committed", 0)


async def came(server: ScriptedServer, name: str) -> None:
    """Wait until a command has come."""

    async def has_come() -> bool:
        return name in server.names()

    await make_harness("async").until(has_come)


# --- cancellation ----------------------------------------------------------------------------------


async def test_a_cancelled_read_leaves_no_connection_out(scripted: ScriptedServer) -> None:
    async with AsyncMongoDatabase(scripted.url) as db:
        scripted.on("find", "silent after")
        task = asyncio.create_task(db.find("item"))
        await came(scripted, "find")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db.stats().pool.checked_out == 0
        assert await db.find("item") == []


async def test_a_cancelled_commit_runs_to_its_end_and_its_outcome_is_told(scripted: ScriptedServer) -> None:
    """The task is cancelled while COMMIT waits for its reply; the connection is then cut, and COMMIT sent again."""
    async with AsyncMongoDatabase(scripted.url) as db:
        scripted.on("commitTransaction", "silent after")
        seen: list[AsyncMongoTransaction] = []

        async def pay() -> None:
            async with db.transaction() as tx:
                seen.append(tx)
                await tx.insert("item", {"_id": 1})

        task = asyncio.create_task(pay())
        await came(scripted, "commitTransaction")
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.to_thread(scripted.cut_all)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert (seen[0].outcome, scripted.count("item")) == ("committed", 1)
        assert getattr(caught.value, "transaction_outcome", None) == "committed"


async def test_a_cancelled_body_rolls_back(scripted: ScriptedServer) -> None:
    async with AsyncMongoDatabase(scripted.url) as db:
        begun, seen = asyncio.Event(), []

        async def pay() -> None:
            async with db.transaction() as tx:
                seen.append(tx)
                await tx.insert("item", {"_id": 1})
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(pay())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (seen[0].outcome, scripted.count("item")) == ("not committed", 0)
        assert "abortTransaction" in scripted.names()


# --- fork ------------------------------------------------------------------------------------------


def test_a_forked_child_connects_anew_and_may_not_use_the_parents_transaction(scripted: ScriptedServer) -> None:
    with MongoDatabase(scripted.url) as db, db.transaction() as tx:
        tx.insert("item", {"_id": 1})
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            word = b"it worked"
            try:
                tx.insert("item", {"_id": 2})
            except ForkError:
                word = b"ForkError"
            except BaseException as error:
                word = type(error).__name__.encode()
            os.write(writing, word)
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 100) == b"ForkError"
        os.close(reading)
        os.close(writing)
    assert scripted.count("item") == 1


# --- twins -----------------------------------------------------------------------------------------


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers_static(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("sync", "asynchronous"), [(MongoDatabase, AsyncMongoDatabase), (MongoTransaction, AsyncMongoTransaction)]
)
def test_the_twins_have_the_same_names_and_parameters(sync: type, asynchronous: type) -> None:
    assert public(sync).keys() == public(asynchronous).keys()
    for name, member in public(sync).items():
        other = public(asynchronous)[name]
        assert isinstance(member, property) == isinstance(other, property), name
        if inspect.isfunction(member):
            mine, theirs = (inspect.signature(each).parameters.values() for each in (member, other))
            assert [(p.name, p.kind, p.default) for p in mine] == [(p.name, p.kind, p.default) for p in theirs], name
