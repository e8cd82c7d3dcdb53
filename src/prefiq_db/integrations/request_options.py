"""The options of a request's scope."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from prefiq_db.call import NO_OVERRIDES, Overrides
from prefiq_db.config import MAX_SECONDS
from prefiq_db.errors import UsageError
from prefiq_db.overrides import check_overrides
from prefiq_db.transaction import check_timeout
from prefiq_db.unrun import refuse_coroutine_function, refuse_uncallable

# What a client may call its request: enough for any id or trace, and harmless in a log.
_ID: Final = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

# Seconds as a client writes them; float() alone would take 1_0 for 10.
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How requests are treated; the arguments of each framework's ``PrefiqDb``.

    Attributes:
        timeout: seconds that a request may take for all of its work on databases together; ``None``: no limit beyond
            those of each statement.
        timeout_header: the header in which a client may ask for less: seconds, such as ``2.5``. ``None``: none.
        id_header: the header with the request's id; without a usable one the request gets a new id. ``None``: no id.
        safe_methods: the transaction of such a request is read-only, unless it says otherwise.
        read_only_requests: refuse writes outside the transaction, too, in requests with one of these methods. Each
            statement outside a transaction then gets a read-only one of its own: on MariaDB, more round trips.
        rolls_back_from: the first status of a response that rolls the transaction back.
        cancel_on_disconnect: cancel an ``async`` endpoint whose client has gone; a ``def`` endpoint runs to its end.
            Either way the transaction is rolled back.
        tenant: a function of the framework's request that returns the override of its tenant, ``{"schema": name}`` or
            ``{"database": name}``; ``None``: no tenant. It is called once in a request, at the first use of a database;
            what it raises is the request's error. It must not wait. For a WebSocket it gets the framework's connection:
            Starlette's ``HTTPConnection``, Litestar's ``ASGIConnection``.

    Raises:
        UsageError: if one has a wrong value.
    """

    timeout: float | None = None
    timeout_header: str | None = None
    id_header: str | None = "X-Request-ID"
    safe_methods: Iterable[str] = ("GET", "HEAD", "OPTIONS")
    read_only_requests: bool = False
    rolls_back_from: int = 400
    cancel_on_disconnect: bool = True
    tenant: Callable[[Any], Mapping[str, str] | None] | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        for name in ("timeout_header", "id_header"):
            header = getattr(self, name)
            if header is not None and not (isinstance(header, str) and re.fullmatch(r"[\w-]+", header, re.ASCII)):
                raise UsageError(f"{name}: expected the name of a header, or None")
        for name in ("read_only_requests", "cancel_on_disconnect"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: expected True or False")
        if self.tenant is not None:
            refuse_uncallable(self.tenant, "tenant")
            refuse_coroutine_function(self.tenant, "tenant")
        first = self.rolls_back_from
        if isinstance(first, bool) or not isinstance(first, int) or not 200 <= first <= 600:
            raise UsageError(
                "rolls_back_from: expected the first status that rolls back, 400 for example; 200 to 600 (none)"
            )
        given = self.safe_methods
        methods = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [None]
        if not all(isinstance(method, str) for method in methods):
            raise UsageError('safe_methods: expected the names of methods, such as ("GET", "HEAD")')
        object.__setattr__(self, "safe_methods", frozenset(str(method).upper() for method in methods))

    def seconds(self, asked: str | None) -> float | None:
        """Return how long a request may take: *asked* by the client, but never longer than the setting."""
        # What a client sends must not break the request: the pattern leaves nothing that float() refuses.
        own = float(asked) if asked is not None and _SECONDS.fullmatch(asked) else None
        if own is None or not 0 < own <= MAX_SECONDS:
            return self.timeout
        return own if self.timeout is None else min(own, self.timeout)

    def tenant_of(self, request: Any) -> Overrides:
        """Return the overrides that choose the tenant of the framework's *request*.

        Raises:
            UsageError: the function has returned something else.
        """
        chosen = None if self.tenant is None else self.tenant(request)
        if chosen is None:
            return NO_OVERRIDES
        if not isinstance(chosen, Mapping) or not {*chosen} <= {"schema", "database"}:
            raise UsageError('tenant: expected a function that returns {"schema": name}, {"database": name} or None')
        return check_overrides(chosen)

    def is_safe(self, method: str) -> bool:
        """Return whether requests with *method* only read."""
        return method.upper() in self.safe_methods


def request_options(given: Mapping[str, Any]) -> RequestOptions:
    """Return the options that a framework's ``PrefiqDb`` was *given*.

    Raises:
        UsageError: one is unknown, or has a wrong value.
    """
    known = [field.name for field in fields(RequestOptions)]
    for name in given:
        if name not in known:
            raise UsageError(f"{name}: unknown option of PrefiqDb; expected some of {', '.join(known)}")
    return RequestOptions(**given)


def usable_id(given: str | None) -> str | None:
    """Return the request id that a client sent, if it is short and plain enough for logs."""
    return given if given is not None and _ID.fullmatch(given) else None
