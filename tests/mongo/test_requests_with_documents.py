"""A web service that keeps documents, alone or beside tables: each framework's own requests, transactions and tenants.

The server is scripted: a primary of a replica set.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from flask import Flask, request
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefiq_db import bootstrap, bootstrap_async
from prefiq_db.integrations import fastapi as for_fastapi
from prefiq_db.integrations import flask as for_flask
from prefiq_db.integrations import starlette as for_starlette
from prefiq_db.mongo import MongoDatabase
from tests.mongo.scripted_server import CUT_AFTER, ScriptedServer

#: posts a number, says with what status, and returns what came
Post = Callable[[int, int], int]


def boot(scripted: ScriptedServer, mode: str, **settings: Any) -> Callable[[], Any]:
    """Return what boots a service whose only database keeps documents."""
    arguments = {"database": {"url": scripted.url, "mode": mode, **settings}}
    if mode == "sync":
        return lambda: bootstrap(arguments=arguments, environ={})
    return lambda: bootstrap_async(arguments=arguments, environ={})


def fastapi(scripted: ScriptedServer, options: dict[str, Any]) -> Any:
    prefiq = for_fastapi.PrefiqDb(boot(scripted, "async"), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    @app.post("/item/{number}", dependencies=[prefiq.transaction()])
    async def add(number: int, status: int = 200) -> int:
        await prefiq.db.insert("item", {"_id": number})
        if status != 200:
            raise HTTPException(status)
        return number

    return TestClient(app)


def fastapi_sync(scripted: ScriptedServer, options: dict[str, Any]) -> Any:
    prefiq = for_fastapi.PrefiqDb(boot_in_loop(scripted), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    @app.post("/item/{number}", dependencies=[prefiq.transaction()])
    def add(number: int, status: int = 200) -> int:
        prefiq.db.insert("item", {"_id": number})
        if status != 200:
            raise HTTPException(status)
        return number

    return TestClient(app)


def boot_in_loop(scripted: ScriptedServer) -> Callable[[], Any]:
    arguments = {"database": {"url": scripted.url, "mode": "sync"}}
    return lambda: bootstrap_async(arguments=arguments, environ={})


def starlette(scripted: ScriptedServer, options: dict[str, Any]) -> Any:
    prefiq = for_starlette.PrefiqDb(boot(scripted, "async"), **options)

    @prefiq.transactional
    async def add(request: Request) -> JSONResponse:
        await prefiq.db.insert("item", {"_id": request.path_params["number"]})
        status = int(request.query_params.get("status", 200))
        if status != 200:
            raise StarletteHTTPException(status)
        return JSONResponse(1)

    app = Starlette(routes=[Route("/item/{number:int}", add, methods=["POST"])], lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    return TestClient(app)  # type: ignore[arg-type] # FastAPI's is Starlette's


def litestar(scripted: ScriptedServer, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        # Litestar imports advanced-alchemy where that is installed, and SQLAlchemy 2.1 warns of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        from litestar import Litestar, Response, post
        from litestar import Request as LitestarRequest
        from litestar.exceptions import HTTPException as LitestarHTTPException

        from prefiq_db.integrations import litestar as for_litestar
    prefiq = for_litestar.PrefiqDb(boot(scripted, "async"), **options)

    async def add(request: LitestarRequest[Any, Any, Any]) -> Response[int]:
        await prefiq.db.insert("item", {"_id": request.path_params["number"]})
        status = int(request.query_params.get("status", 200))
        if status != 200:
            raise LitestarHTTPException(status_code=status)
        return Response(1)

    add.__annotations__ = {"request": LitestarRequest[Any, Any, Any], "return": Response[int]}  # they are local names
    app = Litestar(
        [post("/item/{number:int}", status_code=200)(prefiq.transactional(add))],
        lifespan=[prefiq.lifespan],
        middleware=[prefiq.middleware],
    )
    return TestClient(app)  # type: ignore[arg-type] # it takes any ASGI application


class FlaskClient:
    """Flask's own client, as a context manager around the service's life."""

    def __init__(self, app: Flask, prefiq: Any) -> None:
        self._app, self._prefiq = app, prefiq

    def __enter__(self) -> Any:
        self._prefiq.__enter__()
        return self._app.test_client()

    def __exit__(self, *exc: Any) -> None:
        self._prefiq.__exit__(*exc)


def flask(scripted: ScriptedServer, options: dict[str, Any]) -> Any:
    app = Flask("tests")
    prefiq = for_flask.PrefiqDb(app, boot(scripted, "sync"), **options)

    @app.post("/item/<int:number>")
    @prefiq.transactional
    def add(number: int) -> tuple[str, int]:
        prefiq.db.insert("item", {"_id": number})
        return "done", int(request.args.get("status", 200))

    return FlaskClient(app, prefiq)


SERVICES = {
    "fastapi": fastapi,
    "fastapi-sync": fastapi_sync,
    "starlette": starlette,
    "litestar": litestar,
    "flask": flask,
}
in_each = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
Service = Callable[[ScriptedServer, dict[str, Any]], Any]


@in_each
def test_a_request_commits_before_its_response_and_an_error_status_rolls_back(
    scripted: ScriptedServer, service: Service
) -> None:
    with service(scripted, {}) as client:
        assert client.post("/item/1").status_code == 200
        assert scripted.count("item") == 1
        assert client.post("/item/2?status=409").status_code == 409
        assert (scripted.count("item"), scripted.names().count("abortTransaction")) == (1, 1)


@in_each
def test_a_commit_whose_reply_is_lost_is_repeated_within_the_request(
    scripted: ScriptedServer, service: Service
) -> None:
    with service(scripted, {}) as client:
        scripted.on("commitTransaction", CUT_AFTER)
        assert client.post("/item/1").status_code == 200
    assert (scripted.count("item"), scripted.names().count("commitTransaction")) == (1, 2)


@in_each
def test_the_tenant_of_a_request_is_a_database(scripted: ScriptedServer, service: Service) -> None:
    """The insert of each request goes to its tenant's database, and what has none to that of the settings."""
    tenants = {"1": "tenant_one", "2": "tenant_two"}
    with service(scripted, {"tenant": lambda request: {"database": tenants[request.headers["x-tenant"]]}}) as client:
        for number, tenant in enumerate(("1", "2", "1")):
            assert client.post(f"/item/{number}", headers={"x-tenant": tenant}).status_code == 200
    inserts = [each.command["$db"] for each in scripted.seen if each.name == "insert"]
    assert inserts == ["tenant_one", "tenant_two", "tenant_one"]


