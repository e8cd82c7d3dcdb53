"""The common part of transactions and savepoints, for the sync and the async API."""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

from sqlalchemy import Connection

from prefiq_db.call import Call, Shape, Told
from prefiq_db.deadline import OWN_TIMEOUT, Deadline
from prefiq_db.errors import (
    ClosedError,
    ErrorClass,
    ErrorKind,
    NestingError,
    NotCommittedError,
    TransactionTimeoutError,
    UsageError,
)
from prefiq_db.execution.one_shot import UNUSUAL
from prefiq_db.execution.prepared import Prepared
from prefiq_db.instance import Instance
from prefiq_db.interruptions import is_interruption
from prefiq_db.reports import Outcome
from prefiq_db.retry import Retrier
from prefiq_db.transaction.options import TransactionOptions
from prefiq_db.transaction.scope import Scope, Use
from prefiq_db.unrun import refuse_coroutine_function, refuse_generator_function

logger = logging.getLogger("prefiq_db.transaction")

# To ask an enum for a member costs as much as a call.
ACTIVE, COMMITTED, NOT_COMMITTED, UNKNOWN = (
    Outcome.ACTIVE,
    Outcome.COMMITTED,
    Outcome.NOT_COMMITTED,
    Outcome.UNKNOWN,
)

_ids = itertools.count(1)

T = TypeVar("T")


class OpenStream(Protocol):
    """A stream that reads in a block."""

    def cut_off(self, error: BaseException | None) -> None:
        """Close it, because the block ends; with *error* if that is leaving the block."""


