"""The endpoints, independent of ASGI and WSGI: from path and method to status, headers and body."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from prefiq_db.health import Health
from prefiq_db.integrations.health_json import HEALTH_TYPE, health_json
from prefiq_db.integrations.page import PAGE, PAGE_HEADERS
from prefiq_db.integrations.page_data import collect_page_data
from prefiq_db.integrations.sources import AnyDatabase

Header = tuple[str, str]
Question = Literal["nothing", "health", "readiness"]

_NO_STORE: Final = ("Cache-Control", "no-store")
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply."""

    status: int
    headers: Sequence[Header]
    body: bytes

    @property
    def reason(self) -> str:
        return _REASONS[self.status]


_REASONS: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path: the check that it runs, and how to build the reply."""

    asks: Question
    reply: Callable[[Health], Reply]


class Endpoints:
    """The paths of a service: ``/healthz``, ``/livez``, ``/readyz``; with *page* also ``/db`` and ``/db.json``."""

    def __init__(self, databases: Sequence[AnyDatabase], *, page: bool) -> None:
        self._databases = databases
        self._by_path = {
            "/healthz": Endpoint("health", _health),
            "/livez": Endpoint("nothing", _health),
            "/readyz": Endpoint("readiness", _health),
        }
        if page:
            self._by_path["/db"] = Endpoint("nothing", lambda health: _PAGE)
            self._by_path["/db.json"] = Endpoint("health", self._data)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._by_path)

    def at(self, method: str, path: str) -> Endpoint | Reply:
        """Return the endpoint at *path*, or the error reply if there is none."""
        endpoint = self._by_path.get(path)
        if endpoint is None:
            return Reply(404, (_TEXT, _NO_STORE), b"not found\n")
        if method not in _METHODS:
            return Reply(405, (_TEXT, _NO_STORE, ("Allow", ", ".join(_METHODS))), b"method not allowed\n")
        return endpoint

    def _data(self, health: Health) -> Reply:
        return _json(200, "application/json", collect_page_data(self._databases, health))


def _health(health: Health) -> Reply:
    return _json(200 if health else 503, HEALTH_TYPE, health_json(health))


def _json(status: int, content_type: str, content: Any) -> Reply:
    body = json.dumps(content, separators=(",", ":")).encode()
    return Reply(status, (("Content-Type", content_type), _NO_STORE, ("X-Content-Type-Options", "nosniff")), body)


_PAGE: Final = Reply(200, (("Content-Type", "text/html; charset=utf-8"), _NO_STORE, *PAGE_HEADERS), PAGE)


def frame(reply: Reply, method: str) -> tuple[list[Header], bytes]:
    """Return the headers, with the content length, and the body to send; it is empty for HEAD."""
    headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
    return headers, b"" if method == "HEAD" else reply.body
