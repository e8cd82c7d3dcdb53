"""The life of a stream, whatever it reads: opened once, closed once, used by one task or thread at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from prefiq_db.call import Call
from prefiq_db.core.view import View
from prefiq_db.errors import ClosedError, ErrorKind, TransactionBusyError, UsageError
from prefiq_db.hooks.calls import CALL_EVENTS, tell_end, tell_start

_LEFT: Final = "the stream is closed: its block has ended"


class StreamLife(ABC):
    """The part of a stream that rows and documents share.

    Attributes:
        _reads: what it reads, in the messages: ``rows``.
        _cut_off: the message after the end of what it read in.
        _ready: fetched, and not handed out yet.
        _refusal: why it gives nothing now; ``None``: it gives.
    """

    _reads: ClassVar[str]
    _cut_off: ClassVar[str]

    def __init__(self, database: View, call: Call) -> None:
        self._database: Any = database
        self._call = call
        self._ready: list[Any] | None = None
        self._not_open = f"the stream is not open: use it as `with db.stream(...) as {self._reads}:`"
        self._refusal: str | None = self._not_open
        self._is_open = self._was_opened = self._told = False
        self._users: dict[None, object] = {}
        self._started = 0.0

    def hush(self, error: BaseException) -> None:
        self._database.hush(error)

    @property
    def is_begun(self) -> bool:
        return self._was_opened

    @property
    def is_over(self) -> bool:
        """Whether it holds nothing any more."""
        return not self._is_open

    def _begin_to_open(self) -> None:
        if self._was_opened:
            raise UsageError("a stream is opened once; call stream() again for another one")
        self._was_opened = True
        self._refuse_after_failure()
        self._started = time.perf_counter()
        if not self._database.hooks.wanted.isdisjoint(CALL_EVENTS):
            self._told = True
            tell_start(self._database.hooks, self._database.name, self._call)

    def _refuse_after_failure(self) -> None:
        self._refusal, self._ready = f"the stream has ended with an error, and gives no more {self._reads}", None

    def _check_gives(self) -> None:
        """Raise if it gives nothing now."""
        if self._refusal is not None:
            raise (UsageError if self._refusal is self._not_open else ClosedError)(self._refusal)

    def close(self, error: BaseException | None = None) -> None:
        """Close the cursor, and end the stream's own transaction, if any; *error* is leaving the block, if any."""
        self._shut(error, _LEFT)

    def cut_off(self, error: BaseException | None) -> None:
        """Close the cursor, because what it reads in ends."""
        self._shut(error, self._cut_off)

    def _shut(self, error: BaseException | None, refusal: str) -> None:
        try:
            with self._alone():
                self._finish(error, of_ours=False)
        except TransactionBusyError:
            self._shut_while_used()
            raise
        finally:
            self._ready = None
            if self._refusal is not self._cut_off:
                self._refusal = refusal

    def _shut_while_used(self) -> None:  # noqa: B027 - one that holds no transaction has nothing to do
        """Do what can be done while somebody else reads."""

    @abstractmethod
    def _finish(self, error: BaseException | None, *, of_ours: bool = True) -> None:
        """Give everything back and report the end, once; *of_ours* if *error* is from the database."""

    def _tell_end(self, duration: float, failed: tuple[ErrorKind | None, str | int | None]) -> None:
        if self._told:
            self._told = False
            tell_end(self._database.hooks, self._database.name, self._call, duration, failed)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        mine = object()
        if self._users.setdefault(None, mine) is not mine:
            raise TransactionBusyError(
                "two tasks or threads used one stream at the same moment; let one of them read it, and hand its "
                f"{self._reads} on"
            )
        try:
            yield
        finally:
            del self._users[None]
