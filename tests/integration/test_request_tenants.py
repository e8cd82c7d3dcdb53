"""The tenant of a request: concurrent requests of two tenants never see each other's rows, in each framework."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from prefiq_db import Database
from prefiq_db.errors import NestingError, UsageError
from prefiq_db.integrations import fastapi as for_fastapi
from prefiq_db.integrations.asgi import HealthApp
from prefiq_db.integrations.request_options import request_options
from tests.conftest import Backend
from tests.integration.request_services import MARIADB_TABLES, SERVICES, Made, boot
from tests.twins.support import upgrade_schema
from tests.twins.tenancy import CREATE_ITEM, Tenants, two_tenants

IDS = "select id from child order by id"
REQUESTS = 12

# Where a schema is a database, one of the two is enough.
PLACES = [
    pytest.param("sqlite", "schema", marks=pytest.mark.sqlite),
    pytest.param("postgresql", "schema", marks=pytest.mark.postgresql),
    pytest.param("postgresql", "database", marks=pytest.mark.postgresql),
    pytest.param("mariadb", "database", marks=pytest.mark.mariadb),
]
everywhere = pytest.mark.parametrize(("backend", "tenants"), PLACES, indirect=True)
embedded = pytest.mark.parametrize(("backend", "tenants"), PLACES[:1], indirect=True)
on_two = pytest.mark.parametrize(("backend", "tenants"), PLACES[:2], indirect=True)


@pytest.fixture
def tenants(
    request: pytest.FixtureRequest, backend: Backend, free_databases: dict[str, list[str]]
) -> Iterator[Tenants]:
    upgrade_schema(backend)
    with two_tenants(backend, request.param, free_databases) as made, Database(backend.url) as db:
        for number in (0, 1):
            db.using(**made.over(number)).execute(MARIADB_TABLES[0])
        db.execute(MARIADB_TABLES[0])
        db.execute(CREATE_ITEM)
        yield made


def _by_header(tenants: Tenants) -> Callable[[Any], dict[str, str]]:
    return lambda request: {tenants.kind: tenants.names[int(request.headers["x-tenant"])]}


def _of_the_last_request(tenants: Tenants) -> Callable[[Any], dict[str, str]]:
    """What an application does that keeps the tenant in a global: right until two requests run at once."""
    last: list[int] = []
    both = threading.Barrier(2)

    def tenant(request: Any) -> dict[str, str]:
        last[:] = [int(request.headers["x-tenant"])]
        both.wait(10)
        return {tenants.kind: tenants.names[last[0]]}

    return tenant


def _stored(backend: Backend, tenants: Tenants) -> list[list[int]]:
    with Database(backend.url) as db:
        views = [db, db.using(**tenants.over(0)), db.using(**tenants.over(1))]
        return [[number for (number,) in view.fetch_all(IDS)] for view in views]


@everywhere
@pytest.mark.parametrize("service", list(SERVICES))
def test_concurrent_tenants_never_see_each_others_rows(
    backend: Backend, tenants: Tenants, service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Transactions that commit and that roll back, and a stream that reads outside of them, on two connections."""
    monkeypatch.chdir(tmp_path)
    made: Made = SERVICES[service](backend.url, {}, {"tenant": _by_header(tenants)})
    with made.serve(made.app) as address:

        def send(number: int) -> int:
            headers = {"X-Tenant": str(number % 2)}
            params = {"status": "409"} if number % 3 == 0 else {}
            with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
                status = client.post(f"/child/{number}", params=params).status_code
                assert 0 < int(client.get("/stream").text.split()[1]) + 1 <= REQUESTS // 2 + 1
                return status

        with ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(send, range(REQUESTS)))
        assert statuses == [409 if number % 3 == 0 else 200 for number in range(REQUESTS)]
        assert made.prefiq.db.stats().pool.checked_out == 0
    assert _stored(backend, tenants) == [
        [],
        [number for number in range(REQUESTS) if number % 3 and number % 2 == 0],
        [number for number in range(REQUESTS) if number % 3 and number % 2 == 1],
    ]


