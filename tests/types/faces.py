"""What type checkers must accept and refuse. Nothing here runs: `make types` reads it, and so does pyright.

An ignore that ignores nothing is an error to mypy (``warn_unused_ignores``), and to pyright with
``reportUnnecessaryTypeIgnoreComment``: so each of them shows that a mistake is found.
"""

from __future__ import annotations

from typing import assert_type

from prefiq_db import AsyncDatabase, AsyncTransaction, Database, RetryPolicy, Transaction


def transactional(db: Database) -> None:
    @db.transactional
    def move(tx: Transaction, sku: str, *, quantity: int = 1) -> int:
        return tx.execute("update item set qty = qty - :n where sku = :sku", {"n": quantity, "sku": sku}).rowcount or 0

    @db.transactional(isolation="SERIALIZABLE", exactly_once=True, retry=RetryPolicy(attempts=1))
    def empty(tx: Transaction, sku: str) -> str:
        return sku

    assert_type(move("A1", quantity=2), int)
    assert_type(empty("A1"), str)
    move(1)  # type: ignore[arg-type]
    move("A1", amount=2)  # type: ignore[call-arg]
    with db.transaction() as tx:
        move(tx, "A1")  # type: ignore[arg-type, call-arg]

    @db.transactional  # type: ignore[arg-type]
    def without_tx() -> None: ...


async def transactional_async(db: AsyncDatabase) -> None:
    @db.transactional
    async def move(tx: AsyncTransaction, sku: str, *, quantity: int = 1) -> int:
        return quantity

    @db.transactional(isolation="SERIALIZABLE")
    async def empty(tx: AsyncTransaction, sku: str) -> str:
        return sku

    assert_type(await move("A1", quantity=2), int)
    assert_type(await empty("A1"), str)
    await move(1)  # type: ignore[arg-type]

    @db.transactional  # type: ignore[arg-type]
    async def of_the_other_world(tx: Transaction) -> None: ...


def overrides(db: Database, async_db: AsyncDatabase) -> None:
    policy = RetryPolicy(attempts=2)
    view = db.using(timeout=0.5, retry=policy, read_only=True, idempotent=True, tags={"route": "/"})
    assert_type(view, Database)
    assert_type(async_db.using(timeout=None), AsyncDatabase)
    db.using(timeuot=0.5)  # type: ignore[call-arg]
    db.using(timeout="1")  # type: ignore[arg-type]
    async_db.using(timeuot=0.5)  # type: ignore[call-arg]
    with db.override(timeout=1, read_only=None):
        pass
    db.override(readonly=True)  # type: ignore[call-arg]
    async_db.override(retry=3)  # type: ignore[arg-type]