def test_control_without_a_tenant_all_requests_use_the_database_of_the_settings(scripted: ScriptedServer) -> None:
    with fastapi(scripted, {}) as client:
        client.post("/item/1", headers={"x-tenant": "1"})
    assert [each.command["$db"] for each in scripted.seen if each.name == "insert"] == ["shop"]


# --- endpoints -----------------------------------------------------------------------------------


def mixed(scripted: ScriptedServer, tmp_path: Path) -> tuple[FastAPI, Any]:
    settings = {"url": scripted.url, "mode": "async", "connect_timeout_seconds": 1}
    arguments = {
        "database": {"url": f"sqlite:///{tmp_path}/main.db", "mode": "async"},
        "databases": {"documents": settings},
    }
    prefiq = for_fastapi.PrefiqDb(lambda: bootstrap_async(arguments=arguments, environ={}))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with prefiq.lifespan(app):
            for_fastapi.mount_health(app, prefiq.container, page=True, cache_seconds=0, deadline_seconds=2)
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(prefiq.middleware)
    return app, prefiq


def test_the_page_and_the_health_of_a_mixed_service_name_both(scripted: ScriptedServer, tmp_path: Path) -> None:
    app, prefiq = mixed(scripted, tmp_path)

    @app.post("/both", dependencies=[prefiq.transaction(), prefiq.transaction("documents")])
    async def both(status: int = 200) -> int:
        await prefiq.db.execute("create table if not exists item (id integer primary key)")
        await prefiq.container.resolve("db.documents").insert("item", {"_id": 1, "secret": "c4n4ry"})
        if status != 200:
            raise HTTPException(status)
        return 1

    with TestClient(app) as client:
        assert client.post("/both?status=409").status_code == 409
        assert scripted.count("item") == 0
        assert client.post("/both").status_code == 200
        assert scripted.count("item") == 1
        assert "text/html" in client.get("/db").headers["content-type"]
        said = client.get("/db.json").json()
        assert {each["name"]: each["engine"] for each in said["databases"]} == {
            "main": "sqlite",
            "documents": "mongodb",
        }
        assert "insert item" in json.dumps(said)
        assert "c4n4ry" not in json.dumps(said)
        assert client.get("/healthz").status_code == 200
        scripted.stop()
        down = client.get("/healthz")
        assert (down.status_code, "documents" in down.json()["output"]) == (503, True)
        statuses = {each["name"]: each["status"] for each in client.get("/db.json").json()["databases"]}
        assert statuses["main"] != statuses["documents"]
        scripted.start()
        assert client.get("/healthz").status_code == 200


def test_killing_the_document_server_turns_health_and_back(mongodb_server: Any) -> None:
    """The process itself: of a private server, the stand-in or a mongod; not of one by URL."""
    if not mongodb_server.command:
        pytest.skip("needs a private server: this one is by URL")
    url = mongodb_server.url(mongodb_server.create_database())
    app = Starlette()
    with MongoDatabase(url, name="documents", connect_timeout_seconds=1) as db:
        for_starlette.mount_health(app, db, cache_seconds=0, deadline_seconds=5)
        client = TestClient(app)  # type: ignore[arg-type] # FastAPI's is Starlette's
        assert client.get("/healthz").status_code == 200
        mongodb_server.kill()
        try:
            down = client.get("/healthz")
            assert (down.status_code, "documents" in down.json()["output"]) == (503, True)
        finally:
            mongodb_server.start()
        assert client.get("/healthz").status_code == 200
