"""Which messages a fault hits, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from prefiq_db.errors import UsageError
from prefiq_db.testing.faults.framing import Message
from prefiq_db.testing.faults.message_faults import Fault
from prefiq_db.testing.processes import wait_until

T = TypeVar("T")

Target = Callable[[Message], bool]


class PlanHolder(Protocol):
    """The proxy that a plan belongs to."""

    def call(self, action: Callable[[], T]) -> T: ...
    def forget(self, plan: FaultPlan) -> None: ...


class _Kind:
    """A named kind of message."""

    def __init__(self, name: str, holds: Target) -> None:
        self._name = name
        self._holds = holds

    def __call__(self, message: Message) -> bool:
        return self._holds(message)

    def __repr__(self) -> str:
        return self._name


#: A COMMIT, however written, alone or one of several statements, even if it was prepared before; ``commitTransaction``.
COMMIT: Target = _Kind("COMMIT", lambda message: message.is_commit)
#: The claim of a commit token: the INSERT that determines the outcome of a COMMIT.
CLAIM: Target = _Kind("CLAIM", lambda message: message.is_claim)
#: Any message with SQL that runs, or a command about a collection.
STATEMENT: Target = _Kind("STATEMENT", lambda message: bool(message.sql or message.collection))
#: Any message that the server answers: logins and pings, too.
ANY: Target = _Kind("ANY", lambda message: True)


class FaultPlan:
    """A fault, the messages it is for, and how many of them it hits; made by :meth:`FaultProxy.fault`.

    It is active until the end of its ``with`` block, or until :meth:`stop`.
    """

    def __init__(
        self,
        proxy: PlanHolder,
        fault: Fault,
        on: Target,
        *,
        probability: float,
        every: int,
        times: int | None,
        seed: int,
    ) -> None:
        if not 0 <= probability <= 1:
            raise UsageError("probability: expected a number from 0 to 1")
        if every < 1 or (times is not None and times < 1):
            raise UsageError("every and times: expected a number from 1")
        self.fault = fault
        self._proxy = proxy
        self._on = on
        self._probability = probability
        self._every = every
        self._times = times
        self._random = random.Random(seed)
        self._seen = 0
        self._hits = 0
        self._problem: Exception | None = None

    @property
    def seen(self) -> int:
        """How many messages have matched so far."""
        return self._proxy.call(lambda: self._seen)

    @property
    def hits(self) -> int:
        """How many messages were hit."""
        return self._proxy.call(lambda: self._hits)

    def wait(self, hits: int = 1, *, timeout_seconds: float = 10.0) -> None:
        """Wait until *hits* messages were hit.

        Raises:
            TimeoutError: if that takes longer.
        """
        if not wait_until(lambda: self.hits >= hits, timeout_seconds=timeout_seconds):
            raise TimeoutError(f"{type(self.fault).__name__}: {self.hits} of {hits} hits in {timeout_seconds:g} s")

    def stop(self) -> None:
        """Stop hitting messages. Faults that have begun run to their end.

        Raises:
            UsageError: if the function that chooses the messages failed; the message names its error's type.
        """
        self._proxy.call(lambda: self._proxy.forget(self))
        if self._problem is not None:
            raise UsageError(f"the function that chooses the messages raised {type(self._problem).__name__}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wants(self, message: Message) -> bool:
        """Return whether to hit *message*, and count it; in the proxy's thread."""
        try:
            if self._problem is not None or not self._on(message):
                return False
        except Exception as problem:  # noqa: BLE001 - the proxy goes on, and stop() reports it
            self._problem = problem
            return False
        self._seen += 1
        if self._seen % self._every or self._hits == self._times or self._random.random() >= self._probability:
            return False
        self._hits += 1
        return True
