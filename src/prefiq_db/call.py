"""One call of a verb: the object that holds the request, from the verb to the driver, over all attempts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, Self

from sqlalchemy import CursorResult, Executable

from prefiq_db.config import RetryPolicy
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.events import Line
from prefiq_db.tags import NO_TAGS, Tags

#: the numbers of calls, in this process
call_ids: Final = itertools.count(1)


class Told(NamedTuple):
    """What events and reports tell of a call on the short way: the same attributes of :class:`Call`."""

    id: int
    line: Line | None
    tags: Mapping[str, str]


#: makes one of its three parts: a third of what the class itself takes
told_of: Final[Callable[[tuple[int, Line | None, Mapping[str, str]]], Told]] = partial(tuple.__new__, Told)
next_call_id: Final = call_ids.__next__


@dataclass(frozen=True, slots=True)
class Overrides:
    """The settings that ``using()`` and ``override()`` change; ``None`` means unchanged.

    Attributes:
        timeout: seconds that a statement may take, and that a call with its retries and checkouts may take in total.
        retry: the policy for what is safe to repeat.
        read_only: the server refuses writes.
        idempotent: the caller guarantees that every statement may be sent twice.
        tags: labels for events, spans and SQL comments, such as the route; few distinct ones, never values.
        schema: the namespace in which names without a schema are looked up. Elsewhere than on PostgreSQL a schema is a
            database.
        database: another database of the same server, or another file beside SQLite's, with a pool of its own; on
            MongoDB another database of the same servers.
        replica: reads go to a replica, and nothing else may be sent; ``False``: to the primary, whatever ``read_from``
            says. On MongoDB reads may go to a secondary.
        after: what ``mark()`` returned, perhaps in another process: reads on a replica see what was written until
            then.
    """

    timeout: float | None = None
    retry: RetryPolicy | None = None
    read_only: bool | None = None
    idempotent: bool | None = None
    tags: Mapping[str, str] | None = None
    schema: str | None = None
    database: str | None = None
    replica: bool | None = None
    after: str | None = None

    def over(self, below: Overrides) -> Overrides:
        """Return these overrides, with those of *below* where these are ``None``."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        mine = {name: value for name, value in mine.items() if value is not None}
        return replace(below, **below.bound(mine))

    def bound(self, above: dict[str, Any]) -> dict[str, Any]:
        """Return what *above* may change of these."""
        return above


@dataclass(frozen=True, slots=True)
class RequestOverrides(Overrides):
    """Those of a request: what is said inside it gets no more time than the request has left, and adds to its tags."""

    def bound(self, above: dict[str, Any]) -> dict[str, Any]:
        if self.timeout is not None and above.get("timeout") is not None:
            above["timeout"] = min(above["timeout"], self.timeout)
        if self.tags is not None and "tags" in above:
            above["tags"] = Tags({**self.tags, **above["tags"]}, getattr(self.tags, "kept_back", ()))
        return above


NO_OVERRIDES: Final = Overrides()


class Reads(Enum):
    """What a shape reads, if that is so simple that the rows alone are enough."""

    EVERY_ROW = 1
    FIRST_ROW = 2
    FIRST_VALUE = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """How to get an answer out of a result.

    Attributes:
        fetch: reads the result while the connection is held; its exceptions are the database's errors.
        finish: converts what was read to the answer, after the connection was returned; its exceptions are the
            caller's own (``into=``). ``None``: what was read is the answer.
        typed: the answer, or ``into=``, gets rows or values as the statement's types promise them.
        reads: the same as *fetch* for a statement that returns rows; ``None``: it looks at more than its rows.
    """

    fetch: Callable[[CursorResult[Any]], Any]
    finish: Callable[[Any], Any] | None = None
    typed: bool = False
    reads: Reads | None = None


class Way(Enum):
    """How a call is carried out; decided before any wait."""

    #: one statement outside any transaction, committed when the call returns
    ONE_SHOT = 1
    #: in the transaction that is open here
    AMBIENT = 2
    #: in the transaction whose ``tx`` the caller used
    EXPLICIT = 3
    #: in a transaction begun for this call
    OWN_TRANSACTION = 4


#: To ask an enum for a member costs as much as a call.
ONE_SHOT, EXPLICIT, OWN_TRANSACTION = Way.ONE_SHOT, Way.EXPLICIT, Way.OWN_TRANSACTION


class Runner(Protocol):
    """The part of a transaction's block that a call uses."""

    def run(self, call: Call, *, explicit: bool) -> Any:
        """Carry out *call* on the pinned connection."""


class Call:
    """One call of a verb. Its ``repr`` shows neither text nor values, so it may appear in any traceback.

    Attributes:
        id: a counter in this process.
        verb: ``fetch_all``, ``execute`` ...
        statement: what SQLAlchemy executes.
        params: bind names to values; of ``execute_many`` a list of those.
        shape: how to get the answer.
        given: the overrides in force.
        deadline: the caller's time limit for all attempts together; each statement may use all of its seconds.
            ``None``: the caller gave no limit, or the transaction begun for the call has it.
        tags: the request's tags.
        facts: what :func:`~prefiq_db.execution.statement_facts.facts_of_call` returned; ``None`` before its first call.
        text: the SQL that the caller gave, if it was text.
        begun: the shot that went as far as it can go without the bridge; the next attempt goes on with it.
        prepared: what the direct road knows of that text; ``None``: nothing yet.
        way: how it is carried out.
        block: the block to carry it out in, when a transaction is open for it.
        last: the caller says that the transaction ends with it.
        attempts: how many attempts were begun.
        started: on the monotonic clock.
        line: the application's line, as events note it; ``None``: not looked for, as nobody listened.
    """

    __slots__ = (
        "attempts",
        "begun",
        "block",
        "deadline",
        "facts",
        "given",
        "id",
        "last",
        "line",
        "params",
        "prepared",
        "shape",
        "started",
        "statement",
        "tags",
        "text",
        "verb",
        "way",
    )

    def __init__(
        self, verb: str, statement: Executable, params: Any, shape: Shape, given: Overrides = NO_OVERRIDES
    ) -> None:
        self.id = next(call_ids)
        self.verb = verb
        self.statement = statement
        self.params = params
        self.shape = shape
        self.given = given
        self.tags: Mapping[str, str] = given.tags or NO_TAGS
        self.facts: Any = None
        self.text: str | None = None
        self.prepared: Any = None
        self.begun: Any = None
        self.way = ONE_SHOT
        self.block: Runner | None = None
        self.line: Line | None = None
        self.last = False
        self.attempts = 0
        self.started = time.monotonic()
        self.deadline: Deadline | None = None if given.timeout is None else own_deadline(given.timeout, self.started)

    def told_as(self, told: Told | None) -> Self:
        """Return this call, under the number, the line and the tags that events have told of it already."""
        if told is not None:
            self.id, self.line, self.tags = told
        return self

    def __repr__(self) -> str:
        return f"<Call {self.id}: {self.verb}>"


class Batch(Call):
    """One call of ``batch()``.

    Attributes:
        items: a call for each statement, with the batch's own number; what runs is these.
        exactly_once: whether a token shows if it was committed.
        one_by_one: whether it has to travel statement by statement; found out when it is first tried.
    """

    __slots__ = ("exactly_once", "items", "one_by_one")

    def __init__(self, items: list[Call], given: Overrides, *, exactly_once: bool) -> None:
        first = items[0]
        super().__init__("batch", first.statement, None, first.shape, given)
        self.items = items
        self.exactly_once = exactly_once
        self.one_by_one = False
        for each in items:
            each.id = self.id
