"""The scope of a request in any ASGI framework, as a plain ASGI middleware.

The COMMIT happens where the framework sends ``http.response.start``: everything that may fail before is done, the
status is known, and nothing has been sent to the client.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from prefiq_db.errors import OutcomeUnknownError
from prefiq_db.integrations.asgi import Receive, Scope, Send
from prefiq_db.integrations.request_scope import (
    SYNC_TRANSACTIONS,
    AnyTransaction,
    NoResponse,
    RequestScope,
    TenantOf,
    current_request,
    entered,
    entered_by_websocket,
)
from prefiq_db.integrations.service import Service

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Message = MutableMapping[str, Any]

#: nginx's status of a request whose client has gone; only middleware and logs see it
_CLIENT_CLOSED: Final = 499

# As many threads as Starlette has for endpoints.
_MOST_BEGINNERS: Final = 40


class RequestMiddleware:
    """Give each HTTP request a scope, and end its transactions before its response is sent.

    Args:
        service: the framework's ``PrefiqDb``.
        route: returns the route's template from the ASGI scope, once the framework has found it.
        answer: sends the response to an exception that the COMMIT raised, or raises it: ``answer(failure, scope,
            receive, send)``. ``None``: raise it.
        request: returns the framework's request of an ASGI scope, or the connection of a WebSocket's.
    """

    def __init__(
        self,
        app: AsgiApp,
        service: Service,
        route: Callable[[Scope], str | None] = lambda scope: None,
        answer: Callable[[Exception, Scope, Receive, Send], Awaitable[None]] | None = None,
        request: Callable[[Scope], Any] = lambda scope: scope,
    ) -> None:
        self.app = app
        self.service = service
        self.route = route
        self.answer = answer
        self.request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and self.service.options.tenant is not None:
            tenant = TenantOf(self.service.options, lambda: self.request(scope))
            with entered_by_websocket(tenant, self.service.databases.values()):
                await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        header = functools.partial(_header, scope)
        request = RequestScope(
            self.service.options,
            scope["method"],
            header,
            lambda: self.route(scope),
            lambda: self.request(scope),
        )
        with entered(request, self.service.databases.values()):
            await _Exchange(self, request, scope, receive, send).run()


class _Exchange:
    """One request and its response."""

    def __init__(
        self, middleware: RequestMiddleware, request: RequestScope, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._middleware = middleware
        self._request = request
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._finished = False
        self._interrupted = False

    async def run(self) -> None:
        try:
            await self._respond()
        finally:
            self._request.answered()  # however it ended: tasks that it has started have no deadline any more

    async def _respond(self) -> None:
        request = self._request
        try:
            gone = await self._run_app()
        except BaseException as error:
            await self._end(request.failure or error)
            if not isinstance(error, Exception) or not isinstance(request.failure, Exception):
                raise
        else:
            await self._end(request.failure or NoResponse())
        if isinstance(request.failure, Exception):
            # Whatever the framework made of it on the way: the client gets the answer to what the COMMIT raised.
            await self._answer(request.failure)
        elif gone and not self._started:
            await self._send({"type": "http.response.start", "status": _CLIENT_CLOSED, "headers": []})
            await self._send({"type": "http.response.body", "body": b""})

    async def _answer(self, failure: Exception) -> None:
        if self._middleware.answer is None:
            raise failure
        await self._middleware.answer(failure, self._scope, self._receive, self._send)

    # --- the client that goes away -----------------------------------------------------------------

    async def _run_app(self) -> bool:
        """Run the application; return whether it was cancelled because the client has gone."""
        app = self._middleware.app
        # A client that sends "Expect: 100-continue" waits for the application to want the body: don't read ahead.
        if not self._request.options.cancel_on_disconnect or _header(self._scope, "Expect") is not None:
            await app(self._scope, self._receive, self._forward)
            return False
        with anyio.CancelScope() as work:
            listener = _Listener(self._receive, lambda: None if self._finished else work.cancel())
            listening = asyncio.create_task(listener.listen())
            try:
                await app(self._scope, listener.receive, self._forward)
            finally:
                listening.cancel()
        await asyncio.wait([listening])
        return work.cancelled_caught

    # --- the response ------------------------------------------------------------------------------

    async def _forward(self, message: Message) -> None:
        request = self._request
        if request.failure is not None:
            raise request.failure
        if message["type"] == "http.response.start":
            if not request.settled:
                await self._settle(message["status"])
            elif self._interrupted and request.verdict(message["status"]) is None:
                raise OutcomeUnknownError(
                    "the COMMIT of this request was interrupted, so a response that reports success would be a guess; "
                    "answer with an error status"
                )
            self._started = True
        if message["type"].startswith("http.response.") and _is_last(message):
            self._finished = True
            request.answered()
        await self._send(message)

    async def _settle(self, status: int) -> None:
        """End the transactions, or raise: then nothing of the response is sent."""
        request = self._request
        verdict = request.verdict(status)
        try:
            if verdict is None:
                request.check_nothing_left(self._middleware.service.databases.values())
            await self._end(verdict)
        except BaseException as error:
            if isinstance(error, Exception):
                request.failure = error
            else:
                # A time limit, say. Who set it answers, in a task that isn't cancelled any more.
                self._interrupted = True
            await self._end(error)
            raise
        finally:
            request.settled = True

    async def _end(self, error: BaseException | None) -> None:
        """Commit the open transactions, or roll them back because of *error*."""
        for tx in self._request.to_end():
            kind = None if error is None else type(error)
            if isinstance(tx, SYNC_TRANSACTIONS):
                await _in_thread(tx.__exit__, kind, error, None)
            else:
                await tx.__aexit__(kind, error, None)


async def _in_thread(function: Callable[..., Any], *args: Any) -> None:
    """Run *function* in a thread, to its end, whether or not we are cancelled: it begins or ends a transaction.

    A cancellation that arrived meanwhile is raised afterwards, as the same instance. The thread is none of those that
    run endpoints: if all of those waited for connections, the endpoints of who has the connections could not run.
    """
    running = anyio.to_thread.run_sync(function, *args, limiter=anyio.CapacityLimiter(1))
    task = asyncio.create_task(running)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
    if cancelled is not None:
        _ = task.exception()  # retrieve it, or asyncio logs that nobody did
        raise cancelled
    task.result()


_limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = WeakKeyDictionary()


def _beginners() -> anyio.CapacityLimiter:
    """Return what bounds the threads that begin transactions, which may have to wait for connections."""
    return _limiters.setdefault(asyncio.get_running_loop(), anyio.CapacityLimiter(_MOST_BEGINNERS))


class _Listener:
    """Reads what the client sends one message ahead of the application, and so notices that it has gone.

    Once the application has the whole body, or the request has none, what comes next is the news that the client went
    away. While it has not, the rest of the body waits at the server, as it would without us.
    """

    def __init__(self, receive: Receive, gone: Callable[[], object]) -> None:
        self._receive = receive
        self._gone = gone
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._last: Message | None = None
        self._is_over = False

    async def listen(self) -> None:
        try:
            await self._listen()
        finally:
            self._is_over = True

    async def _listen(self) -> None:
        has_all = False
        while True:
            try:
                message = await self._receive()
            except Exception as error:  # noqa: BLE001 - the server's; the application gets it
                self._messages.put_nowait(error)
                return
            self._messages.put_nowait(message)
            if message["type"] == "http.disconnect":
                self._gone()
                return
            if has_all:
                # Somebody around us repeats the body for ever, and never tells of the client.
                return
            has_all = not message.get("more_body")
            if not has_all:
                await self._messages.join()

    async def receive(self) -> Message:
        if self._last is not None:
            return self._last
        if self._is_over and self._messages.empty():
            await asyncio.sleep(0)  # what never waits must not keep the event loop for itself
            return await self._receive()
        message = await self._messages.get()
        self._messages.task_done()
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.disconnect":
            self._last = message
        return message


def _is_last(message: Mapping[str, Any]) -> bool:
    """Return whether the response is complete with *message*."""
    if message["type"] == "http.response.pathsend":
        return True
    return message["type"] in ("http.response.body", "http.response.zerocopysend") and not message.get("more_body")


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.lower().encode("latin-1")
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted), None)


@asynccontextmanager
async def transaction_of_request(
    service: Service, database: str, options: Mapping[str, Any], install: str
) -> AsyncIterator[AnyTransaction]:
    """Begin the request's transaction; the middleware ends it. An exception that leaves the block rolls it back."""
    request = current_request(install)
    chosen = service.database(database)
    tx = request.make(chosen, options)
    if isinstance(tx, SYNC_TRANSACTIONS):
        async with _beginners():
            await _in_thread(tx.__enter__)
    else:
        await tx.__aenter__()
    request.share(tx)
    try:
        yield tx
    except BaseException:
        request.doomed = True
        raise
    request.transactions.has_returned = True
