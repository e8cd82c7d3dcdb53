"""What we know of one pooled connection without asking the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.deadline import Deadline
from prefiq_db.errors import ErrorClass

# Where a pooled connection keeps its state, in SQLAlchemy's info of its record.
SESSION_KEY: Final = "prefiq_db.session"
AUTOCOMMIT: Final = "AUTOCOMMIT"

# The whole transaction is gone at the server although the client still thinks that it is in one; whatever came next
# would be committed statement by statement.
GONE: Final = "gone"
# One statement was undone and the rest stands: COMMIT would keep half of the work.
HALF: Final = "half"
# A statement ended the transaction by itself: what came before it was committed, or rolled back, behind our back.
ENDED: Final = "ended"

# A timeout inside the transaction that is not the session's, and not known.
FORGOTTEN: Final = -1.0


class TransactionState:
    """What the next BEGIN says, how far the open transaction is, and what went wrong in it."""

    __slots__ = (
        "aborted",
        "began",
        "cause",
        "committing",
        "control_timeout",
        "deferrable",
        "failed",
        "id",
        "isolation",
        "local_timeout",
        "managed",
        "read_only",
        "token",
        "write",
    )

    def __init__(self) -> None:
        self.start()
        self.reset()

    def start(self) -> None:
        """Know nothing yet of what goes wrong in a transaction."""
        #: COMMIT was sent: what goes wrong now leaves the outcome unknown
        self.committing = False
        #: what the error was that aborted it
        self.cause: ErrorClass | None = None
        #: what the last error was that left a session or a connection of the engine
        self.failed: ErrorClass | None = None

    def end(self) -> None:
        """Note that no transaction is open any more."""
        #: BEGIN was sent, and no COMMIT or ROLLBACK was answered
        self.began = False
        #: ``GONE``, ``HALF`` or ``ENDED``
        self.aborted: str | None = None
        #: the limit of a statement that the server has for this transaction alone, or is to get with BEGIN
        self.local_timeout: float | None = None

    def reset(self) -> None:
        """Drop what was said for the transactions of one checkout."""
        self.end()
        #: of transaction(), which bounds each statement itself; whoever else begins gets the settings' limit
        self.managed = False
        #: it may write: SQLite's BEGIN takes the writer's lock
        self.write = False
        self.read_only = False
        self.deferrable = False
        #: the level that BEGIN says; ``None``: none, so that it is the session's
        self.isolation: str | None = None
        #: inserted with BEGIN, so that it can be asked later whether COMMIT succeeded
        self.token: str | None = None
        #: the limit of BEGIN, COMMIT and the like, where that isn't the settings'
        self.control_timeout: float | None = None
        #: the number of the block, as events tell it
        self.id: int | None = None

    def bound_end(self, deadline: Deadline) -> None:
        """Give COMMIT or ROLLBACK no more than what is left until *deadline*."""
        left, limit = deadline.left(), self.control_timeout
        self.control_timeout = left if limit is None else min(left, limit)


class StatementState:
    """The statement that is under way, or else the last one: told in events, leaks and the table of holders."""

    __slots__ = ("call", "sent_at", "summary")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Know of no statement yet."""
        #: the verb's, where it is one's
        self.call: Any = None
        #: on the clock of perf_counter; 0.0 while none is under way
        self.sent_at = 0.0
        self.summary = ""


class CheckoutState:
    """Who has the connection, for what, and what he made of it."""

    __slots__ = (
        "checked_out_at",
        "driver_begins",
        "excused_at",
        "fairy_ref",
        "guard",
        "habits",
        "leaked",
        "line",
        "one_shot",
        "retry_number",
        "tainted",
        "wait_seconds",
        "worker",
    )

    def __init__(self) -> None:
        #: on the clock of perf_counter; 0.0 while nobody has it. The pool alone says so.
        self.checked_out_at = 0.0
        self.reset()

    def reset(self) -> None:
        """Drop it all: the next user starts from the defaults."""
        self.line: Any = None
        self.worker: object = None
        #: how long the pool let him wait; told with the first statement only
        self.wait_seconds = 0.0
        self.leaked = False
        #: when a statement was last seen to be under way; 0.0: never
        self.excused_at = 0.0
        self.fairy_ref: Any = None
        #: a statement on its own, for which no BEGIN is sent
        self.one_shot = False
        #: judges each statement before it is sent
        self.guard: Callable[[str, Any], None] | None = None
        self.retry_number = 0
        #: the next user must not get this connection
        self.tainted = False
        #: raw_connection(): the driver begins by itself, as PEP 249 says, until the connection comes back
        self.driver_begins = False
        #: what the driver's connection was set to before somebody had it raw
        self.habits: Any = None


class SessionState:
    """What we know of one pooled connection without asking the server.

    The parts are made once with it and reset by their own methods: they are written at each statement, and what is made
    anew for each costs more (docs/decisions/0104-why-the-parts-of-a-sessions-state-are-reset.md).

    Attributes:
        expires_at: when the pool throws it away. This and the times below are on one clock, perf_counter's, so that one
            look at it serves for several.
        last_used: when it last came back.
        vetted_at: when the pool last looked whether it is fit to be handed out.
        session_timeout: the statement timeout that the server's session has, where that is known.
        patience_seconds: what the driver's own clock is set to; ``None``: not known.
    """

    __slots__ = (
        "__weakref__",
        "checkout",
        "expires_at",
        "last_used",
        "patience_seconds",
        "session_timeout",
        "statement",
        "transaction",
        "vetted_at",
    )

    def __init__(self, expires_at: float, session_timeout: float | None) -> None:
        self.expires_at = expires_at
        self.last_used = self.vetted_at = time.perf_counter()
        self.session_timeout = session_timeout
        self.patience_seconds: float | None = None
        self.checkout = CheckoutState()
        self.transaction = TransactionState()
        self.statement = StatementState()

    def begin_with(
        self,
        *,
        id: int,
        retry_number: int,
        isolation: str | None,
        read_only: bool,
        token: str | None,
        statement_timeout: float | None,
        control_timeout: float | None,
    ) -> None:
        """Take what ``transaction()`` wants of its BEGIN; ``None`` leaves what was chosen for the connection.

        Args:
            statement_timeout: the limit of each statement in it, where that isn't the settings'.
            control_timeout: the limit of BEGIN, COMMIT and the like, where that isn't the settings'.
        """
        self.checkout.retry_number = retry_number
        transaction = self.transaction
        transaction.id = id
        transaction.managed = True
        transaction.write = not read_only
        transaction.read_only = read_only
        if isolation is not None:
            transaction.isolation = isolation
        transaction.token = token
        if statement_timeout is not None:
            transaction.local_timeout = statement_timeout
        if control_timeout is not None:
            transaction.control_timeout = control_timeout

    def forget(self) -> None:
        """Drop what belonged to one checkout: the next user starts from the defaults."""
        self.checkout.reset()
        self.transaction.reset()
        self.statement.reset()
