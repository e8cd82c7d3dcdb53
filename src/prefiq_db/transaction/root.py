"""The outermost block: BEGIN, COMMIT, ROLLBACK, and the outcome."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from prefiq_db.call import NO_OVERRIDES, Call, Shape, Told, told_of
from prefiq_db.deadline import Deadline, own_deadline, sooner
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import (
    OutcomeUnknownError,
    PermissionDeniedError,
    PrefiqDbError,
    SchemaError,
    TransactionEndedError,
    TransactionOwnershipError,
    UsageError,
)
from prefiq_db.events import Line, TransactionFinished
from prefiq_db.exactly_once import forbidden_table, missing_table, never_committed, new_token, still_unknown
from prefiq_db.execution.one_shot import UNUSUAL
from prefiq_db.execution.pinned import Pinned
from prefiq_db.execution.pinned_ends import begin_usually, commit_usually, may_commit_usually, return_usually
from prefiq_db.execution.pinned_shot import BrokenStatement, shoot_pinned
from prefiq_db.execution.prepared import KNOWN_KINDS, Prepared
from prefiq_db.instance import Instance
from prefiq_db.marks import seen_by
from prefiq_db.origin import readable
from prefiq_db.reports import Outcome
from prefiq_db.transaction.block import ACTIVE, COMMITTED, NOT_COMMITTED, RUN_AGAIN, UNKNOWN, Block
from prefiq_db.transaction.first import FirstStatement
from prefiq_db.transaction.last import LastStatement
from prefiq_db.transaction.options import PLAIN, TransactionOptions
from prefiq_db.transaction.ownership import HAND_OVER, enter, leave, leave_alone
from prefiq_db.transaction.scope import Scope, Use

logger = logging.getLogger("prefiq_db.transaction")


class RootBlock(LastStatement, FirstStatement):
    """A transaction of its own, on a connection of its own.

    Args:
        deadline: that of a call which may begin several transactions.
    """

    is_root: ClassVar[bool] = True
    #: BEGIN doesn't wait for the first statement
    begins_at_once = False
    #: it has no options, no time limit and no token, and began on the short way
    _is_usual = False
    line: Line | None = None
    _started: float = 0.0
    _tried: bool = False
    _pinned: Pinned | None = None

    def __init__(self, instance: Instance, options: TransactionOptions, deadline: Deadline | None = None) -> None:
        Block.__init__(self, instance, options, None)
        self.deadline = deadline
        self._begins = False
        if options.exactly_once:
            self.token = new_token(instance.resolver.home)

    # --- begin -----------------------------------------------------------------------------------

    def begin(self) -> None:
        instance = self.instance
        is_usual = self.options is PLAIN and type(self) is RootBlock and instance.is_usual
        if not is_usual or instance.runtime.is_async or not self._begin_usually():
            Block.begin(self)

    def _begin_usually(self) -> bool:
        """Begin where nothing is left to decide; return whether that was done."""
        if self.begins_at_once or self.token is not None or self.deadline is not None or self._scope is not None:
            return False
        self.check_new()
        instance = self.instance
        self._started = time.perf_counter()
        self._pinned = pinned = Pinned(instance.road)
        began = False
        try:
            self.outcome = ACTIVE
            if begin_usually(instance.road, pinned, self.id, self.retry_number):
                self._handle = pinned
                state = pinned.state
                self.line = state.checkout.line
                self._begins = state.transaction.owes_begin
                scope: Scope[Block] = Scope(instance, pinned)
                self._scope = scope
                enter(scope)
                scope.blocks.append(self)
                self._is_usual = began = True
        finally:
            if not began:
                self._let_go()
                self._handle = None
        return began

    def _begin(self) -> None:
        if self._tried and self.token is not None:
            # The server session of an earlier attempt may still exist and hold the token.
            self.token = new_token(self.instance.resolver.home)
        self._tried = True
        self._started = time.perf_counter()
        deadline = self._deadline_of_a_step()
        step_seconds = None if deadline is None else deadline.left()
        self._pinned = pinned = self.instance.road.new_pinned(deadline)
        try:
            self._begin_on(pinned, deadline, step_seconds)
        except (SchemaError, PermissionDeniedError) as error:
            if not pinned.was_taken:
                raise  # it is about the database, and not about a table
            failure = self._explained(error)
        else:
            return
        raise failure

    def _explained(self, failure: PrefiqDbError) -> PrefiqDbError:
        """Return *failure*, which BEGIN raised, with a message that says what to do."""
        if self.token is None:
            return failure
        # BEGIN uses no table but that of the tokens: that one is missing, outdated, or we lack the permission.
        if isinstance(failure, PermissionDeniedError):
            return forbidden_table(failure, self.instance.name)
        return missing_table(failure, self.instance.name) if isinstance(failure, SchemaError) else failure

    def _deadline_of_a_step(self) -> Deadline | None:
        """Return the deadline of the next step: the checkout, or finding out the outcome of COMMIT."""
        return sooner(self.deadline, own_deadline(self.options.step_timeout_seconds))

    def _begin_on(self, pinned: Pinned, deadline: Deadline | None, step_seconds: float | None) -> None:
        road = self.instance.road

        def go() -> None:
            pinned.take(deadline)
            self._choose(pinned.state, step_seconds)
            pinned.begin()

        try:
            road.border.cross(go, pinned.phase)
        except PrefiqDbError as error:
            # The server has replied, or there is no connection: one that was taken is still usable.
            pinned.close()
            road.name_holders(error)
            raise
        self._handle = pinned
        self._begins = pinned.state.transaction.owes_begin
        if self.token is not None and not self._begins:
            self.instance.has_tokens = True
        scope = self._scope
        if scope is None:
            self._scope = scope = Scope(self.instance, pinned)
            self._become_ambient()
        else:
            scope.pin(pinned)

    def _choose(self, state: SessionState, step_seconds: float | None) -> None:
        """Tell *state* what BEGIN is to say."""
        options, usual = self.options, self.instance.statement_timeout_seconds
        limit = options.timeout_seconds
        self.line = state.checkout.line
        state.begin_with(
            id=self.id,
            retry_number=self.retry_number,
            isolation=options.isolation,
            read_only=options.read_only,
            token=self.token,
            schema=options.schema,
            statement_timeout=limit if limit is not None and limit < usual else None,
            control_timeout=step_seconds if step_seconds is not None and step_seconds < usual else None,
            # Without its table a transaction must fail before the body runs, so the first token goes ahead.
            may_wait=not self.begins_at_once and (self.token is None or self.instance.has_tokens),
        )

    def _become_ambient(self) -> None:
        enter(self.scope)

    # --- statements ------------------------------------------------------------------------------

    def run(self, call: Call, *, explicit: bool) -> Any:
        known = None if explicit else self._known(call)
        if known is not None:
            call.prepared = known  # the direct road needn't find it again
            told, is_taken = told_of((call.id, call.line, call.tags)), known.takes_unchanged(call.params)
            fetched = self.shoot(
                known, call.statement, call.params, call.shape, told, is_taken=is_taken, explicit=False
            )
            if fetched is not UNUSUAL:
                return fetched
        scope = self._scope
        if (
            scope is None
            or self.outcome is not ACTIVE
            or self._handle is None
            or self._begins
            or self.deadline is not None
            or call.deadline is not None
            or call.last
            or scope.guard.is_closed
            or len(scope.blocks) != 1
        ):
            return Block.run(self, call, explicit=explicit)
        if explicit:
            scope.explicit_uses += 1
        instance = self.instance
        with Use(scope):
            if scope.pinned.is_gone:
                raise self._lost()
            fetched = instance.road.run_pinned(scope.pinned, call, instance.statement_timeout_seconds, None)
        finish = call.shape.finish
        return fetched if finish is None else finish(fetched)

    def _known(self, call: Call) -> Prepared | None:
        """Return what is known of the statement of *call*, if it may take the short way."""
        params, instance = call.params, self.instance
        if call.given is not NO_OVERRIDES or call.last or not instance.is_usual or instance.runtime.is_async:
            return None
        known: Prepared | None = call.prepared
        if known is None and type(call.statement) in KNOWN_KINDS and call.text is None and type(params) is not list:
            known = instance.road.known_construct(call.statement, params)
        return known if known is not None and known.inside is not None and known.is_read_alike(params) else None

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
        scope = self._scope
        if (
            scope is None
            or self.outcome is not ACTIVE
            or self._handle is None
            or self.deadline is not None
            or len(scope.blocks) != 1
        ):
            return UNUSUAL
        if explicit:
            scope.explicit_uses += 1
        users, mine = scope._users, Use(scope)
        if scope.pid != os.getpid() or users.setdefault(None, mine) is not mine:
            return UNUSUAL
        try:
            fetched = shoot_pinned(
                self.instance.road, scope.pinned, scope.guard, prepared, executed, params, shape, told,
                is_taken=is_taken,
            )  # fmt: skip
            if fetched is UNUSUAL:
                return UNUSUAL
            if type(fetched) is BrokenStatement:
                fetched = self.end_broken(fetched)
            elif self._begins:
                self._begins = scope.state.transaction.owes_begin
        except BaseException as error:
            if not isinstance(error, PrefiqDbError):
                scope.doubt()
            raise
        finally:  # as a Use ends
            if users.get(None) is mine:
                del users[None]
        finish = shape.finish
        return fetched if finish is None else finish(fetched)

    # --- a BEGIN that waits for the first statement ------------------------------------------------

    def _send(self, call: Call, scope: Scope[Block]) -> Any:
        if call.last or self._begins or scope.guard.is_closed:
            self.check_open()
            return self.send_last(call, self.send_next) if call.last else self.send_next(call)
        return Block._send(self, call, scope)

    def _begin_again(self) -> None:
        """Begin again on another connection, where nothing was done yet."""
        if self.token is not None and not self.is_told:
            self.token = new_token(self.instance.resolver.home)  # as in _begin()
        if self._pinned is not None:
            self._pinned.discard()
        deadline = self._deadline_of_a_step()
        step_seconds = None if deadline is None else deadline.left()
        self._pinned = pinned = self.instance.road.new_pinned(deadline)
        self._is_usual = False
        self._begin_on(pinned, deadline, step_seconds)
        self._begins = False

    # --- end -------------------------------------------------------------------------------------

    def end(self, error: BaseException | None) -> None:
        if error is None and self._may_commit_usually():
            try:
                self._commit_usually()
            except BaseException as interruption:
                if not isinstance(interruption, PrefiqDbError):
                    interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]  # as below
                raise
            finally:
                try:
                    self.abandon()
                finally:
                    self._tell()
            return
        if self.outcome is ACTIVE or self._scope is None or self._over or not self._scope.is_closed:
            Block.end(self, error)
            return
        try:
            self._end(error)
        finally:
            self.abandon()
        if error is None and self._failure is not None:
            raise self._failure

    def _may_commit_usually(self) -> bool:
        """Return whether nothing is left to decide before COMMIT; if so, the block is no longer ambient."""
        scope = self._scope
        return (
            scope is not None
            and self.outcome is ACTIVE
            and self._is_usual
            and not self._over
            and self._unwanted is None
            and not self.open_streams
            and not scope.guard.is_closed
            and len(scope.blocks) == 1
            and self.instance.is_usual
            and not scope._users  # to ask what may follow starts SQLite's clock anew, and that is another's
            and may_commit_usually(self.instance.road, scope.pinned)
            and leave_alone(scope)
        )

    def _commit_usually(self) -> None:
        scope, road = self._scope, self.instance.road
        assert scope is not None, "asked before"
        pinned, users, mine = scope.pinned, scope._users, Use(scope)
        failure: BaseException | None = None
        if scope.pid == os.getpid() and users.setdefault(None, mine) is mine:
            try:
                # The outcome is unknown until the reply is read.
                self.outcome = UNKNOWN
                failure = commit_usually(road, pinned)
                if failure is None:
                    self.outcome = COMMITTED
            finally:
                # Until a failure is judged it stays in use: another thread must not come in between.
                if failure is None and users.get(None) is mine:
                    del users[None]
            if failure is None:
                scope.blocks.clear()
                if not return_usually(road, pinned):
                    self._committed()
                    return
                if self.commit_functions:
                    self._call(self.commit_functions, "on_commit")
                self._over = True  # there is nothing left to release
                return
        send: Callable[[], None] = self._send_commit if failure is None else partial(pinned.commit_broke, failure)
        del failure
        self._commit_surely(send, mine)

    def _end(self, error: BaseException | None) -> None:
        try:
            if self.outcome is ACTIVE:
                self._commit_or_roll_back(error)
            else:
                self._leave_settled()
        finally:
            try:
                self.abandon()
            finally:
                self._tell()
        if self.token is not None:
            self._prune()

    def _leave_settled(self) -> None:
        leave(self.scope)
        try:
            self.instance.runtime.shielded(self.settled_end, self.instance.commit_budget_seconds)
        except TimeoutError:
            self._give_up()

    def _prune(self) -> None:
        try:
            self.instance.pruner.prune_if_due()
        except BaseException as interruption:
            # A cancellation at this point must not be taken for "nothing was committed".
            interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]
            raise

    def _tell(self) -> None:
        hooks = self.instance.hooks
        if self.outcome is UNKNOWN and not self.options.read_only:
            if not self.may_run_twice:
                self.instance.observer.statistics.note_unknown_outcome()
            marker: Any = self.instance.road.dialect.marker
            if marker is not None:
                marker.note(None)  # what it may have written is to be seen
        if hooks.wants(TransactionFinished):
            duration = time.perf_counter() - self._started
            database, outcome = self.instance.name, self.outcome.value
            hooks.emit(TransactionFinished(database, self.id, outcome, duration, readable(self.line)))

    def _commit_or_roll_back(self, error: BaseException | None) -> None:
        scope = self.scope
        at_home = leave(scope)
        inner = scope.blocks[1:]
        if error is None and inner:
            self._roll_back()
            raise UsageError("the transaction ended while a nested one was still open; everything was rolled back")
        if error is None and not at_home and scope.explicit_uses == 0:
            self._roll_back()
            raise TransactionOwnershipError(
                "the block was left in another context than it was entered in (another task, a fixture, a middleware), "
                f"so statements meant for it may have run outside it; it was rolled back; {HAND_OVER}",
                database=self.instance.name,
            )
        if error is not None:
            self._roll_back()
            if getattr(error, "transaction_outcome", None) is ACTIVE:  # as it was when the last statement had failed
                error.transaction_outcome = self.outcome  # type: ignore[attr-defined]  # as below
            return
        if self.instance.readers is not None:
            seen_by(self.instance.runtime.worker())  # in the shield it would be noted where nobody sees it
        self._commit_surely(self._send_commit)

    def _commit_surely(self, send: Callable[[], None], use: Use | None = None) -> None:
        """Commit by *send*, to the end even if the task is cancelled meanwhile; *use* has the connection already."""
        runtime = self.instance.runtime
        # Functions and listeners of the caller's, and the search for an outcome, may cancel the task that they run in.
        is_alone = self.token is None and self.scope.pinned.view is None and not self.instance.road.is_watched()
        is_alone = is_alone and not (self.commit_functions or self.rollback_functions)
        shield = runtime.undisturbed if is_alone else runtime.shielded
        try:
            shield(lambda: self._commit(send, use), self.instance.commit_budget_seconds)
        except TimeoutError:
            self._give_up()
        except BaseException as interruption:
            if not isinstance(interruption, PrefiqDbError):
                # Raise the same instance again: a subclass would break asyncio.timeout().
                interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]
            raise

    def _commit(self, send: Callable[[], None], use: Use | None) -> None:
        scope = self.scope
        try:
            with use or Use(scope):
                if self.deadline is not None:
                    self.check_deadline()
                if scope.pinned.is_gone:
                    raise self._lost()
                if self.token is not None and self._begins:
                    self.begin_now()  # or the token would say that nothing was committed
                scope.state.transaction.owes_begin = False  # there was no statement
                if self.deadline is not None:
                    self._bound_the_end()
                # The outcome is unknown until the reply is read.
                self.outcome = UNKNOWN
                self.instance.road.border.cross(send, "commit")
        except TransactionEndedError:
            self._roll_back(UNKNOWN)
            raise
        except OutcomeUnknownError as error:
            lost = error
        except PrefiqDbError:
            self.outcome = ACTIVE
            self._roll_back()
            raise
        else:
            scope.blocks.clear()
            self._committed()
            return
        self._unanswered(lost)

    def _send_commit(self) -> None:
        self._handle.commit()
        # Set it right here: an interruption from now on doesn't change the outcome.
        self.outcome = COMMITTED

    def _bound_the_end(self) -> None:
        """Limit COMMIT or ROLLBACK to the time that is left; the driver's grace period is added to that."""
        if self.deadline is not None:
            self.scope.state.transaction.bound_end(self.deadline)

    def _committed(self) -> None:
        self.outcome = COMMITTED  # known from the reply or from the token
        pinned = self.scope.pinned
        if not (pinned.give_back() or pinned.is_closed):
            self.instance.road.border.cross(pinned.close)
        if self.commit_functions:
            self._call(self.commit_functions, "on_commit")

    def _unanswered(self, lost: OutcomeUnknownError) -> None:
        """Find out the outcome of a COMMIT without a reply, or raise that it is unknown."""
        # The reply may still arrive, or COMMIT's cleanup may be half done: the connection must not be used again.
        self.scope.doubt()
        self._roll_back(UNKNOWN)
        if self.token is None:
            raise lost
        outcome = self._ask_for_outcome(self.token)
        if outcome is COMMITTED:
            self._committed()
            return
        if outcome is NOT_COMMITTED:
            self.outcome = outcome
            self._call(self.rollback_functions, "on_rollback")
            raise never_committed(self.instance.name, RUN_AGAIN)
        raise still_unknown(lost, self.token, self.instance.name)

    def _ask_for_outcome(self, token: str) -> Outcome:
        try:
            return self.instance.resolver.resolve(token, self._deadline_of_a_step(), transaction_id=self.id)
        except SchemaError:
            # The table was dropped meanwhile; that error alone would be taken for "nothing was committed".
            return UNKNOWN

    def _give_up(self) -> None:
        """Report that COMMIT, or what follows it, did not end within its budget."""
        budget = self.instance.commit_budget_seconds
        if self.outcome is COMMITTED:
            self._note_callback_error("on_commit", None, TimeoutError(f"not done within {budget:g} s"))
            return
        if self.outcome is NOT_COMMITTED:
            raise never_committed(self.instance.name, RUN_AGAIN)
        self.outcome = UNKNOWN
        raise OutcomeUnknownError(
            f"COMMIT on database {self.instance.name} was not answered within {budget:g} s: it may have happened",
            database=self.instance.name,
            token=self.token,
        )

    def _roll_back(self, outcome: Outcome = NOT_COMMITTED) -> None:
        scope = self.scope
        if scope.pinned.was_ended():
            # A statement ended it (a COMMIT in a procedure, say): everything before that may be committed.
            outcome = UNKNOWN
        callbacks = [fn for block in scope.blocks for fn in block.rollback_functions]
        for block in scope.blocks:
            block.outcome = outcome
        scope.blocks.clear()
        try:
            if not scope.seize(self.instance.commit_budget_seconds):
                self._discard()
            elif not scope.pinned.is_gone:
                scope.state.transaction.owes_begin = False  # there was no statement
                self._bound_the_end()
                self.instance.road.border.cross(self._handle.rollback)
        except PrefiqDbError as error:
            # The error being raised matters more; the server rolls back when the connection closes.
            logger.info(
                "ROLLBACK on database %s failed (%s); the connection is closed instead",
                self.instance.name,
                error.kind.value,
                extra={"database": self.instance.name, "error_kind": error.kind.value},
            )
            self._discard()
        except BaseException:
            self._discard()
            raise
        else:
            self.instance.road.border.cross(scope.pinned.close)
        if outcome is NOT_COMMITTED:
            self._call(callbacks, "on_rollback")

    def _let_go(self) -> None:
        scope = self._scope
        try:
            if scope is not None:
                if scope.blocks:
                    ended = scope.pinned.was_ended()
                    for block in scope.blocks:
                        if block.outcome is ACTIVE:
                            block.outcome = UNKNOWN if ended else NOT_COMMITTED
                    scope.blocks.clear()
                leave(scope)
        finally:
            self._discard()

    def _discard(self) -> None:
        """Close the connection for good, so that the server ends whatever is open on it."""
        if self._pinned is not None:
            self._pinned.discard()
