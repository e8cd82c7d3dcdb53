"""Statements that are known beforehand, sent to the server in one message together with BEGIN and COMMIT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: the place of BEGIN in :attr:`Burst.failed_at`
BEGIN: Final = -1
#: More statements than this travel one by one: a message and its replies are held in memory.
MOST_STATEMENTS: Final = 1000


class CannotTravelError(Exception):
    """A statement that has to be sent by itself; nothing of the burst was done."""


@dataclass(slots=True)
class Pending:
    """A statement that SQLAlchemy has compiled and not sent.

    Attributes:
        call: the statement's own call.
        context: SQLAlchemy's execution context.
        cursor: the driver's cursor, as SQLAlchemy sees it; the reply goes there.
        statement: the text that the driver gets.
        parameters: as the driver gets them.
        hand_over: puts the reply into the cursor, as if it had executed the statement.
    """

    call: Any = field(repr=False)
    context: Any = field(repr=False)
    cursor: Any = field(repr=False)
    statement: str = field(repr=False)
    parameters: Any = field(repr=False)
    hand_over: Callable[[], None] | None = field(default=None, repr=False)


@dataclass(slots=True)
class Burst:
    """One message: what it says, and what became of it.

    Attributes:
        begin: the statements that begin, in order.
        pending: the statements of the caller.
        savepoint: its name, if the burst is a part of a transaction; it then ends with its release instead of COMMIT.
        answered: how many of them were answered without an error.
        failure: the driver's error, or ``None``.
        failed_at: whose error it is: the number of a statement, ``BEGIN``, or the number after the last one: the end.
        said: whether the server itself reported the failure; else no reply came.
        committed: whether the server confirmed the end: COMMIT, or the release of the savepoint.
        at_rest: whether the server confirmed that what the burst began is no longer open.
        unread: the server could not read the message as a whole, and did nothing of it.
    """

    begin: Sequence[str]
    pending: Sequence[Pending]
    savepoint: str = ""
    answered: int = 0
    failure: Exception | None = field(default=None, repr=False)
    failed_at: int = 0
    said: bool = False
    committed: bool = False
    at_rest: bool = False
    unread: bool = False

    @property
    def end(self) -> str:
        return f"RELEASE SAVEPOINT {self.savepoint}" if self.savepoint else "COMMIT"

    @property
    def surely_failed(self) -> bool:
        """Whether nothing was committed, and never will be: a statement failed before COMMIT."""
        return self.said and self.failed_at < len(self.pending)

    def fail(self, failure: Exception, place: int, *, said: bool) -> None:
        """Note the first failure."""
        if self.failure is None:
            self.failure, self.failed_at, self.said = failure, place, said


class BurstDialect:
    """Mixed into our dialects: sending a burst."""

    #: whether this database takes several statements in one message
    has_bursts: bool = False
    #: whether the message is a block of the server's own language, in which a text must not reach out of its place
    bursts_in_block: bool = False

    def burst_statement(self, pending: Pending) -> None:
        """Raise if *pending* can't be part of a burst.

        Raises:
            CannotTravelError: then all of them are sent one by one.
        """
        raise CannotTravelError

    def burst_begin(self, transaction: Any) -> Sequence[str]:
        """Return the statements that begin the transaction: BEGIN, and what goes with it."""
        raise NotImplementedError

    def send_burst(self, proxied: Any, burst: Burst) -> None:
        """Send *burst*, and note in it what the server replied.

        Raises:
            BaseException: an interruption; *burst* holds what was known until then. Errors of the driver are noted.
        """
        raise NotImplementedError

    def bound_burst(self, connection: Any, seconds: float, deadline: Any = None) -> None:
        """Limit the burst on SQLAlchemy's *connection* to *seconds* at the server; the driver waits by *deadline*."""
        self.bound_statements(connection, seconds, deadline)  # type: ignore[attr-defined]

    def commented(self, pending: Pending) -> str:
        """Return the text to send: with the tags of the call as a comment, where that is wanted."""
        commenter = self.commenter  # type: ignore[attr-defined]
        if commenter is None or not pending.call.tags:
            return pending.statement
        made: str = commenter(pending.statement, pending.call.tags, percent="%%")
        return made
