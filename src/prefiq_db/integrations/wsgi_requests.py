"""The scope of a request in a WSGI framework, as a plain WSGI middleware; see ``asgi_requests`` for the ASGI one.

The COMMIT happens where the framework calls ``start_response``: the status is known, and nothing has been sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prefiq_db.faces.transaction_sync import Transaction
from prefiq_db.integrations.request_scope import RequestScope, entered
from prefiq_db.integrations.service import Service

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class RequestMiddleware:
    """Give each request a scope, and end its transactions before its response is sent.

    Args:
        service: the framework's ``PrefiqDb``.
        route: returns the route's template, once the framework has found it.
        answer: answers an exception that the COMMIT raised, as a WSGI application, or raises it: ``answer(failure,
            environ, start_response)``.
    """

    def __init__(
        self,
        app: WsgiApp,
        service: Service,
        route: Callable[[], str | None],
        answer: Callable[[Exception, dict[str, Any], Callable[..., Any]], Iterable[bytes]],
    ) -> None:
        self._app = app
        self._service = service
        self._route = route
        self._answer = answer

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def header(name: str) -> str | None:
            value = environ.get("HTTP_" + name.upper().replace("-", "_"))
            return None if value is None else str(value)

        request = RequestScope(self._service.options, environ["REQUEST_METHOD"], header, self._route)
        with entered(request, self._service.databases.values()):
            return self._run(request, environ, start_response)

    def _run(
        self, request: RequestScope, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(status: str, headers: Any, *exc_info: Any) -> Any:
            if not request.settled:
                self._settle(request, int(status.split(" ", 1)[0]))
            return start_response(status, headers, *exc_info)

        try:
            body = self._app(environ, start)
        except BaseException as error:
            _end(request, error)
            if not isinstance(error, Exception) or not isinstance(request.failure, Exception):
                raise
        else:
            # A body that starts the response only when it is read has no transaction then.
            _end(request, None if request.settled else _NoResponse())
            request.settled = True
            request.answered()
            return body
        return self._answer(request.failure, environ, start_response)

    def _settle(self, request: RequestScope, status: int) -> None:
        """End the transactions, or raise: then nothing of the response is sent."""
        verdict = request.verdict(status)
        try:
            if verdict is None:
                request.check_nothing_left(self._service.databases.values())
            _end(request, verdict)
        except BaseException as error:
            request.failure = error
            _end(request, error)
            raise
        finally:
            request.settled = True


def _end(request: RequestScope, error: BaseException | None) -> None:
    for tx in request.to_end():
        assert isinstance(tx, Transaction)
        tx.__exit__(None if error is None else type(error), error, None)


class _NoResponse(Exception):  # noqa: N818 - nobody catches it: it only tells a transaction to roll back
    """The application has ended without a response."""
