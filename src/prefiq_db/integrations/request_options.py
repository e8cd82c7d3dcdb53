"""The options of a request's scope."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prefiq_db.config import MAX_SECONDS
from prefiq_db.errors import UsageError
from prefiq_db.transaction import check_timeout

# What a client may call its request: enough for any id or trace, and harmless in a log.
_ID: Final = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


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

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        for name in ("timeout_header", "id_header"):
            header = getattr(self, name)
            if header is not None and not (isinstance(header, str) and re.fullmatch(r"[\w-]+", header, re.ASCII)):
                raise UsageError(f"{name}: expected the name of a header, or None")
        for name in ("read_only_requests", "cancel_on_disconnect"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: expected True or False")
        if isinstance(self.rolls_back_from, bool) or not isinstance(self.rolls_back_from, int):
            raise UsageError("rolls_back_from: expected the first status that rolls back, 400 for example")
        methods = [self.safe_methods] if isinstance(self.safe_methods, str) else list(self.safe_methods)
        object.__setattr__(self, "safe_methods", frozenset(method.upper() for method in methods))

    def seconds(self, asked: str | None) -> float | None:
        """Return how long a request may take: *asked* by the client, but never longer than the setting."""
        try:
            own = None if asked is None else float(asked)
        except ValueError:
            own = None  # what a client sends must not break the request
        if own is None or not 0 < own <= MAX_SECONDS:  # NaN is refused here, too
            return self.timeout
        return own if self.timeout is None else min(own, self.timeout)

    def is_safe(self, method: str) -> bool:
        """Return whether requests with *method* only read."""
        return method.upper() in self.safe_methods


def usable_id(given: str | None) -> str | None:
    """Return the request id that a client sent, if it is short and plain enough for logs."""
    return given if given is not None and _ID.fullmatch(given) else None
