"""State of one pooled connection, known without asking the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.deadline import Deadline
from prefiq_db.errors import ErrorClass

# The key of a connection's state in SQLAlchemy's record info.
SESSION_KEY: Final = "prefiq_db.session"
AUTOCOMMIT: Final = "AUTOCOMMIT"

# The server has rolled the whole transaction back although the client believes it is still in one; later statements
# would commit one by one.
GONE: Final = "gone"
# One statement was undone and the rest stands: COMMIT would store half of the work.
HALF: Final = "half"
# A statement ended the transaction by itself: the work before it was committed, or rolled back, without our COMMIT.
ENDED: Final = "ended"

# The transaction has a timeout of its own that we don't know.
FORGOTTEN: Final = -1.0


class TransactionState:
    """What the next BEGIN says, the progress of the open transaction, and what went wrong in it."""

    __slots__ = (
        "aborted",
        "began",
        "begin_failed",
        "cause",
        "committed",
        "committing",
        "control_timeout",
        "deferrable",
        "failed",
        "id",
        "isolation",
        "local_timeout",
        "managed",
        "may_close",
        "may_repeat",
        "may_travel",
        "may_wait",
        "only_reads",
        "owes_begin",
        "read_only",
        "schema",
        "token",
        "travelled",
        "wants_commit",
        "write",
    )

    def __init__(self) -> None:
        self.start()
        self.reset()

    def start(self) -> None:
        """Clear what went wrong in the transaction before."""
        #: COMMIT was sent: an error from now on leaves the outcome unknown
        self.committing = False
        #: the class of the error that aborted it
        self.cause: ErrorClass | None = None
        #: the class of the last error that a session or a connection of the engine raised
        self.failed: ErrorClass | None = None
        #: BEGIN failed, alone or on the way with a statement
        self.begin_failed = False
        #: BEGIN was sent in one burst with the first statement
        self.travelled = False
        #: COMMIT is to travel with the next statement, if that is safe
        self.wants_commit = False
        #: COMMIT travelled with a statement and succeeded: nothing may be sent any more
        self.committed = False

    def end(self) -> None:
        """Note that no transaction is open any more."""
        #: BEGIN was sent, and neither COMMIT nor ROLLBACK has been answered
        self.began = False
        #: BEGIN is still to be sent, with the first statement or before it
        self.owes_begin = False
        #: ``GONE``, ``HALF`` or ``ENDED``
        self.aborted: str | None = None
        #: the statement timeout that holds for this transaction alone, set or to be set with BEGIN
        self.local_timeout: float | None = None

    def reset(self) -> None:
        """Drop the options that one checkout set for its transactions."""
        self.end()
        #: begun by transaction(), which limits each statement itself; any other gets the settings' limit
        self.managed = False
        #: whether it may write: SQLite's BEGIN then takes the writer's lock
        self.write = False
        self.read_only = False
        self.deferrable = False
        #: the isolation level in BEGIN; ``None``: BEGIN names none, so the session's holds
        self.isolation: str | None = None
        #: inserted with BEGIN, so that a later query shows whether COMMIT succeeded
        self.token: str | None = None
        #: the schema that BEGIN chooses for this transaction alone; ``None``: the session's own
        self.schema: str | None = None
        #: the limit of BEGIN, COMMIT and the like, if it isn't the settings'
        self.control_timeout: float | None = None
        #: the number of the block, as in events
        self.id: int | None = None
        #: BEGIN may be sent as late as the first statement
        self.may_wait = False
        #: the statement that is about to be sent may travel with BEGIN
        self.may_travel = False
        #: and with COMMIT
        self.may_close = False
        #: it may be sent again with a BEGIN that nobody answered
        self.may_repeat = False
        #: it is read-only, and every statement so far provably did nothing but read
        self.only_reads = False

    def bound_end(self, deadline: Deadline) -> None:
        """Limit COMMIT or ROLLBACK to the time left until *deadline*."""
        left, limit = deadline.left(), self.control_timeout
        self.control_timeout = left if limit is None else min(left, limit)


class StatementState:
    """The statement that is running, or else the last one; shown in events, leaks and the table of holders."""

    __slots__ = ("call", "sent_at", "spent", "summary")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the statement."""
        #: the call of the verb that sent it, if a verb did
        self.call: Any = None
        #: on the clock of perf_counter; 0.0 while none is running
        self.sent_at = 0.0
        #: seconds that it took before it was observed, in a message that it shared with others
        self.spent = 0.0
        self.summary = ""


