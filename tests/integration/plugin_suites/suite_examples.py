"""The project's own examples, tested as their authors would."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import service_fastapi
import service_flask
from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing.faults import COMMIT, CutReply
from shop.catalogue import Line, add, price_list
from shop.tables import Kind


@pytest.mark.max_statements(4)
def test_the_shop(db: Database) -> None:
    add(db, "pot", Kind.WARE, Decimal("39.5"))
    add(db, "cup", Kind.WARE, Decimal("9.5"))
    assert price_list(db, at_most=Decimal(10)) == [Line("cup", Kind.WARE, Decimal("9.5"))]


def test_the_shop_is_empty_again(db: Database) -> None:
    assert list(price_list(db, at_most=Decimal(100))) == []


# Both services make their table when they start, which MariaDB would commit.
@pytest.mark.databases("sqlite", "postgresql")
async def test_the_fastapi_service_in_the_loop_of_the_test(async_db: AsyncDatabase, inject: Any) -> None:
    inject(async_db)
    service = service_fastapi.make_app()
    transport = httpx.ASGITransport(service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://stock") as client,
    ):
        assert (await client.put("/stock/CUP", params={"quantity": 3})).status_code == 200
        assert (await client.put("/stock/CUP", params={"quantity": 4})).status_code == 200
        assert await async_db.fetch_value("select quantity from stock") == 4
        assert (await client.get("/stock")).json() == [{"sku": "CUP", "quantity": 4}]
        assert (await client.get("/readyz")).status_code == 200
    assert await async_db.fetch_value("select count(*) from stock") == 1  # the service left it open


def test_the_fastapi_service_in_a_thread(async_db_committed: AsyncDatabase, inject: Any) -> None:
    inject(async_db_committed)
    with TestClient(service_fastapi.make_app()) as client:
        assert client.put("/stock/CUP", params={"quantity": 3}).status_code == 200
        assert client.get("/stock").json() == [{"sku": "CUP", "quantity": 3}]


@pytest.mark.databases("sqlite", "postgresql")
def test_the_fastapi_service_in_a_thread_is_undone(async_db: AsyncDatabase, inject: Any) -> None:
    inject(async_db)
    with TestClient(service_fastapi.make_app()) as client:
        assert client.put("/stock/CUP", params={"quantity": 3}).status_code == 200
        assert client.get("/stock").json() == [{"sku": "CUP", "quantity": 3}]


@pytest.mark.databases("sqlite", "postgresql")
def test_the_flask_service_sees_the_rows_of_the_test(db: Database, inject: Any) -> None:
    inject(db)
    client = service_flask.make_app().test_client()
    db.execute("insert into stock values ('POT', 1)")
    assert client.put("/stock/CUP?quantity=3").status_code == 200
    assert db.fetch_value("select count(*) from stock") == 2
    assert client.get("/stock").json == [{"quantity": 3, "sku": "CUP"}, {"quantity": 1, "sku": "POT"}]


def test_nothing_is_left(db: Database) -> None:
    import sqlalchemy as sa

    assert not sa.inspect(db.engine).has_table("stock")


@pytest.mark.databases("postgresql", "mariadb")
def test_a_reply_to_commit_is_lost(db_committed: Database, committed_url: str, fault_proxy: Any) -> None:
    with Database(fault_proxy.url(committed_url)) as db, fault_proxy.fault(CutReply(), on=COMMIT, times=1) as plan:
        db.run_in_transaction(lambda tx: add(db, "pot", Kind.WARE, Decimal(1)), exactly_once=True)
        assert plan.hits == 1
    assert len(price_list(db_committed, at_most=Decimal(100))) == 1
