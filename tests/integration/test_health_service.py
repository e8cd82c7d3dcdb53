"""The example services tell the truth while their PostgreSQL goes and comes back, in both worlds."""

from __future__ import annotations

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.docs.pages import ROOT

# Each probe asks anew, and has time enough on a slow machine.
PATIENT = {"cache_seconds": 0.0, "deadline_seconds": 10.0}


def example(name: str) -> Any:
    """Return the module of an example."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without settings."""
    monkeypatch.chdir(tmp_path)


def assert_down(body: dict[str, Any], port: int) -> None:
    assert body["status"] == "fail"
    assert body["output"].startswith(("main: connect_failed", "main: connection_lost", "main: server_shutdown"))
    assert str(port) not in json.dumps(body["checks"]["main:responseTime"][0]["output"])
    assert "127.0.0.1" not in json.dumps(body)


@pytest.mark.usefixtures("empty_place")
async def test_the_fastapi_example_is_well_then_not_then_well_again(
    new_postgresql_server: Callable[..., Any],
) -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    server = new_postgresql_server()
    service = example("service_fastapi").make_app({"url": server.url(server.create_database())}, **PATIENT)
    transport = httpx.ASGITransport(app=service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        assert (await client.put("/stock/CUP", params={"quantity": 3})).json() == {"sku": "CUP", "quantity": 3}
        assert (await client.get("/healthz")).status_code == 200
        server.stop()
        down = await client.get("/healthz")
        assert down.status_code == 503
        assert_down(down.json(), server.port)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/db.json")).json()["databases"][0]["status"] == "fail"
        server.start()
        again = await client.get("/healthz")
        assert (again.status_code, again.json()["status"]) == (200, "pass")
        assert (await client.get("/stock")).json() == [{"sku": "CUP", "quantity": 3}]
        assert (await client.get("/operations")).json()["INSERT"] == 1


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serve a WSGI application on a real socket; return its URL."""
    running: list[Any] = []

    def start(app: Any) -> str:
        server = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.usefixtures("empty_place")
def test_the_flask_example_is_well_then_not_then_well_again(
    new_postgresql_server: Callable[..., Any], serve: Callable[[Any], str]
) -> None:
    """Over a real socket, as a probe of Kubernetes asks."""
    pytest.importorskip("flask")
    server = new_postgresql_server()
    service = example("service_flask").make_app({"url": server.url(server.create_database())}, **PATIENT)
    with service.extensions["prefiq_db"]:
        url = serve(service)
        assert get(f"{url}/stock/CUP?quantity=3", "PUT") == (200, {"sku": "CUP", "quantity": 3})
        assert get(f"{url}/healthz")[0] == 200
        server.stop()
        status, body = get(f"{url}/healthz")
        assert status == 503
        assert_down(body, server.port)
        assert get(f"{url}/livez")[0] == 200
        assert get(f"{url}/readyz")[0] == 503
        assert get(f"{url}/db.json")[1]["databases"][0]["status"] == "fail"
        server.start()
        status, body = get(f"{url}/healthz")
        assert (status, body["status"]) == (200, "pass")
        assert get(f"{url}/stock") == (200, [{"sku": "CUP", "quantity": 3}])
        assert get(f"{url}/operations")[1]["INSERT"] == 1
