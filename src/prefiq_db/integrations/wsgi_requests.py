"""The scope of a request in a WSGI framework, as a plain WSGI middleware; see ``asgi_requests`` for the ASGI one.

The COMMIT happens where the framework calls ``start_response``: the status is known, and nothing has been sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, Final

from prefiq_db.errors import UsageError
from prefiq_db.integrations.request_scope import SYNC_TRANSACTIONS, NoResponse, RequestScope, entered
from prefiq_db.integrations.service import Service

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Returns a block within the scope of a request.
Within = Callable[[], AbstractContextManager[RequestScope]]

# The first status that tells the client of an error.
_FIRST_ERROR: Final = 400


class RequestMiddleware:
    """Give each request a scope, and end its transactions before its response is sent.

    Args:
        service: the framework's ``PrefiqDb``.
        route: returns the route's template, once the framework has found it.
        answer: answers an exception that the COMMIT raised, as a WSGI application, or raises it: ``answer(failure,
            environ, start_response)``.
        request: returns the framework's request of a WSGI environment.
    """

    def __init__(
        self,
        app: WsgiApp,
        service: Service,
        route: Callable[[], str | None],
        answer: Callable[[Exception, dict[str, Any], Callable[..., Any]], Iterable[bytes]],
        request: Callable[[dict[str, Any]], Any],
    ) -> None:
        self._app = app
        self._service = service
        self._route = route
        self._answer = answer
        self._request = request

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def header(name: str) -> str | None:
            value = environ.get("HTTP_" + name.upper().replace("-", "_"))
            return None if value is None else str(value)

        request = RequestScope(
            self._service.options,
            environ["REQUEST_METHOD"],
            header,
            self._route,
            lambda: self._request(environ),
        )
        response = _Response(request, self._service, start_response)

        def within() -> AbstractContextManager[RequestScope]:
            return entered(request, self._service.databases.values())

        with within():
            try:
                body = response.begun(self._app(environ, response.start), within)
            except BaseException as error:
                response.end_without(error)
                if response.is_started or not isinstance(error, Exception):
                    raise
                if not isinstance(request.failure, Exception):
                    raise
            else:
                response.end_without(NoResponse())
                request.answered()
                if response.is_started or request.failure is None:
                    return body
                body.close()
                if not isinstance(request.failure, Exception):
                    raise request.failure
            return self._answer(request.failure, environ, start_response)


class _Response:
    """The start of one response, and the end of its request's transactions just before."""

    def __init__(self, request: RequestScope, service: Service, start_response: Callable[..., Any]) -> None:
        self.is_started = False
        self._request = request
        self._service = service
        self._start_response = start_response
        # why no response but an error may follow
        self._undone: BaseException | None = None

    def start(self, status: str, headers: Any, *exc_info: Any) -> Any:
        """End the transactions, and pass the start on to the server; it is the ``start_response`` of the application.

        Raises:
            BaseException: the COMMIT failed, or the work was rolled back, and *status* is none of an error: the server
                hears nothing of it.
        """
        code = int(status.split(" ", 1)[0])
        if not self._request.settled:
            self._settle(code)
        elif self._undone is not None and code < _FIRST_ERROR:
            raise self._undone
        self.is_started = True
        return self._start_response(status, headers, *exc_info)

    def begun(self, body: Iterable[bytes], within: Within) -> _Body:
        """Return *body*, read as far as it must be to start the response: a middleware may do that only when read.

        What is read here is read inside of the request. WSGI wants the start before the first bytes.
        """
        chunks = iter(body)
        read: list[bytes] = []
        try:
            while not self._request.settled and not any(read):
                read.append(next(chunks))
        except StopIteration:
            pass
        except BaseException:
            _Body(body, chunks, within).close()
            raise
        return _Body(body, chain(read, chunks), within)

    def end_without(self, error: BaseException) -> None:
        """Roll back what is still open, because of *error*: no response has started."""
        if self._end(error) and self._undone is None:
            self._undone = UsageError(
                "the request's transaction was rolled back, because no response had started when the application "
                "returned its first bytes or raised: only an error may be sent now; call start_response before that"
            )
        self._request.settled = True

    def _settle(self, status: int) -> None:
        """End the transactions, or raise: then nothing of the response is sent."""
        request = self._request
        verdict = request.verdict(status)
        try:
            if verdict is None:
                request.check_nothing_left(self._service.databases.values())
            if self._end(verdict) and verdict is not None and not request.doomed:
                self._undone = UsageError(
                    "the request's transaction was rolled back, because its response was an error: only an error may "
                    "be sent now; change the status before start_response is called, or inside PrefiqDb's middleware"
                )
        except BaseException as error:
            request.failure = self._undone = error
            self._end(error)
            raise
        finally:
            request.settled = True

    def _end(self, error: BaseException | None) -> bool:
        """Commit the open transactions, or roll them back because of *error*; return whether there were any."""
        found = False
        for tx in self._request.to_end():
            found = True
            assert isinstance(tx, SYNC_TRANSACTIONS)
            tx.__exit__(None if error is None else type(error), error, None)
        return found


class _Body:
    """The body of a response, of which a part may be read already; the server closes it, and so the application's.

    The server reads it when the application has returned. A generator that makes it works for the request all the same:
    each of its parts is made within the request's scope.
    """

    def __init__(self, body: Iterable[bytes], chunks: Iterator[bytes], within: Within) -> None:
        self._body = body
        self._chunks = chunks
        self._within = within

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._within():
            return next(self._chunks)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._within():
                close()
