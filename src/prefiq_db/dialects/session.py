"""What we know of one pooled connection without asking the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

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


class SessionState:
    """What we know of one pooled connection without asking the server."""

    __slots__ = (
        "__weakref__",
        "aborted",
        "began",
        "call",
        "cause",
        "checked_out_at",
        "committing",
        "control_timeout",
        "deferrable",
        "driver_begins",
        "excused_at",
        "expires_at",
        "failed",
        "fairy_ref",
        "guard",
        "habits",
        "isolation",
        "last_used",
        "leaked",
        "line",
        "local_timeout",
        "managed",
        "one_shot",
        "patience_seconds",
        "read_only",
        "retry_number",
        "sent_at",
        "session_timeout",
        "summary",
        "tainted",
        "token",
        "transaction_id",
        "vetted_at",
        "wait_seconds",
        "worker",
        "write",
    )

    def __init__(self, expires_at: float, session_timeout: float | None) -> None:
        # This and the times below are on one clock, so that one look at it serves for several.
        self.expires_at = expires_at
        self.last_used = self.vetted_at = time.perf_counter()
        self.session_timeout = session_timeout
        #: what the driver's own clock is set to; ``None``: not known
        self.patience_seconds: float | None = None
        #: on the clock of perf_counter; 0.0 while nobody has it
        self.checked_out_at = 0.0
        self.began = False
        self.beginning()
        self.forget()

    def beginning(self) -> None:
        """Know nothing yet of what goes wrong in a transaction."""
        #: COMMIT was sent: what goes wrong now leaves the outcome unknown
        self.committing = False
        #: what the error was that aborted it
        self.cause: ErrorClass | None = None
        #: what the last error was that left a session or a connection of the engine
        self.failed: ErrorClass | None = None

    def forget(self) -> None:
        """Drop what belonged to one checkout: the next user starts from the defaults."""
        # Our transaction() bounds each statement itself; whoever else begins here gets the settings' limit.
        self.managed = False
        #: raw_connection(): the driver begins by itself, as PEP 249 says, until the connection comes back
        self.driver_begins = False
        #: what the driver's connection was set to before somebody had it raw
        self.habits: Any = None
        self.guard: Callable[[str, Any], None] | None = None
        self.one_shot = False
        self.write = False
        self.isolation: str | None = None
        self.read_only = False
        self.deferrable = False
        self.token: str | None = None
        #: the limit of BEGIN, COMMIT and the like, where it isn't the settings'
        self.control_timeout: float | None = None
        self.ended()
        # Who has it, and for what: told in events, leaks and the table of holders.
        self.call: Any = None
        self.line: Any = None
        self.worker: object = None
        self.leaked = False
        #: when the statement was sent that is under way, and when one was last seen to be; 0.0: none
        self.sent_at = self.excused_at = 0.0
        self.tainted = False
        self.summary = ""
        self.retry_number = 0
        self.transaction_id: int | None = None
        self.wait_seconds = 0.0
        self.fairy_ref: Any = None

    def ended(self) -> None:
        """Note that no transaction is open any more."""
        self.began = False
        self.aborted: str | None = None
        self.local_timeout: float | None = None
