"""The scope of one request: its deadline, its tags, and the transactions that end before its response is sent.

Nothing here knows a framework. A scope is one mutable object in the context of all that works for its request.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from prefiq_db.call import NO_OVERRIDES, Overrides, RequestOverrides
from prefiq_db.deadline import Deadline
from prefiq_db.errors import TransactionOwnershipError, UsageError
from prefiq_db.faces.transaction_async import AsyncTransaction
from prefiq_db.faces.transaction_sync import Transaction
from prefiq_db.integrations.request_options import RequestOptions, usable_id
from prefiq_db.integrations.sources import AnyDatabase
from prefiq_db.mongo import AsyncMongoTransaction, MongoTransaction
from prefiq_db.overrides import OverrideScope
from prefiq_db.tags import Tags
from prefiq_db.transaction import RequestTransactions, ambient, open_here, within_request

AnyTransaction = Transaction | AsyncTransaction | MongoTransaction | AsyncMongoTransaction
#: the transactions of threads
SYNC_TRANSACTIONS: Final = (Transaction, MongoTransaction)

_KEPT_BACK: Final = ("request_id",)
# A statement needs some time: this is what one gets whose request has none left.
_LEAST_SECONDS: Final = 0.001

_current: ContextVar[RequestScope | None] = ContextVar("prefiq_db_request_scope", default=None)


class TenantOf:
    """The tenant of one request or WebSocket: it is asked for at the first use of a database, and kept.

    Args:
        request: returns the framework's request, for the function that tells its tenant.
    """

    def __init__(self, options: RequestOptions, request: Callable[[], Any]) -> None:
        self._options = options
        self._request = request
        self._found: Overrides | None = None
        # the threads that are asking for it
        self._asking: set[int] = set()

    def now(self) -> Overrides:
        """Return the overrides that choose it."""
        return self._found or self._ask()

    def _ask(self) -> Overrides:
        """Return them, and keep them.

        What the caller's function asks of a database, to find the tenant, goes to that of the settings.
        """
        here = threading.get_ident()
        if here in self._asking:
            return NO_OVERRIDES
        self._asking.add(here)
        try:
            self._found = self._options.tenant_of(self._request())
        finally:
            self._asking.discard(here)
        return self._found


class RequestScope:
    """One request, from its first line to the last byte of its response.

    Args:
        header: returns a header's value by its name.
        route: returns the route's template, once the framework has found it: ``/orders/{number}``.
        request: returns the framework's request, for the function that tells its tenant.
    """

    def __init__(
        self,
        options: RequestOptions,
        method: str,
        header: Callable[[str], str | None],
        route: Callable[[], str | None],
        request: Callable[[], Any],
    ) -> None:
        self.options = options
        self.method = method
        self.is_safe = options.is_safe(method)
        self.request_id: str | None = None
        if options.id_header is not None:
            self.request_id = usable_id(header(options.id_header)) or uuid.uuid4().hex
        seconds = options.seconds(None if options.timeout_header is None else header(options.timeout_header))
        self.deadline = None if seconds is None else Deadline.after(seconds, "timeout of the request")
        self.transactions = RequestTransactions()
        #: the request's own transactions, one per database, in the order of their beginning
        self.open: dict[str, AnyTransaction] = {}
        #: what the COMMIT raised: no response but an error may follow
        self.failure: BaseException | None = None
        #: an exception left the endpoint: whatever the response says, nothing is committed
        self.doomed = False
        #: the status is known and the transactions have ended
        self.settled = False
        self._route = route
        self._tenant = TenantOf(options, request)
        self._overrides: RequestOverrides | None = None
        self._tagged_route: str | None = None

    # --- overrides -------------------------------------------------------------------------------

    def now(self) -> Overrides:
        """Return the overrides in force now: the tenant, the time that is left, and the tags as far as known."""
        tenant = self._tenant.now()
        route = self._route() or self._tagged_route
        if self._overrides is None or route != self._tagged_route:
            found = {"request_id": self.request_id, "route": route, "method": self.method}
            tags = Tags({key: value for key, value in found.items() if value}, _KEPT_BACK)
            read_only = True if self.is_safe and self.options.read_only_requests else None
            self._overrides, self._tagged_route = RequestOverrides(tags=tags, read_only=read_only), route
        known = self._overrides
        if self.deadline is None and tenant is NO_OVERRIDES:
            return known
        left = None if self.deadline is None else self.deadline.left(_LEAST_SECONDS)
        return RequestOverrides(
            left, known.retry, known.read_only, known.idempotent, known.tags, tenant.schema, tenant.database
        )

    def answered(self) -> None:
        """Note that the response was sent: what is still done in the background has no deadline."""
        self.deadline = None

    # --- transactions ----------------------------------------------------------------------------

    def make(self, database: AnyDatabase, options: Mapping[str, Any]) -> AnyTransaction:
        """Return the request's transaction on *database*, for the caller to begin; it is ended with the request.

        Raises:
            UsageError: if the request has one on that database already, or its response was sent.
        """
        if self.settled:
            raise UsageError("the response is being sent: the transaction of a request begins before that")
        if database.name in self.open:
            raise UsageError(
                f"this request has a transaction on database {database.name} already: name it once, on the router or "
                "on the endpoint; for a part that may fail alone use db.transaction(), which is a savepoint there"
            )
        if ambient(database._core.instance) is not None:
            raise UsageError(f"a transaction on database {database.name} is open around the request's own")
        chosen = {"read_only": self.is_safe and not options.get("exactly_once"), **options}
        if self.deadline is not None:
            left, own = self.deadline.left(_LEAST_SECONDS), options.get("timeout")
            chosen["timeout"] = left if own is None else min(own, left)
        tx = self.open[database.name] = database.transaction(**chosen)
        return tx

    def share(self, tx: AnyTransaction) -> None:
        """Let all of the request run in *tx*, which has begun."""
        self.transactions.share(tx._core.tx)

    def to_end(self) -> Iterator[AnyTransaction]:
        """Yield the transactions that are open, the last one first; the caller ends each."""
        while self.open:
            _, tx = self.open.popitem()
            if tx._core.tx.is_begun and not tx._core.tx.is_over:
                yield tx

    def verdict(self, status: int) -> BaseException | None:
        """Return what the transactions end with: ``None`` for COMMIT."""
        if self.doomed or status >= self.options.rolls_back_from:
            return Refused()
        return None

    def check_nothing_left(self, databases: Iterable[AnyDatabase]) -> None:
        """Raise if a transaction other than the request's own is open: its COMMIT would come after the response.

        A session with work that isn't committed is one, too, and so is a statement that was refused since the endpoint
        has returned: who got the error may be unable to tell the client.
        """
        if self.transactions.refused is not None:
            raise self.transactions.refused
        for database in databases:
            instance = database._base.instance
            why = "its COMMIT would come after the response, and could not fail any more; see docs/requests.md"
            self.transactions.check_none_left(instance, why)
            mine = self.open.get(database.name)
            scope = open_here(instance)
            if scope is not None and (mine is None or scope.blocks[0] is not mine._core.tx):
                raise TransactionOwnershipError(
                    f"a transaction on database {instance.name} is open while the response is sent: {why}",
                    database=instance.name,
                )


class NoResponse(Exception):  # noqa: N818 - nobody catches it: it only tells a transaction to roll back
    """The application has ended without a response."""


class Refused(Exception):  # noqa: N818 - nobody catches it: it only tells a transaction to roll back
    """The response is an error, so the transaction is rolled back."""


@contextmanager
def entered(scope: RequestScope, databases: Iterable[AnyDatabase]) -> Iterator[RequestScope]:
    """Make *scope* that of the code in the block and of all that inherits the context."""
    before = _current.get()
    _current.set(scope)
    try:
        with ExitStack() as stack:
            stack.enter_context(within_request(scope.transactions))
            for database in databases:
                instance = database._base.instance
                if scope.options.tenant is not None:
                    instance.has_tenants = True
                stack.enter_context(OverrideScope(instance, NO_OVERRIDES, scope))
            yield scope
    finally:
        _current.set(before)


@contextmanager
def entered_by_websocket(tenant: TenantOf, databases: Iterable[AnyDatabase]) -> Iterator[None]:
    """Give the code in the block, and all that inherits the context, the tenant of a WebSocket; it has no more of a
    request.
    """
    with ExitStack() as stack:
        for database in databases:
            instance = database._base.instance
            instance.has_tenants = True
            stack.enter_context(OverrideScope(instance, NO_OVERRIDES, tenant))
        yield


def doom_request() -> None:
    """Let nothing of the running request be committed, if there is one: a framework has seen an exception."""
    scope = _current.get()
    if scope is not None:
        scope.doomed = True


def current_request(install: str) -> RequestScope:
    """Return the scope of the request that this code works for.

    Raises:
        UsageError: if there is none; *install* says how to make one.
    """
    scope = _current.get()
    if scope is None:
        raise UsageError(f"there is no request here, or it has no scope (a WebSocket has none): {install}")
    return scope


def check_transaction_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request's transaction.

    Raises:
        UsageError: one is unknown, or can't be kept for a request.
    """
    for name in ("attempts", "retry"):
        if name in options:
            raise UsageError(
                f"{name}: a request can't run again by itself: its body was read, and dependencies, middleware and the "
                "client's connection are used up. Put what may run again into a function, and call "
                "db.run_in_transaction(fn, ...) in an endpoint without a transaction of its own: it commits before it "
                "returns"
            )
    known = ("isolation", "read_only", "exactly_once", "timeout", "replica")
    for name in options:
        if name not in known:
            raise UsageError(f"{name}: unknown option of a request's transaction; expected some of {', '.join(known)}")
    return dict(options)
