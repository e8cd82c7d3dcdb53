"""A transaction around a request in FastAPI without ``PrefiqDb``: the ways that work, and the one that loses data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException

from prefiq_db import AsyncDatabase, AsyncTransaction, Database, Transaction
from prefiq_db.errors import TransactionOwnershipError
from tests.conftest import Backend
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

WAYS = ["inside", "decorated", "explicit", "adopted"]


def refuse(refused: bool) -> None:
    if refused:
        raise HTTPException(400)


def row(number: int) -> dict[str, int]:
    return {"id": number, "quantity": 1}


def sync_service(db: Database) -> FastAPI:
    service = FastAPI()

    def transaction() -> Iterator[Transaction]:
        with db.transaction() as tx:
            yield tx

    # "function": committed before the response is sent, so that a COMMIT that fails is a 500 and no 200.
    in_transaction = Depends(transaction, scope="function")

    @service.post("/inside/{number}")
    def inside(number: int, refused: bool = False) -> None:
        with db.transaction():
            db.execute(INSERT_STOCK, row(number))
            refuse(refused)

    @service.post("/decorated/{number}")
    @db.transactional
    def decorated(tx: Transaction, number: int, refused: bool = False) -> None:
        db.execute(INSERT_STOCK, row(number))
        refuse(refused)

    @service.post("/explicit/{number}")
    def explicit(number: int, refused: bool = False, tx: Transaction = in_transaction) -> None:
        tx.execute(INSERT_STOCK, row(number))
        refuse(refused)

    @service.post("/adopted/{number}")
    def adopted(number: int, refused: bool = False, tx: Transaction = in_transaction) -> None:
        with tx.bind():
            db.execute(INSERT_STOCK, row(number))
            refuse(refused)

    @service.post("/warned/{number}")
    def warned(number: int, refused: bool = False, tx: Transaction = in_transaction) -> None:
        db.execute(INSERT_STOCK, row(number))
        refuse(refused)

    return service


@asynccontextmanager
async def client_of(service: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://service") as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
async def test_a_sync_endpoint_commits_or_leaves_nothing(backend: Backend, way: str) -> None:
    """Whatever thread the dependency, the endpoint and the end of the dependency run in."""
    with Database(backend.url) as db:
        async with client_of(sync_service(db)) as client:
            db.execute(CREATE_STOCK)
            for number in range(3):
                assert (await client.post(f"/{way}/{number}")).status_code == 200
                assert db.fetch_value(COUNT_STOCK) == number + 1
            assert (await client.post(f"/{way}/7?refused=true")).status_code == 400
            assert db.fetch_value(COUNT_STOCK) == 3
            assert db.stats().pool.checked_out == 0


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_control_verbs_of_db_beside_a_sync_dependency_are_outside(backend: Backend) -> None:
    """What the documentation warns of: the endpoint has another copy of the context than the dependency.

    When all went well, the end of the block says so; after a refusal nobody does.
    """
    with Database(backend.url) as db:
        async with client_of(sync_service(db)) as client:
            db.execute(CREATE_STOCK)
            with pytest.raises(TransactionOwnershipError, match="another context"):
                await client.post("/warned/1")
            assert (await client.post("/warned/2?refused=true")).status_code == 400
            assert db.fetch_value(COUNT_STOCK) == 2
            assert db.stats().pool.checked_out == 0


@pytest.mark.parametrize("way", ["inside", "ambient"])
async def test_an_async_endpoint_commits_or_leaves_nothing(backend: Backend, way: str) -> None:
    """Dependency and endpoint run in one task: there the verbs of db are inside."""
    db = AsyncDatabase(backend.url)
    service = FastAPI()

    async def transaction() -> AsyncIterator[AsyncTransaction]:
        async with db.transaction() as tx:
            yield tx

    @service.post("/inside/{number}")
    async def inside(number: int, refused: bool = False) -> None:
        async with db.transaction():
            await db.execute(INSERT_STOCK, row(number))
            refuse(refused)

    @service.post("/ambient/{number}", dependencies=[Depends(transaction, scope="function")])
    async def ambient(number: int, refused: bool = False) -> None:
        await db.execute(INSERT_STOCK, row(number))
        refuse(refused)

    async with db, client_of(service) as client:
        await db.execute(CREATE_STOCK)
        assert (await client.post(f"/{way}/1")).status_code == 200
        assert await db.fetch_value(COUNT_STOCK) == 1
        assert (await client.post(f"/{way}/2?refused=true")).status_code == 400
        assert await db.fetch_value(COUNT_STOCK) == 1
