"""One call of a verb: what the caller asked for, in one piece from the verb to the driver, over all its attempts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, Protocol

from sqlalchemy import CursorResult, Executable

from prefiq_db.config import RetryPolicy
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.tags import NO_TAGS

_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What ``using()`` and ``override()`` change of the settings; ``None`` means nothing.

    Attributes:
        timeout: seconds a statement may take, and that retries and the wait for a connection may take in all.
        retry: the policy for what is safe to repeat.
        read_only: the server refuses writes.
        idempotent: the caller vouches that every statement may be sent twice.
        tags: words for events, spans and SQL comments, such as the route; few different ones, never values.
    """

    timeout: float | None = None
    retry: RetryPolicy | None = None
    read_only: bool | None = None
    idempotent: bool | None = None
    tags: Mapping[str, str] | None = None

    def over(self, below: Overrides) -> Overrides:
        """Return these overrides, with *below*'s where these say nothing."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(below, **{name: value for name, value in mine.items() if value is not None})


NO_OVERRIDES: Final = Overrides()


@dataclass(frozen=True, slots=True)
class Shape:
    """How to get an answer out of a result.

    Attributes:
        fetch: reads the result while the connection is held; what it raises is the database's error.
        finish: makes the answer of what was read, after the connection went back; what it raises is the caller's own
            (``into=``). ``None``: what was read is the answer.
    """

    fetch: Callable[[CursorResult[Any]], Any]
    finish: Callable[[Any], Any] | None = None


class Way(Enum):
    """How a call is carried out; decided before anything waits."""

    #: one statement outside of any transaction, committed when the call returns
    ONE_SHOT = 1
    #: in the transaction that is open here
    AMBIENT = 2
    #: in the transaction whose ``tx`` the caller named
    EXPLICIT = 3
    #: in a transaction that is begun for this call
    OWN_TRANSACTION = 4


class Runner(Protocol):
    """What a call needs of the block that it belongs to."""

    def run(self, call: Call, *, explicit: bool) -> Any:
        """Carry out *call* on the pinned connection."""


class Call:
    """One call of a verb. Its ``repr`` shows neither text nor values, so it may stand in any frame.

    Attributes:
        id: counts up in this process.
        verb: ``fetch_all``, ``execute`` ...
        statement: what SQLAlchemy executes.
        params: bind names to values; of ``execute_many`` a list of those.
        shape: how to get the answer.
        given: the overrides in force.
        deadline: when the caller's limit ends, for all attempts together; each statement may take all of its seconds.
            ``None``: the caller gave no limit, or the transaction that is begun for the call has it.
        tags: the request's tags.
        facts: what :func:`~prefiq_db.execution.statement_facts.facts_of_call` found; ``None`` while nobody asked.
        way: how it is carried out.
        block: the block to carry it out in, when a transaction is open for it.
        attempts: how many tries were begun.
        started: on the monotonic clock.
    """

    __slots__ = (
        "attempts",
        "block",
        "deadline",
        "facts",
        "given",
        "id",
        "params",
        "shape",
        "started",
        "statement",
        "tags",
        "verb",
        "way",
    )

    def __init__(
        self, verb: str, statement: Executable, params: Any, shape: Shape, given: Overrides = NO_OVERRIDES
    ) -> None:
        self.id = next(_ids)
        self.verb = verb
        self.statement = statement
        self.params = params
        self.shape = shape
        self.given = given
        self.tags: Mapping[str, str] = given.tags or NO_TAGS
        self.facts: Any = None
        self.way = Way.ONE_SHOT
        self.block: Runner | None = None
        self.attempts = 0
        self.started = time.monotonic()
        self.deadline: Deadline | None = None if given.timeout is None else own_deadline(given.timeout, self.started)

    def __repr__(self) -> str:
        return f"<Call {self.id}: {self.verb}>"