class CheckoutState:
    """The checkout of the connection: who holds it, for what, and what the holder changed."""

    __slots__ = (
        "checked_out_at",
        "driver_begins",
        "driver_works",
        "excused_at",
        "fairy_ref",
        "gathers",
        "guard",
        "habits",
        "leaked",
        "line",
        "one_shot",
        "repeatable",
        "retry_number",
        "tainted",
        "wait_seconds",
        "worker",
    )

    def __init__(self) -> None:
        #: on the clock of perf_counter; 0.0 while not checked out. Only the pool sets it.
        self.checked_out_at = 0.0
        self.reset()

    def reset(self) -> None:
        """Drop everything: the next user starts from the defaults."""
        self.line: Any = None
        self.worker: object = None
        #: how long the checkout waited for the pool; reported with the first statement only
        self.wait_seconds = 0.0
        self.leaked = False
        #: when a statement was last seen running; 0.0: never
        self.excused_at = 0.0
        self.fairy_ref: Any = None
        #: a statement of its own, sent without BEGIN
        self.one_shot = False
        #: it only reads, so that it may be sent again whatever became of it
        self.repeatable = False
        #: judges each statement before it is sent
        self.guard: Callable[[str, Any], None] | None = None
        #: statements are compiled now, and sent together later
        self.gathers = False
        self.retry_number = 0
        #: whether the connection must not be handed to another user
        self.tainted = False
        #: raw_connection(): the driver begins transactions itself, as PEP 249 says, until the connection comes back
        self.driver_begins = False
        #: the driver's connection was handed out: what its user sends, we don't see
        self.driver_works = False
        #: the settings of the driver's connection before it was handed out raw
        self.habits: Any = None


class SessionState:
    """State of one pooled connection, known without asking the server.

    The parts are created once with it and reset by their own methods: they are written at each statement, and creating
    new objects costs more (docs/decisions/0104-why-the-parts-of-a-sessions-state-are-reset.md).

    Attributes:
        expires_at: when the pool throws the connection away. This and the times below use one clock, perf_counter's, so
            that one reading serves several of them.
        last_used: when it last came back.
        vetted_at: when the pool last checked whether it is fit to be handed out.
        role_known_at: when its server last said that it is the one that the pool wants.
        session_timeout: the statement timeout that the server's session has, if known.
        patience_seconds: the setting of the driver's own clock; ``None``: not known.
        followed: of a replica, the latest mark that its server is known to have.
        poll: called with 0, tells whether the connection's socket has something to read; ``None``: not asked yet.
    """

    __slots__ = (
        "__weakref__",
        "checkout",
        "expires_at",
        "followed",
        "last_used",
        "patience_seconds",
        "poll",
        "role_known_at",
        "session_timeout",
        "statement",
        "transaction",
        "vetted_at",
    )

    def __init__(self, expires_at: float, session_timeout: float | None) -> None:
        self.expires_at = expires_at
        self.last_used = self.vetted_at = self.role_known_at = time.perf_counter()
        self.session_timeout = session_timeout
        self.patience_seconds: float | None = None
        self.followed: Any = None
        self.poll: Callable[[int], Any] | None = None
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
        schema: str | None,
        statement_timeout: float | None,
        control_timeout: float | None,
        may_wait: bool,
    ) -> None:
        """Take the options of ``transaction()`` for its BEGIN; ``None`` keeps what was chosen for the connection.

        Args:
            statement_timeout: the limit of each statement in it, if it isn't the settings'.
            control_timeout: the limit of BEGIN, COMMIT and the like, if it isn't the settings'.
            may_wait: BEGIN may be sent as late as the first statement.
        """
        self.checkout.retry_number = retry_number
        transaction = self.transaction
        transaction.id = id
        transaction.managed = True
        transaction.write = not read_only
        transaction.read_only = transaction.only_reads = read_only
        transaction.may_wait = may_wait
        if isolation is not None:
            transaction.isolation = isolation
        transaction.token = token
        transaction.schema = schema
        if statement_timeout is not None:
            transaction.local_timeout = statement_timeout
        if control_timeout is not None:
            transaction.control_timeout = control_timeout

    def begin_plainly(self, number: int) -> None:
        """Take the options of a ``transaction()`` without any, after :meth:`forget`; *number* is its ``id``."""
        transaction = self.transaction
        transaction.id = number
        transaction.managed = transaction.write = transaction.may_wait = True

    def forget_transaction(self) -> None:
        """Do what :meth:`forget` does, once a transaction begun by :meth:`begin_plainly` was committed, and has ended.

        Nobody had SQLAlchemy's Connection over it, so it can't have changed more than this.
        """
        checkout, transaction, statement = self.checkout, self.transaction, self.statement
        checkout.checked_out_at = checkout.wait_seconds = checkout.excused_at = 0.0
        checkout.line = checkout.worker = checkout.fairy_ref = checkout.guard = None
        checkout.retry_number = 0
        transaction.id = None
        transaction.managed = transaction.write = transaction.may_wait = False
        transaction.may_travel = transaction.may_close = transaction.may_repeat = False
        statement.call = None
        statement.spent = 0.0
        statement.summary = ""

    def forget(self) -> None:
        """Drop the state of one checkout: the next user starts from the defaults."""
        self.checkout.reset()
        self.transaction.reset()
        self.statement.reset()
