"""Ways that people retry a lost COMMIT, and that are wrong: the controls of every chaos test.

Where these don't double a transfer, the harness would not catch one that we double.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from prefiq_db.errors import DatabaseError
from prefiq_db.testing.faults import Bank, Transfer

_TRIES = 20

#: Of a database, and of what is to be done: a transfer, or the body of a transaction.
TransferFunction = Callable[[Any, Any], Any]


def plain(world: str, bank: Bank) -> TransferFunction:
    """A transaction without exactly-once: right as long as nothing breaks."""
    apply = bank.apply if world == "sync" else bank.apply_async
    return lambda db, transfer: db.run_in_transaction(apply, transfer)


def blind_retry(world: str, once: TransferFunction) -> TransferFunction:
    """Whatever the database says, run it again (oslo.db with retry_on_disconnect): doubles what did commit."""

    def retry(db: Any, work: Any) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return once(db, work)
            except DatabaseError:
                if not left:
                    raise
        raise AssertionError("there is a last try")

    async def retry_async(db: Any, work: Any) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return await once(db, work)
            except DatabaseError:
                if not left:
                    raise
        raise AssertionError("there is a last try")

    return retry if world == "sync" else retry_async


TOKENS = "create table control_token (id varchar(36) not null primary key)"
_WRITE = "insert into control_token (id) values (:id)"
_LOOK = "select count(*) from control_token where id = :id"


def select_the_token(world: str, bank: Bank) -> TransferFunction:
    """A token in the transaction, and a look for it when the reply is lost (Entity Framework 6).

    Right when the COMMIT has arrived by then or never will, and double when it comes late. Needs :data:`TOKENS`.
    """

    def body(tx: Any, transfer: Transfer, token: str) -> Any:
        tx.execute(_WRITE, {"id": token})
        return bank.apply(tx, transfer)

    async def body_async(tx: Any, transfer: Transfer, token: str) -> Any:
        await tx.execute(_WRITE, {"id": token})
        return await bank.apply_async(tx, transfer)

    def retry(db: Any, transfer: Transfer) -> Any:
        for left in reversed(range(_TRIES)):
            token = str(uuid.uuid4())
            try:
                return db.run_in_transaction(body, transfer, token)
            except DatabaseError:
                if not left:
                    raise
            if db.fetch_value(_LOOK, {"id": token}):
                return transfer.number
        raise AssertionError("there is a last try")

    async def retry_async(db: Any, transfer: Transfer) -> Any:
        for left in reversed(range(_TRIES)):
            token = str(uuid.uuid4())
            try:
                return await db.run_in_transaction(body_async, transfer, token)
            except DatabaseError:
                if not left:
                    raise
            if await db.fetch_value(_LOOK, {"id": token}):
                return transfer.number
        raise AssertionError("there is a last try")

    return retry if world == "sync" else retry_async
