"""The same small service in each framework, once with ``async def`` and once with ``def`` endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import flask
import litestar
import werkzeug.exceptions
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse as FastApiJson
from flask import Flask
from litestar.exceptions import HTTPException as LitestarHTTPException
from litestar.response import Stream
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from prefiq_db import PrefiqDbError, bootstrap, bootstrap_async
from prefiq_db.integrations import fastapi as for_fastapi
from prefiq_db.integrations import flask as for_flask
from prefiq_db.integrations import litestar as for_litestar
from prefiq_db.integrations import starlette as for_starlette
from tests.serving import serve_asgi, serve_wsgi

INSERT = "insert into child (id, parent) values (:id, :parent)"
TABLES = (
    "create table parent (id integer primary key)",
    "create table child (id integer primary key, parent integer, "
    "foreign key (parent) references parent (id) deferrable initially deferred)",
)
#: MariaDB has no deferred constraints
MARIADB_TABLES = ("create table child (id integer primary key, parent integer)",)
#: what its COMMIT refuses
ORPHAN = {"parent": 99}


@dataclass
class Made:
    """A service, its ``PrefiqDb``, and how to serve it."""

    app: Any
    prefiq: Any
    serve: Callable[[Any], AbstractContextManager[str]]


def boot(url: str, mode: str, **settings: Any) -> Callable[[], Any]:
    """Return what boots the service's container, in the event loop that it will serve in."""
    arguments = {"database": {"url": url, "mode": mode, "pool_size": 2, "max_overflow": 0, **settings}}
    return lambda: bootstrap_async(arguments=arguments, environ={})


def _values(number: int, parent: int | None) -> dict[str, int | None]:
    return {"id": number, "parent": parent}