@embedded
@pytest.mark.parametrize("service", ["flask_sync"])  # the others call it in one thread, so one at a time
def test_control_a_tenant_kept_in_a_global_mixes_them(
    backend: Backend, tenants: Tenants, service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The test above would find it."""
    monkeypatch.chdir(tmp_path)
    made: Made = SERVICES[service](backend.url, {}, {"tenant": _of_the_last_request(tenants)})
    with made.serve(made.app) as address, ThreadPoolExecutor(2) as pool:
        answers = pool.map(
            lambda number: httpx.post(f"{address}/child/{number}", headers={"X-Tenant": str(number)}, timeout=60),
            (0, 1),
        )
        assert [answer.status_code for answer in answers] == [200, 200]
    assert sorted(map(sorted, _stored(backend, tenants)[1:])) == [[], [0, 1]]


# --- the function --------------------------------------------------------------------------------


@pytest.fixture
def service(backend: Backend, tenants: Tenants) -> Iterator[Callable[..., tuple[TestClient, Any, list[Any]]]]:
    """Make a FastAPI service whose tenant is a path parameter, with ``tenant``."""
    with ExitStack() as stack:

        def make(tenant: Callable[[Any], Any], mode: str = "sync") -> tuple[TestClient, Any, list[Any]]:
            prefiq = for_fastapi.PrefiqDb(boot(backend.url, mode), tenant=tenant)
            app = FastAPI(lifespan=prefiq.lifespan)
            app.add_middleware(prefiq.middleware)
            errors: list[Any] = []

            @app.post("/of/{tenant}/{number}", dependencies=[prefiq.transaction()])
            def add(number: int) -> None:
                prefiq.db.execute("insert into child (id) values (:id)", {"id": number})

            @app.get("/of/{tenant}")
            def count() -> int:
                found: int = prefiq.db.fetch_value("select count(*) from child")
                return found

            @app.get("/nothing")
            def nothing() -> str:
                return "no database was used"

            @app.post("/across/{tenant}", dependencies=[prefiq.transaction()])
            def across(tenant: int) -> None:
                other = prefiq.db.using(**tenants_of["made"].over(1 - tenant))
                try:
                    other.execute("insert into child (id) values (99)")
                except NestingError as error:
                    errors.append(error)
                    raise

            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return client, prefiq, errors

        tenants_of = {"made": tenants}
        yield make


@on_two
def test_a_path_parameter_may_tell_the_tenant(service: Any, tenants: Tenants, backend: Backend) -> None:
    """It is asked for once in a request, when routing is done; a request without a database is not asked."""
    asked: list[str] = []

    def tenant(request: Any) -> dict[str, str]:
        asked.append(request.url.path)
        return tenants.over(int(request.path_params["tenant"]))

    client, _, _ = service(tenant)
    assert client.post("/of/0/1").status_code == 200
    assert client.post("/of/1/2").status_code == 200
    assert client.get("/of/1").json() == 1
    assert client.get("/nothing").status_code == 200
    assert asked == ["/of/0/1", "/of/1/2", "/of/1"]
    assert _stored(backend, tenants) == [[], [1], [2]]


@on_two
def test_what_the_function_raises_is_the_answer(service: Any, tenants: Tenants, backend: Backend) -> None:
    def tenant(request: Any) -> dict[str, str]:
        raise HTTPException(404)

    client, prefiq, _ = service(tenant)
    assert client.get("/of/0").status_code == 404
    assert client.post("/of/0/1").status_code == 404
    assert _stored(backend, tenants) == [[], [], []]
    assert prefiq.db.stats().pool.checked_out == 0


@pytest.mark.parametrize(
    "wrong", [{"schema": "a b"}, {"schema": "pg_catalog"}, "acme", {"timeout": 1}, {"database": 3}], ids=repr
)
@embedded
def test_what_the_function_returns_is_checked(service: Any, wrong: Any, tenants: Tenants, backend: Backend) -> None:
    """A client that chooses the name chooses nothing of the server's, and writes nothing."""
    client, _, _ = service(lambda request: wrong)
    assert client.post("/of/0/1").status_code == 500
    assert _stored(backend, tenants) == [[], [], []]


@on_two
def test_the_function_may_look_the_tenant_up(service: Any, tenants: Tenants, backend: Backend) -> None:
    """What it asks goes to the database of the settings."""
    with Database(backend.url) as db:
        db.execute("insert into child (id, parent) values (70, 0), (71, 1)")
    held: dict[str, Any] = {}

    def tenant(request: Any) -> dict[str, str]:
        row = 70 + int(request.path_params["tenant"])
        return tenants.over(held["prefiq"].db.fetch_value("select parent from child where id = :id", {"id": row}))

    client, held["prefiq"], _ = service(tenant)
    assert client.post("/of/0/1").status_code == 200
    assert client.post("/of/1/2").status_code == 200
    assert _stored(backend, tenants) == [[70, 71], [1], [2]]


@on_two
def test_another_tenant_in_the_requests_transaction_is_refused(
    service: Any, tenants: Tenants, backend: Backend
) -> None:
    client, _, errors = service(lambda request: tenants.over(int(request.path_params["tenant"])))
    assert client.post("/across/0").status_code == 500
    assert len(errors) == 1
    assert _stored(backend, tenants) == [[], [], []]


@on_two
def test_no_tenant_is_the_database_of_the_settings(service: Any, tenants: Tenants, backend: Backend) -> None:
    client, _, _ = service(lambda request: None)
    assert client.post("/of/0/1").status_code == 200
    assert _stored(backend, tenants) == [[1], [], []]


@on_two
def test_health_endpoints_look_at_the_database_of_the_settings(tenants: Tenants, backend: Backend) -> None:
    """Also inside the middleware, where a tenant would be asked for."""

    def tenant(request: Any) -> dict[str, str]:
        raise AssertionError("a health check has no tenant")

    with Database(backend.url) as db:
        prefiq = for_fastapi.PrefiqDb([db], tenant=tenant)
        app = FastAPI(lifespan=prefiq.lifespan)
        app.mount("/health", HealthApp(db))
        app.add_middleware(prefiq.middleware)
        with TestClient(app) as client:
            assert client.get("/health/healthz").status_code == 200


@pytest.mark.parametrize("wrong", [5, "schema"])
def test_the_option_is_checked(wrong: Any) -> None:
    async def waits(request: Any) -> None:
        return None

    for given in (wrong, waits):
        with pytest.raises(UsageError, match="tenant"):
            request_options({"tenant": given})