class Block(ABC):
    """One block of a transaction: the outermost one is the transaction itself, the others are savepoints.

    Attributes:
        token: used to look up the outcome when the reply to COMMIT is lost; ``None`` without ``exactly_once``, and for
            a savepoint, which has no outcome of its own.
    """

    #: whether this is a transaction of its own rather than a savepoint
    is_root: ClassVar[bool]

    # What most blocks keep as it is, and few ask for, stands here once.
    callback_errors: tuple[Exception, ...] = ()
    retry_number: int = 0
    token: str | None = None
    #: whether the caller has seen the token, so that no other one may take its place
    is_told: bool = False
    #: who runs it will run it again if its outcome is unknown, so that nobody has to look
    may_run_twice: bool = False
    #: stands for the error that rolls it back although none leaves it; ``None``: it is to be kept
    _unwanted: BaseException | None = None
    #: makes what begins again on another connection, if the first is dead; ``None``: that is an error
    new_retrier: Callable[[], Retrier] | None = None

    def __init__(self, instance: Instance, options: TransactionOptions, scope: Scope[Block] | None) -> None:
        self.instance = instance
        self.options = options
        self.id = next(_ids)
        self.outcome = NOT_COMMITTED  # until it begins
        self.deadline: Deadline | None = None
        self.commit_functions: list[Callable[[], Any]] = []
        self.rollback_functions: list[Callable[[], Any]] = []
        #: streams that read in this block, and end with it at the latest
        self.open_streams: list[OpenStream] = []
        self._scope = scope
        self._handle: Any = None
        self._over = False

    @property
    def scope(self) -> Scope[Block]:
        assert self._scope is not None, "asked for before begin()"
        return self._scope

    @property
    def connection(self) -> Connection:
        """The pinned SQLAlchemy connection, inside the transaction."""
        self._check_active()
        return self.scope.connection

    @property
    def root(self) -> Block:
        """The outermost block."""
        self._check_active()
        return self.scope.blocks[0]

    def check_new(self) -> None:
        """Raise if the block has begun already."""
        if self._over or self._handle is not None:  # is_begun, without the call
            raise UsageError("a transaction begins once; call transaction() again for another one")

    def tell_token(self) -> str | None:
        """Return the token to the caller, who may keep it."""
        self.is_told = True
        return self.token

    # --- begin -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send BEGIN or SAVEPOINT; a transaction becomes ambient for this task or thread."""
        self.check_new()
        if self.options.timeout_seconds is not None:
            self.deadline = Deadline.after(self.options.timeout_seconds, OWN_TIMEOUT).sooner_of(self.deadline)
        began = False
        try:
            self.outcome = ACTIVE
            self._begin()
            self.scope.blocks.append(self)
            began = True
        finally:
            if not began:
                self._let_go()
                self._handle = None

    @abstractmethod
    def _begin(self) -> None: ...

    def begin_now(self) -> None:
        """Send a BEGIN that waits for the first statement."""
        return

    # --- statements ------------------------------------------------------------------------------

    def run(self, call: Call, *, explicit: bool) -> Any:
        """Carry out *call* in this transaction; *explicit* if the caller used its ``tx``."""
        scope = self._check_usable(call, explicit)
        with Use(scope):
            if scope.pinned.is_gone:
                raise self._lost()
            fetched = self._send(call, scope)
        finish = call.shape.finish
        return fetched if finish is None else finish(fetched)

    def shoot(
        self,
        prepared: Prepared,
        executed: Any,
        params: Any,
        shape: Shape,
        told: Told | None,
        *,
        is_taken: bool,
        explicit: bool = True,
    ) -> Any:
        """Return the result of a statement that needs nothing decided, or ``UNUSUAL`` if nothing was sent.

        Args:
            prepared: *params* have exactly what it asks for.
            executed: what SQLAlchemy would execute, the text's own object or the construct.
            told: what events tell of the call; ``None`` while nobody listens.
            is_taken: all values are in *params*, and the driver takes them unchanged.
            explicit: the caller used its ``tx``.
        """
        return UNUSUAL

    def use(self, call: Call, work: Callable[..., T], *, explicit: bool) -> T:
        """Return ``work(connection, call, seconds, deadline)``, which does a part of *call* on the connection."""
        scope = self._check_usable(call, explicit)
        with scope.used():
            if scope.pinned.is_gone:
                raise self._lost()
            scope.blocks[0].begin_now()
            seconds, deadline = self._limits(call)
            return work(scope.connection, call, seconds, deadline)

    def _check_usable(self, call: Call, explicit: bool) -> Scope[Block]:
        """Return the scope that *call* is to run in, or raise."""
        scope = self._scope
        if scope is None or self._handle is None or self.outcome is not ACTIVE:
            self._check_active()
            scope = self.scope
        if call.last and not (self.is_root and scope.blocks == [self]):
            raise NestingError("last: only the outermost transaction can end with a statement, not a savepoint")
        if explicit:
            scope.explicit_uses += 1
        return scope

    def _send(self, call: Call, scope: Scope[Block]) -> Any:
        seconds, deadline = self._limits(call)
        return self.instance.road.run_pinned(scope.pinned, call, seconds, deadline)

    def _limits(self, call: Call) -> tuple[float, Deadline | None]:
        """Return how long the statement may take, and the deadline of the whole transaction or block.

        Raises:
            TransactionTimeoutError: if that deadline has passed.
        """
        seconds = self.instance.statement_timeout_seconds if call.deadline is None else call.deadline.seconds
        soonest: Deadline | None = None
        scope = self._scope
        for block in self.scope.blocks if scope is None else scope.blocks:
            if block.deadline is not None:
                block.check_deadline()
                soonest = block.deadline.sooner_of(soonest)
                own = block.options.timeout_seconds
                if own is not None and own < seconds:
                    seconds = own
        return seconds, soonest

    def check_deadline(self) -> None:
        """Raise if the transaction has taken longer than it may."""
        if self.deadline is not None and self.deadline.has_passed:
            raise TransactionTimeoutError(
                f"the transaction on database {self.instance.name} took longer than its "
                f"{self.deadline.seconds:g} s and is rolled back",
                database=self.instance.name,
            )

    def _check_active(self) -> None:
        if self._handle is None and not self._over:
            raise UsageError("the transaction has not begun: use it as `with db.transaction() as tx:`")
        if self.outcome is not ACTIVE:
            raise ClosedError(f"the transaction has ended ({self.outcome.value}); open a new one")

    def check_connected(self) -> None:
        """Raise if the connection was lost, and somebody went on all the same."""
        if self.scope.pinned.is_gone:
            raise self._lost()

    def _lost(self) -> NotCommittedError:
        return NotCommittedError(
            f"the connection to database {self.instance.name} was lost inside the transaction, and nothing of it was "
            "committed",
            database=self.instance.name,
            classification=RUN_AGAIN,
        )

    @property
    def is_settled(self) -> bool:
        """Whether it is committed, or may be: then its body must not run again."""
        return self.outcome in (COMMITTED, UNKNOWN)

    # --- callbacks -------------------------------------------------------------------------------

    def on_commit(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Call *fn* after the outermost COMMIT, unless this block or one around it is rolled back."""
        self._check_active()
        self.commit_functions.append(self._check_callable(fn, "on_commit"))
        return fn

    def on_rollback(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Call *fn* after this block, or one around it, was rolled back."""
        self._check_active()
        self.rollback_functions.append(self._check_callable(fn, "on_rollback"))
        return fn

    def _check_callable(self, fn: Callable[[], Any], name: str) -> Callable[[], Any]:
        if not callable(fn):
            raise UsageError(f"{name}: expected a function without arguments")
        refuse_generator_function(fn, name)
        if not self.instance.runtime.is_async:
            refuse_coroutine_function(fn, name)
        return fn

    # --- end -------------------------------------------------------------------------------------

    def unwant(self) -> None:
        """Roll the block back when it is left, whether an error leaves it or not."""
        self._check_active()
        if self.scope.is_closed:
            raise ClosedError("the transaction's last statement was sent, and COMMIT belongs to it")
        self._unwanted = UsageError("rolled back as wanted")

    def end(self, error: BaseException | None) -> None:
        """Commit, or roll back if *error* is leaving the block."""
        self._check_active()
        try:
            if self.open_streams:
                self._close_streams(error)
            self._end(error or self._unwanted)
        finally:
            self.abandon()

    def _close_streams(self, error: BaseException | None) -> None:
        while self.open_streams:
            self.open_streams.pop().cut_off(error)

    @abstractmethod
    def _end(self, error: BaseException | None) -> None: ...

    def abandon(self) -> None:
        """Clean up after an interruption, wherever it hit; does nothing if the block has ended normally.

        Afterwards the block is not ambient, its connection is returned or closed, and the outcome is reported.
        """
        if self._over:
            return
        try:
            if self.outcome is ACTIVE:
                self.outcome = NOT_COMMITTED
        finally:
            self._let_go()
        self._over = True

    @abstractmethod
    def _let_go(self) -> None:
        """Release everything that the block holds, in whatever state it is; it may hold nothing."""

    @property
    def is_begun(self) -> bool:
        """Whether the block has begun, so that it holds or held something."""
        return self._over or self._handle is not None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to clean up."""
        return self._over

    def _call(self, functions: list[Callable[[], Any]], what: str) -> None:
        """Call all *functions*; their errors are logged and kept, and never fail the transaction."""
        for fn in functions:
            try:
                self.instance.runtime.call(fn)
            except Exception as error:
                if is_interruption(error):
                    raise
                # The caller's function may raise anything; it is kept and logged.
                self._note_callback_error(what, fn, error)

    def _note_callback_error(self, what: str, fn: Callable[[], Any] | None, error: Exception) -> None:
        self.callback_errors = (*self.callback_errors, error)
        logger.error(
            "%s function %s of a transaction on database %s raised %s; the transaction itself is %s",
            what,
            "" if fn is None else getattr(fn, "__qualname__", type(fn).__name__),
            self.instance.name,
            type(error).__name__,
            self.outcome.value,
            extra={"database": self.instance.name, "error_type": type(error).__name__},
        )


#: Nothing was committed because the connection was lost; the whole body may run again.
RUN_AGAIN = ErrorClass(ErrorKind.CONNECTION_LOST, transient=True, connection_lost=True, retry_transaction=True)