def fastapi_async(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_fastapi.PrefiqDb(boot(url, "async", **settings), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    within = [prefiq.transaction(**transaction)]

    @app.exception_handler(PrefiqDbError)
    async def explain(request: Request, error: PrefiqDbError) -> FastApiJson:
        return FastApiJson({"kind": error.kind.value}, 503)

    @app.post("/child/{number}", dependencies=within)
    async def add(number: int, parent: int | None = None, refuse: str = "", status: int = 200) -> Any:
        await prefiq.db.execute(INSERT, _values(number, parent))
        if refuse == "raise":
            raise HTTPException(status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return FastApiJson({"id": number}, status)

    @app.get("/stream", dependencies=within)
    async def stream() -> StreamingResponse:
        await prefiq.db.fetch_value("select count(*) from child")

        async def lines() -> AsyncIterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{await prefiq.db.fetch_value('select count(*) from child')}\n"

        return StreamingResponse(lines())

    return Made(app, prefiq, serve_asgi)


def fastapi_sync(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_fastapi.PrefiqDb(boot(url, "sync", **settings), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    within = prefiq.transaction(**transaction)

    @app.exception_handler(PrefiqDbError)
    def explain(request: Request, error: PrefiqDbError) -> FastApiJson:
        return FastApiJson({"kind": error.kind.value}, 503)

    def checked(number: int, tx: Any = within) -> int:
        assert prefiq.db.fetch_value("select count(*) from child where id = :id", {"id": number}) == 0
        return number

    @app.post("/child/{number}")
    def add(
        tx: Any = within, number: int = Depends(checked), parent: int | None = None, refuse: str = "", status: int = 200
    ) -> Any:
        prefiq.db.execute(INSERT, _values(number, parent))
        if refuse == "raise":
            raise HTTPException(status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return FastApiJson({"id": number}, status)

    @app.get("/stream", dependencies=[within])
    def stream() -> StreamingResponse:
        prefiq.db.fetch_value("select count(*) from child")

        def lines() -> Iterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{prefiq.db.fetch_value('select count(*) from child')}\n"

        return StreamingResponse(lines())

    return Made(app, prefiq, serve_asgi)


def _starlette(prefiq: Any, add: Any, stream: Any) -> Made:
    async def explain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PrefiqDbError)
        return JSONResponse({"kind": error.kind.value}, 503)

    routes = [Route("/child/{number:int}", add, methods=["POST"]), Route("/stream", stream)]
    app = Starlette(routes=routes, lifespan=prefiq.lifespan, exception_handlers={PrefiqDbError: explain})
    app.add_middleware(prefiq.middleware)
    return Made(app, prefiq, serve_asgi)


def _asked(request: Any) -> tuple[int, dict[str, Any], str, int]:
    query, number = request.query_params, request.path_params["number"]
    parent = int(query["parent"]) if "parent" in query else None
    return number, _values(number, parent), query.get("refuse", ""), int(query.get("status", 200))


def starlette_async(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_starlette.PrefiqDb(boot(url, "async", **settings), **options)

    @prefiq.transactional(**transaction)
    async def add(request: Request) -> JSONResponse:
        number, values, refuse, status = _asked(request)
        await prefiq.db.execute(INSERT, values)
        if refuse == "raise":
            raise StarletteHTTPException(status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return JSONResponse({"id": number}, status)

    @prefiq.transactional
    async def stream(request: Request) -> StreamingResponse:
        await prefiq.db.fetch_value("select count(*) from child")

        async def lines() -> AsyncIterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{await prefiq.db.fetch_value('select count(*) from child')}\n"

        return StreamingResponse(lines())

    return _starlette(prefiq, add, stream)


def starlette_sync(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_starlette.PrefiqDb(boot(url, "sync", **settings), **options)

    @prefiq.transactional(**transaction)
    def add(request: Request) -> JSONResponse:
        number, values, refuse, status = _asked(request)
        prefiq.db.execute(INSERT, values)
        if refuse == "raise":
            raise StarletteHTTPException(status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return JSONResponse({"id": number}, status)

    @prefiq.transactional
    def stream(request: Request) -> StreamingResponse:
        prefiq.db.fetch_value("select count(*) from child")

        def lines() -> Iterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{prefiq.db.fetch_value('select count(*) from child')}\n"

        return StreamingResponse(lines())

    return _starlette(prefiq, add, stream)


def flask_sync(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    arguments = {"database": {"url": url, "pool_size": 2, "max_overflow": 0, **settings}}
    app = Flask("tests")
    prefiq = for_flask.PrefiqDb(app, lambda: bootstrap(arguments=arguments, environ={}), **options)

    @app.errorhandler(PrefiqDbError)
    def explain(error: PrefiqDbError) -> Any:
        return {"kind": error.kind.value}, 503

    @app.post("/child/<int:number>")
    @prefiq.transactional(**transaction)
    def add(number: int) -> Any:
        query = flask.request.args
        prefiq.db.execute(INSERT, _values(number, int(query["parent"]) if "parent" in query else None))
        if query.get("refuse") == "raise":
            raise SeeOther() if query["status"] == "303" else werkzeug.exceptions.NotFound()
        if query.get("refuse") == "fail":
            raise LookupError("a mistake")
        return {"id": number}, int(query.get("status", 200))

    @app.get("/stream")
    @prefiq.transactional
    def stream() -> Any:
        prefiq.db.fetch_value("select count(*) from child")

        def lines() -> Iterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{prefiq.db.fetch_value('select count(*) from child')}\n"

        return flask.Response(lines())

    @contextmanager
    def serve(app: Any) -> Iterator[str]:
        with prefiq, serve_wsgi(app) as address:
            yield address

    return Made(app, prefiq, serve)


class SeeOther(werkzeug.exceptions.HTTPException):
    """An exception that is no error for the client."""

    code = 303


def _litestar(prefiq: Any, handlers: list[Any]) -> Made:
    def explain(request: Any, error: PrefiqDbError) -> litestar.Response[Any]:
        return litestar.Response({"kind": error.kind.value}, status_code=503)

    def fail(request: Any, error: LookupError) -> litestar.Response[Any]:
        return litestar.Response({"mistake": True}, status_code=500)

    app = litestar.Litestar(
        handlers,
        lifespan=[prefiq.lifespan],
        middleware=[prefiq.middleware],
        exception_handlers={PrefiqDbError: explain, LookupError: fail},
        logging_config=None,
        openapi_config=None,
    )
    return Made(app, prefiq, serve_asgi)


def litestar_async(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_litestar.PrefiqDb(boot(url, "async", **settings), **options)

    @litestar.post("/child/{number:int}", status_code=200)
    @prefiq.transactional(**transaction)
    async def add(request: litestar.Request[Any, Any, Any]) -> litestar.Response[dict[str, int]]:
        number, values, refuse, status = _asked(request)
        await prefiq.db.execute(INSERT, values)
        if refuse == "raise":
            raise LitestarHTTPException(status_code=status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return litestar.Response({"id": number}, status_code=status)

    @litestar.get("/stream")
    @prefiq.transactional
    async def stream() -> Stream:
        await prefiq.db.fetch_value("select count(*) from child")

        async def lines() -> AsyncIterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{await prefiq.db.fetch_value('select count(*) from child')}\n"

        return Stream(lines())

    return _litestar(prefiq, [add, stream])


def litestar_sync(url: str, settings: dict[str, Any], options: dict[str, Any], **transaction: Any) -> Made:
    prefiq = for_litestar.PrefiqDb(boot(url, "sync", **settings), **options)

    @litestar.post("/child/{number:int}", status_code=200, sync_to_thread=True)
    @prefiq.transactional(**transaction)
    def add(request: litestar.Request[Any, Any, Any]) -> litestar.Response[dict[str, int]]:
        number, values, refuse, status = _asked(request)
        prefiq.db.execute(INSERT, values)
        if refuse == "raise":
            raise LitestarHTTPException(status_code=status)
        if refuse == "fail":
            raise LookupError("a mistake")
        return litestar.Response({"id": number}, status_code=status)

    @litestar.get("/stream", sync_to_thread=True)
    @prefiq.transactional
    def stream() -> Stream:
        prefiq.db.fetch_value("select count(*) from child")

        def lines() -> Iterator[str]:
            yield f"{prefiq.db.stats().pool.checked_out}\n"
            yield f"{prefiq.db.fetch_value('select count(*) from child')}\n"

        return Stream(lines())

    return _litestar(prefiq, [add, stream])


_ALL = (
    fastapi_async,
    fastapi_sync,
    starlette_async,
    starlette_sync,
    flask_sync,
    litestar_async,
    litestar_sync,
)
SERVICES = {each.__name__: each for each in _ALL}
