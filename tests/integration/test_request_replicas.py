"""Requests of a service with replicas: each sees what it wrote, and a cookie takes that along to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from flask import Flask, jsonify, make_response, request

from prefiq_db import Database, bootstrap
from prefiq_db.integrations.fastapi import PrefiqDb
from prefiq_db.integrations.flask import PrefiqDb as FlaskPrefiqDb
from tests.integration.request_services import boot
from tests.twins.replicated import PORT, make_cluster

COUNT = "select count(*) from item"
INSERT = "insert into item (id) values (:id)"
KINDS = [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)]


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {}
    try:
        yield made
    finally:
        for each in made.values():
            each.close()


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, clusters: dict[str, Any]) -> Iterator[Any]:
    """A cluster whose replica is held back, an empty table in a new database, and settings for it."""
    kind = request.param
    if kind not in clusters:
        clusters[kind] = make_cluster(kind, 1).start()
    cluster = clusters[kind]
    name = cluster.create_database()
    url = cluster.url(name, cluster.primary)
    with Database(url, ssl_mode="disable") as db:
        db.execute("create table item (id integer primary key)")
    cluster.catch_up()
    cluster.hold_back(cluster.replicas[0], 2)
    settings = {
        "ssl_mode": "disable",
        "replicas": [cluster.url(name, cluster.replicas[0])],
        "read_from": "replica_preferred",
        "replica_wait_seconds": 0.02,
    }
    yield url, settings, PORT[kind], cluster
    cluster.hold_back(cluster.replicas[0], 0)


def _fastapi_async(url: str, settings: Any, port: str) -> Any:
    prefiq = PrefiqDb(boot(url, "async", **settings))
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    @app.post("/item/{number}", dependencies=[prefiq.transaction()])
    async def add(number: int) -> None:
        await prefiq.db.execute(INSERT, {"id": number})

    @app.post("/both/{number}")
    async def both(number: int, response: Response) -> int:
        await prefiq.db.execute(INSERT, {"id": number})
        response.set_cookie("written", await prefiq.db.mark())
        return int(await prefiq.db.using(replica=True).fetch_value(COUNT))

    @app.get("/count")
    async def count(request: Request) -> int:
        return int(await prefiq.db.using(replica=True, after=request.cookies.get("written")).fetch_value(COUNT))

    @app.get("/port", dependencies=[prefiq.transaction()])
    async def where() -> int:
        return int(await prefiq.db.fetch_value(port))

    @app.get("/named", dependencies=[prefiq.transaction(read_only=True, replica=True)])
    async def named() -> int:
        return int(await prefiq.db.fetch_value(port))

    return app


def _fastapi_sync(url: str, settings: Any, port: str) -> Any:
    prefiq = PrefiqDb(boot(url, "sync", **settings))
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    @app.post("/item/{number}", dependencies=[prefiq.transaction()])
    def add(number: int) -> None:
        prefiq.db.execute(INSERT, {"id": number})

    @app.post("/both/{number}")
    def both(number: int, response: Response) -> int:
        prefiq.db.execute(INSERT, {"id": number})
        response.set_cookie("written", prefiq.db.mark())
        return int(prefiq.db.using(replica=True).fetch_value(COUNT))

    @app.get("/count")
    def count(request: Request) -> int:
        return int(prefiq.db.using(replica=True, after=request.cookies.get("written")).fetch_value(COUNT))

    @app.get("/port", dependencies=[prefiq.transaction()])
    def where() -> int:
        return int(prefiq.db.fetch_value(port))

    @app.get("/named", dependencies=[prefiq.transaction(read_only=True, replica=True)])
    def named() -> int:
        return int(prefiq.db.fetch_value(port))

    return app


@pytest.mark.parametrize("make", [_fastapi_async, _fastapi_sync])
async def test_a_request_sees_what_it_wrote_and_a_cookie_takes_it_along(shop: Any, make: Any) -> None:
    url, settings, port, cluster = shop
    app = make(url, settings, port)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        httpx.AsyncClient(transport=transport, base_url="http://shop") as other,
    ):
        assert (await client.post("/both/1")).json() == 1
        assert (await client.get("/count")).json() == 1
        # Without the cookie a request waits for nothing: not even for what one before it wrote in this very process.
        assert (await other.get("/count")).json() == 0
        assert (await client.post("/item/2")).status_code == 200
        for path in ("/port", "/named"):
            answer = await other.get(path)
            assert answer.json() == cluster.replicas[0].port, (path, answer.text)


def test_flask_requests_share_a_thread_and_no_marks(shop: Any) -> None:
    url, settings, port, cluster = shop
    app = Flask(__name__)
    arguments = {"database": {"url": url, "mode": "sync", **settings}}
    prefiq = FlaskPrefiqDb(app, lambda: bootstrap(arguments=arguments, environ={}))

    @app.post("/both/<int:number>")
    def both(number: int) -> Any:
        prefiq.db.execute(INSERT, {"id": number})
        response = make_response(jsonify(prefiq.db.using(replica=True).fetch_value(COUNT)))
        response.set_cookie("written", prefiq.db.mark())
        return response

    @app.get("/count")
    def count() -> Any:
        return jsonify(prefiq.db.using(replica=True, after=request.cookies.get("written")).fetch_value(COUNT))

    @app.get("/port")
    @prefiq.transactional
    def where() -> Any:
        return jsonify(prefiq.db.fetch_value(port))

    with prefiq:
        client, other = app.test_client(), app.test_client()
        assert client.post("/both/1").json == 1
        assert client.get("/count").json == 1
        assert other.get("/count").json == 0
        assert other.get("/port").json == cluster.replicas[0].port
