"""The endpoints answer what probes and people expect, over ASGI and WSGI alike, and never with a value."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from prefiq_db import AsyncDatabase, Database, bootstrap
from prefiq_db.errors import UsageError
from prefiq_db.health import Status, Verdict
from prefiq_db.integrations import asgi, wsgi


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask_wsgi(app: Any, path: str, method: str = "GET") -> Answer:
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ["PATH_INFO"], environ["SCRIPT_NAME"] = path, "" if path else "/mounted"
    started: list[Any] = []
    body = validator(app)(environ, lambda status, headers, info=None: started.extend((status, headers)))
    try:
        content = b"".join(body)
    finally:
        body.close()  # type: ignore[attr-defined]
    return Answer(int(started[0].split()[0]), {name.lower(): value for name, value in started[1]}, content)


async def send_asgi(app: Any, scope: dict[str, Any]) -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, body["body"])


def ask_asgi(app: Any, path: str, method: str = "GET", root_path: str = "") -> Answer:
    return asyncio.run(send_asgi(app, {"type": "http", "method": method, "path": path, "root_path": root_path}))


@pytest.fixture(params=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Answer]:
    """Make an application of either kind and ask it."""
    module, send = {"asgi": (asgi, ask_asgi), "wsgi": (wsgi, ask_wsgi)}[request.param]

    def asked(source: Any, path: str, method: str = "GET", **options: Any) -> Answer:
        return send(module.HealthApp(source, **options), path, method)  # type: ignore[operator, attr-defined]

    return asked


@pytest.fixture
def db() -> Iterator[Database]:
    with Database("sqlite://") as database:
        yield database


@pytest.fixture
def closed() -> Database:
    """A database that fails at once."""
    database = Database("sqlite://", name="ledger")
    database.close()
    return database


def test_a_database_that_is_well_is_a_200_with_its_response_time(ask: Callable[..., Answer], db: Database) -> None:
    answer = ask(db, "/healthz")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/health+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.json["status"] == "pass"
    (check,) = answer.json["checks"]["main:responseTime"]
    assert check.keys() == {"componentType", "observedValue", "observedUnit", "status", "time"}
    assert (check["componentType"], check["observedUnit"], check["status"]) == ("datastore", "ms", "pass")
    assert check["time"].endswith("Z")


def test_a_database_that_fails_is_a_503_with_the_reason(
    ask: Callable[..., Answer], db: Database, closed: Database
) -> None:
    answer = ask([db, closed], "/healthz")
    assert answer.status == 503
    assert (answer.json["status"], answer.json["output"]) == ("fail", "ledger: usage")
    assert answer.json["checks"]["ledger:responseTime"][0]["output"] == "usage"
    assert answer.json["checks"]["main:responseTime"][0]["status"] == "pass"


def test_a_database_that_is_not_critical_only_warns(ask: Callable[..., Answer], db: Database, closed: Database) -> None:
    answer = ask([db, closed], "/healthz", non_critical=["ledger"])
    assert (answer.status, answer.json["status"]) == (200, "warn")


def test_liveness_never_touches_a_database(ask: Callable[..., Answer], closed: Database) -> None:
    answer = ask(closed, "/livez")
    assert (answer.status, answer.json) == (200, {"status": "pass"})


def test_readiness_asks_further_checks_too(ask: Callable[..., Answer], db: Database) -> None:
    checks = {"main:schema": lambda: Verdict(Status.FAIL, "behind")}
    answer = ask(db, "/readyz", checks=checks)
    assert (answer.status, answer.json["output"]) == (503, "main:schema: behind")
    assert answer.json["checks"]["main:schema"][0]["componentType"] == "component"
    assert ask(db, "/healthz", checks=checks).status == 200
    assert ask(db, "/readyz", checks={}).json["status"] == "pass"


def test_readiness_asks_for_the_schema_where_the_service_writes(ask: Callable[..., Answer], db: Database) -> None:
    assert "main:schema" in ask(db, "/readyz").json["checks"]
    assert "main:schema" not in ask(db, "/readyz", read_only=["main"]).json["checks"]
    assert "main:schema" not in ask(db, "/readyz", non_critical=["main"]).json["checks"]


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/db", "/db.json"])
def test_head_is_get_without_the_body(ask: Callable[..., Answer], db: Database, path: str) -> None:
    answer = ask(db, path, "HEAD", page=True, checks={})
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(ask: Callable[..., Answer], db: Database, method: str) -> None:
    answer = ask(db, "/healthz", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthz/x", "/db", "/db.json", ""])
def test_other_paths_are_not_there_and_the_page_only_when_it_is_wanted(
    ask: Callable[..., Answer], db: Database, path: str
) -> None:
    assert ask(db, path).status == 404


def test_an_application_gives_all_its_databases(tmp_path: Any) -> None:
    arguments = {
        "database": {"url": f"sqlite:///{tmp_path}/main.db"},
        "databases": {"ledger": {"url": f"sqlite:///{tmp_path}/ledger.db"}},
    }
    with bootstrap(arguments=arguments) as app:
        checks = ask_wsgi(wsgi.HealthApp(app), "/healthz").json["checks"]
    assert set(checks) == {"main:responseTime", "ledger:responseTime"}


def test_a_mounted_asgi_application_answers_below_its_place(db: Database) -> None:
    app = asgi.HealthApp(db)
    assert ask_asgi(app, "/internal/healthz", root_path="/internal").status == 200
    assert ask_asgi(app, "/healthz", root_path="/internal").status == 200  # servers that take the place away themselves
    assert ask_asgi(app, "/internalhealthz", root_path="/internal").status == 404


async def test_an_asgi_server_may_start_and_stop_it_and_a_websocket_is_closed(db: Database) -> None:
    app, sent = asgi.HealthApp(db), []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


def test_what_cannot_be_asked_is_refused_at_once() -> None:
    for make, hint in (
        (lambda: wsgi.HealthApp(AsyncDatabase("sqlite://")), "AsyncHealthCheck"),
        (lambda: asgi.HealthApp([]), "no database"),
        (lambda: asgi.HealthApp(["sqlite://"]), "str"),  # type: ignore[list-item]
    ):
        with pytest.raises(UsageError, match=hint):
            make()


def test_no_framework_is_needed() -> None:
    """The callables import none, so that a service without one doesn't need to install one."""
    code = (
        "import sys, prefiq_db.integrations.asgi, prefiq_db.integrations.wsgi; "
        "print([name for name in ('starlette', 'fastapi', 'flask', 'httpx') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- frameworks ----------------------------------------------------------------------------------


def test_flask_answers_beside_the_services_own_paths(db: Database) -> None:
    flask = pytest.importorskip("flask")
    from prefiq_db.integrations.flask import mount_health

    app = flask.Flask("service")
    app.add_url_rule("/own", "own", lambda: "own")
    mount_health(app, db, page=True, checks={})
    client = app.test_client()
    assert client.get("/own").text == "own"
    assert client.get("/healthz").json["status"] == "pass"
    assert client.get("/healthz").headers["Content-Type"] == "application/health+json"
    assert client.head("/readyz").data == b""
    assert client.post("/healthz").status_code == 405
    assert client.get("/db").headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("framework", ["starlette.applications.Starlette", "fastapi.FastAPI"])
async def test_starlette_and_fastapi_answer_beside_the_services_own_paths(framework: str) -> None:
    module, _, name = framework.rpartition(".")
    app = getattr(pytest.importorskip(module), name)()
    from prefiq_db.integrations.starlette import mount_health

    async with AsyncDatabase("sqlite://") as db:
        mount_health(app, db, page=True, checks={})
        scope = {"type": "http", "query_string": b"", "headers": [], "root_path": "", "http_version": "1.1"}

        async def asked(path: str, method: str = "GET") -> Answer:
            return await send_asgi(app, {**scope, "method": method, "path": path})

        assert (await asked("/healthz")).json["status"] == "pass"
        assert (await asked("/readyz", "HEAD")).body == b""
        assert (await asked("/healthz", "POST")).status == 405
        assert (await asked("/db")).headers["content-type"].startswith("text/html")
        assert (await asked("/elsewhere")).status == 404
