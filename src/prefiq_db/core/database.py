"""The decisions of the public verbs, once for both worlds.

Synchronous code over SQLAlchemy's Connection; in the async world it runs inside the greenlet bridge, and whatever waits
does so through the :class:`~prefiq_db.bridge.Runtime`.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from prefiq_db.call import NO_OVERRIDES, Call, Overrides, Shape, Way
from prefiq_db.config import RetryPolicy
from prefiq_db.core.attempts import Attempts, transaction_repeatable
from prefiq_db.core.doubt import Doubt, fate_unknown
from prefiq_db.core.sessions import judged
from prefiq_db.core.verbs import check_read_only, checked_rows
from prefiq_db.dialects.functions import taken_sql
from prefiq_db.errors import (
    ClosedError,
    ErrorClass,
    ErrorKind,
    EventLoopError,
    OutcomeUnknownError,
    PrefiqDbError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.events import AttemptFailed
from prefiq_db.exactly_once import checked_token
from prefiq_db.execution.binds import bound, bound_rows, checked_params
from prefiq_db.execution.facts import as_executable, facts_of_call, reading_facts_of_call
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.refusals import refuse_one_shot
from prefiq_db.execution.shapes import all_rows, executed, one_row, one_value, row_count
from prefiq_db.execution.typed import Types, typed
from prefiq_db.hooks.budgets import StatementBudget
from prefiq_db.hooks.calls import tell_call, tell_refused_call, tells_calls
from prefiq_db.hooks.explain import LIMIT_SECONDS, Explain
from prefiq_db.hooks.summary import fingerprint
from prefiq_db.instance import Instance
from prefiq_db.overrides import OverrideScope, checked_overrides, scoped
from prefiq_db.reports import DatabaseStats, ExecuteResult, HealthReport
from prefiq_db.retry import Retrier, worth_repeating
from prefiq_db.silence import hush
from prefiq_db.transaction import Block, Outcome, RootBlock, Savepoint, Scope, TransactionOptions, ambient

logger = logging.getLogger("prefiq_db.database")

_PING: Final = "SELECT 1"
Params = Mapping[str, Any] | None


class DatabaseCore:
    """One database. Every decision of the public verbs is made here."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.view = NO_OVERRIDES
        # Those of every statement, one step nearer.
        self.settings = instance.settings
        self.name = instance.name
        self.runtime = instance.runtime
        self.hooks = instance.hooks
        self.road = instance.road

    # --- open and closed -------------------------------------------------------------------------

    def open(self) -> None:
        """Fill the pool: one connection must succeed, the rest is best effort."""
        self.check_world()
        self.instance.closed = False
        held: list[Connection] = []
        try:
            held.append(self.road.checkout())
            while len(held) < self.settings.pool_size:
                held.append(self.road.checkout())
            if self.settings.pgbouncer and len(held) > 1:
                self._tell_of_a_lost_zone(held[0], held[1])
        except PrefiqDbError as error:
            if not held:
                raise
            logger.warning(
                "the pool of database %s holds %d of %d connections: %s",
                self.name,
                len(held),
                self.settings.pool_size,
                error.kind.value,
                extra={"database": self.name, "error_kind": error.kind.value},
            )
        finally:
            _give_back(held)

    def _tell_of_a_lost_zone(self, first: Connection, second: Connection) -> None:
        one, other = (each.connection.dbapi_connection for each in (first, second))
        zone = self.road.border.cross(lambda: self.road.dialect.zone_lost(one, other))
        if zone is not None:
            logger.warning(
                "the pooler of database %s does not keep a client's time zone, and the server's own is %s: outside of"
                " transactions an instant may be read or stored as another; let the pooler keep timezone, as pgbouncer"
                " does, or say ALTER DATABASE ... SET timezone = 'UTC'",
                self.name,
                zone,
                extra={"database": self.name},
            )

    def close(self) -> None:
        """Close the pool's connections. Statements after that raise ClosedError; open() opens it again."""
        if self.instance.closed and not self.instance.closing:
            return
        self.check_world()
        try:
            # A time limit on the shutdown must not leave connections to the server open, nor the pool half-closed.
            self.runtime.shielded(self.instance.close, self.settings.connect_timeout_seconds)
        finally:
            if hasattr(self.runtime, "loop"):
                self.runtime.loop = None  # open() may be in another one

    def check_world(self) -> None:
        try:
            self.runtime.check()
        except RuntimeError:
            pass
        else:
            return
        raise EventLoopError(
            f"database {self.name} belongs to the event loop it was opened in; its connections can't move to another "
            "one: close() it there, or make an AsyncDatabase per loop",
            database=self.name,
        )

    def check_usable(self) -> None:
        if self.instance.closed:
            raise ClosedError(f"database {self.name} is closed; open() it again or make a new one", database=self.name)
        self.check_world()

    # --- overrides -------------------------------------------------------------------------------

    def using(self, given: Mapping[str, Any]) -> DatabaseCore:
        """Return the same database with other defaults."""
        other = copy.copy(self)
        other.view = checked_overrides(given).over(self.view)
        return other

    def override(self, given: Mapping[str, Any]) -> OverrideScope:
        return OverrideScope(self.instance, checked_overrides(given))

    def overrides(self) -> Overrides:
        here = scoped(self.instance)
        return self.view if here is NO_OVERRIDES else self.view.over(here)

    # --- statements ------------------------------------------------------------------------------

    def fetch_all(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> list[Any]:
        shape = all_rows(into)
        if types is not None:
            statement, shape = typed(statement, types, shape)
        rows: list[Any] = self.run("fetch_all", statement, params, shape)
        return rows

    def fetch_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        shape = one_row(into)
        if types is not None:
            statement, shape = typed(statement, types, shape)
        return self.run("fetch_one", statement, params, shape)

    def fetch_value(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        shape = one_value(into)
        if types is not None:
            statement, shape = typed(statement, types, shape)
        return self.run("fetch_value", statement, params, shape)

    def hush(self, error: BaseException) -> None:
        """Leave nothing that was given to a verb in the frames that *error* came through; see :mod:`prefiq_db.silence`.

        Whoever calls it drops what he holds himself. Not where masking is off, in development.
        """
        if self.settings.masked:
            hush(error)

    def execute(self, statement: Any, params: Params) -> ExecuteResult:
        result: ExecuteResult = self.run("execute", statement, params, executed)
        return result

    def run(self, verb: str, statement: Any, params: Params, shape: Shape) -> Any:
        return self.carry_out(self.prepare(verb, statement, params, shape))

    def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Run *statement* once per row, all or nothing."""
        call = self.prepare_many("execute_many", statement, rows)
        count: int | None = 0 if call is None else self.carry_out(call)
        return count

    # --- to prepare a call: nothing here waits -----------------------------------------------------

    def prepare(self, verb: str, statement: Any, params: Any, shape: Shape, block: Block | None = None) -> Call:
        """Return a call of *verb*, after a look at all that it was given; in *block*, if the caller named one.

        Raises:
            PrefiqDbError: if it can't be carried out, or may not be.
        """
        self.check_usable()
        executable = bound(as_executable(statement), checked_params(params), self.road.dialect.label)
        call = Call(verb, executable, params, shape, self.overrides())
        self._choose_way(call, block)
        return call

    def prepare_many(
        self, verb: str, statement: Any, rows: Iterable[Mapping[str, Any]], block: Block | None = None
    ) -> Call | None:
        """Return a call that runs *statement* once per row; ``None`` when there is no row."""
        self.check_usable()
        executable, checked = as_executable(statement), checked_rows(rows)
        if not checked:
            return None
        bound_rows(executable, checked, self.road.dialect.label)
        call = Call(verb, executable, checked, row_count, self.overrides())
        self._choose_way(call, block)
        return call

    def _choose_way(self, call: Call, block: Block | None) -> None:
        if block is not None:
            if call.given.read_only:
                check_read_only(call, block.root.options, self.road.dialect)
            call.way, call.block = Way.EXPLICIT, block
            return
        try:
            self._choose_way_from_here(call)
        except BaseException as error:
            if tells_calls(self.hooks):
                tell_refused_call(self.hooks, self.name, call, error)
            raise

    def _choose_way_from_here(self, call: Call) -> None:
        scope = ambient(self.instance)
        if scope is not None:
            check_read_only(call, scope.blocks[0].options, self.road.dialect)
            call.way, call.block = Way.AMBIENT, scope.blocks[-1]
            return
        if call.shape is row_count:
            call.way = Way.OWN_TRANSACTION
            return
        facts = facts_of_call(call, self.road.dialect.label)
        if not facts.stands_alone:
            refuse_one_shot(facts)
        # Only the server knows what a view or a function does, so it judges, inside READ ONLY. Behind a transaction
        # pooler only a transaction can carry a timeout of its own.
        given, settings = call.given, self.settings
        if (given.read_only and not settings.read_only) or (
            settings.pgbouncer and (given.timeout or settings.read_only)
        ):
            call.way = Way.OWN_TRANSACTION
            call.timeout_seconds = None  # the transaction has it

    # --- to carry it out ---------------------------------------------------------------------------

    def carry_out(self, call: Call) -> Any:
        """Return the answer to a prepared call, after all the attempts that it takes."""
        if not tells_calls(self.hooks):
            return self._carry_out(call)
        return tell_call(self.hooks, self.name, call, self._carry_out)

    def _carry_out(self, call: Call) -> Any:
        if call.block is not None:
            try:
                return call.block.run(call, explicit=call.way is Way.EXPLICIT)
            finally:
                # The connection knows its last call until the next one, and must not keep what that was given.
                del call.statement, call.params
        if call.way is Way.OWN_TRANSACTION:
            return self._run_in_own_transaction(call)
        try:
            fetched = self._one_shot(call)
        except PrefiqDbError as error:
            first = error
        else:
            instance = self.instance
            instance.retry_budget.successes += 1
            if instance.explainer is not None:
                self._explain_if_slow(call)
            return call.shape.finished(fetched)
        return call.shape.finished(self._one_shot_again(first, call))

    def _run_in_own_transaction(self, call: Call) -> Any:
        if call.shape is row_count:

            def attempt(tx: Block) -> Any:
                call.attempts += 1
                return tx.run(call, explicit=True)

            return self.in_transaction(attempt)
        options = TransactionOptions(read_only=bool(call.given.read_only), timeout_seconds=call.given.timeout)
        return self.in_transaction(lambda tx: tx.run(call, explicit=True), options)

    def _explain_if_slow(self, call: Call) -> None:
        """Ask for the plan of a SELECT that took too long, on another connection; never at the caller's cost."""
        explainer = self.instance.explainer
        slow = time.monotonic() - call.started >= self.settings.slow_query_seconds
        if explainer is None or not slow or not reading_facts_of_call(call, self.road.dialect).reads_only:
            return
        kind = fingerprint(str(call.statement), explainer.dialect)
        if not explainer.admits(kind):
            return
        given = replace(call.given, timeout=LIMIT_SECONDS, tags=None)
        try:
            rows = self._one_shot(Call("explain", Explain(call.statement), call.params, all_rows(None), given))
        except PrefiqDbError as error:
            logger.debug(
                "no plan for %s on database %s: %s",
                kind,
                self.name,
                error.kind.value,
                extra={"database": self.name, "error_kind": error.kind.value},
            )
        else:
            explainer.log(kind, rows)

    def _one_shot_again(self, first: PrefiqDbError, call: Call) -> Any:
        """Go on after a first failure; what a retry needs is made only now."""
        retrier = self.retrier(call.given, lambda error: self._is_repeatable(error, call))
        doubt = Doubt(self._takable(call), self._ask_who_took)
        doubt.note(first)

        def again() -> Any:
            if doubt.settles():
                raise self._outcome_unknown(first)
            try:
                return self._one_shot(call)
            except PrefiqDbError as error:
                doubt.note(error)
                raise

        try:
            fetched = retrier.resume(again, first, call.started)
        except PrefiqDbError as error:
            if not doubt.is_open or isinstance(error, OutcomeUnknownError):
                raise
        else:
            self.instance.retry_budget.successes += 1
            return fetched
        raise self._outcome_unknown(first)

    def _takable(self, call: Call) -> frozenset[str]:
        return frozenset() if call.given.idempotent else reading_facts_of_call(call, self.road.dialect).takable

    def _ask_who_took(self, names: frozenset[str]) -> bool:
        """Ask the server whether somebody made a function that is called like one of *names*."""
        return self._ask("functions", taken_sql(names), one_value(None)) is not None

    def _ask(self, verb: str, sql: str, shape: Shape) -> Any:
        """Return what the server says to *sql*, in one attempt."""
        return self._one_shot(Call(verb, as_executable(sql), None, shape, replace(self.overrides(), tags=None)))

    def _one_shot(self, call: Call) -> Any:
        call.attempts += 1
        try:
            return self.road.one_shot(call)
        except PrefiqDbError as error:
            if self.settings.read_only and error.kind is ErrorKind.READ_ONLY:
                error.classification = ErrorClass(ErrorKind.READ_ONLY)  # ours: no failover to wait for
            if not fate_unknown(error) or self._may_run_twice(call):
                raise
            failure = self._outcome_unknown(error)
        raise failure

    def _may_run_twice(self, call: Call) -> bool:
        return bool(call.given.idempotent) or reading_facts_of_call(call, self.road.dialect).reads_only

    def _outcome_unknown(self, error: PrefiqDbError) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"the connection to database {self.name} was lost after a write was sent: it may have happened. Look "
            "before you repeat it, or run it in run_in_transaction(), which repeats only what did not commit",
            code=error.code,
            database=self.name,
            classification=ErrorClass(ErrorKind.OUTCOME_UNKNOWN, connection_lost=True),
            original=error.original,
        )

    def _is_repeatable(self, error: BaseException, call: Call) -> bool:
        if not isinstance(error, PrefiqDbError) or isinstance(error, OutcomeUnknownError):
            return False
        found = error.classification
        return found.retry_statement or (found.retry_transaction and self._may_run_twice(call))

    # --- retries ---------------------------------------------------------------------------------

    def policy(self, given: Overrides, retry: RetryPolicy | None = None) -> RetryPolicy:
        policy = retry or given.retry or self.settings.retry
        if given.timeout is not None and given.timeout < policy.total_seconds:
            policy = replace(policy, total_seconds=given.timeout)
        return policy

    def retrier(
        self, given: Overrides, repeatable: Callable[[BaseException], bool], retry: RetryPolicy | None = None
    ) -> Retrier:
        return Retrier(
            self.policy(given, retry),
            self.runtime.sleep,
            repeatable,
            database=self.name,
            on_retry=self.note_retry,
            budget=self.instance.retry_budget,
        )

    def note_retry(self, event: AttemptFailed) -> None:
        self.instance.observer.statistics.note_retry(event.kind)
        self.hooks.emit(replace(event, database=self.name))

    # --- transactions ----------------------------------------------------------------------------

    def transaction(self, options: TransactionOptions) -> Block:
        """Return a transaction that has not begun: a savepoint if one is open here, else a new one."""
        self.check_usable()
        return self._block(options, ambient(self.instance))

    def _block(self, options: TransactionOptions, parent: Scope | None, until: float | None = None) -> Block:
        chosen = self.with_overrides(options)
        return RootBlock(self.instance, chosen, until) if parent is None else Savepoint(self.instance, chosen, parent)

    def declare(self, options: TransactionOptions) -> TransactionOptions:
        """Note what *options* need of the database, before anything runs: readiness asks for it."""
        if options.exactly_once:
            self.instance.needs_tokens = True
        return options

    def with_overrides(self, options: TransactionOptions) -> TransactionOptions:
        """Return *options* as the view and the scope have it."""
        given = self.overrides()
        self.declare(options)
        if self.settings.read_only and options.exactly_once:
            raise self._needs_to_write("exactly_once", "the token")
        if (given.read_only or self.settings.read_only) and not options.read_only:
            options = replace(options, read_only=True)
        return options if given.timeout is None else replace(options, call_timeout_seconds=given.timeout)

    def begin(self, tx: Block) -> None:
        """Begin *tx*; a connection that turns out to be dead costs no failed call, for nothing was done yet."""
        tx.check_new()
        given = self.overrides()
        limit = tx.options.timeout_seconds
        if limit is not None and (given.timeout is None or limit < given.timeout):
            given = replace(given, timeout=limit)
        retrier = self.retrier(given, worth_repeating if tx.is_root else _never)
        self._begin(tx, lambda: retrier.run(tx.begin))

    def _begin(self, tx: Block, begin: Callable[[], None]) -> None:
        try:
            begin()
        except BaseException:
            # Of any kind, a cancellation too: nothing was begun, so nothing can be committed.
            tx.abandon()
            raise

    def in_transaction(
        self,
        body: Callable[[Block], Any],
        options: TransactionOptions | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any:
        """Run *body* in a transaction, the whole of it again when it was rolled back for a reason that passes.

        Inside another transaction it is a savepoint and runs once: only the outermost block may run again.
        """
        self.check_usable()
        chosen = options or TransactionOptions()
        parent = ambient(self.instance)
        if parent is not None:
            return self._attempt(self._block(chosen, parent), body)
        given, shown = self.overrides(), self.with_overrides(chosen)
        until = None if given.timeout is None else time.monotonic() + given.timeout
        retrier = self.retrier(given, lambda error: transaction_repeatable(error, shown), retry)
        numbers = itertools.count()

        def attempt() -> Any:
            tx = self._block(chosen, None, until)
            tx.retry_number = next(numbers)
            return self._attempt(tx, body)

        result = retrier.run(attempt)
        self.instance.retry_budget.successes += 1
        return result

    def _attempt(self, tx: Block, body: Callable[[Block], Any]) -> Any:
        try:
            self._begin(tx, tx.begin)
            try:
                result = body(tx)
            except BaseException as error:
                failure = judged(tx, error)
                tx.end(error)
                if failure is None:
                    raise
            else:
                tx.end(None)
                return result
        finally:
            tx.abandon()
        try:
            raise failure
        finally:
            del failure  # or its traceback would hold it in a cycle

    def attempts(self, options: TransactionOptions, retry: RetryPolicy | None) -> Attempts:
        self.check_usable()
        if ambient(self.instance) is not None:
            raise UsageError(
                "attempts() inside a transaction: an inner block can't run again by itself; put the loop around the "
                "outermost transaction"
            )
        given = self.overrides()
        limits = [limit for limit in (given.timeout, options.timeout_seconds) if limit is not None]
        return Attempts(self, options, self.policy(given, retry), min(limits, default=None))

    def resolve_outcome(self, token: Any) -> Outcome:
        """Return what became of the transaction with *token*."""
        checked = checked_token(token)
        self.check_usable()
        if self.settings.read_only:
            raise self._needs_to_write("resolve_outcome", "its question")
        return self.instance.resolver.resolve(checked, within_seconds=self.overrides().timeout)

    # --- diagnosis -------------------------------------------------------------------------------

    def ping(self) -> float:
        """Return the seconds of one round trip, checkout included. One attempt; raises when there is no answer."""
        self.check_usable()
        started = time.perf_counter()
        self._ask("ping", _PING, one_value(None))
        return time.perf_counter() - started

    def test_connection(self) -> bool:
        """Return whether the database answers; never raises."""
        try:
            self.ping()
        except PrefiqDbError:
            return False
        return True

    def health(self, timeout_seconds: float | None) -> HealthReport:
        """Return whether the database answers and is ready for work, and why not. One attempt, never raises."""
        core = self if timeout_seconds is None else self.using({"timeout": timeout_seconds})
        details = {"engine": self.settings.engine, "mode": "async" if self.runtime.is_async else "sync"}
        try:
            core.check_usable()
            started = time.perf_counter()
            row = core._ask("health", self.road.dialect.health_sql, one_row(None))
            latency = time.perf_counter() - started
            ailment = core.ailment_of(row)
        except PrefiqDbError as error:
            return HealthReport(self.name, False, health_reason(error), error.kind, None, details)
        if ailment is not None:
            return HealthReport(self.name, False, ailment.value, ailment, latency, details)
        return HealthReport(self.name, True, latency_seconds=latency, details=details)

    def ailment_of(self, row: Any, *, writable: bool = True) -> ErrorKind | None:
        """Return why the server that said *row* to the dialect's ``health_sql`` is no good for work here, if so.

        Refusing writes ails nobody who doesn't want to write: by the settings, by ``read_only``, or not *writable*.
        """
        ailment = self.road.dialect.ailment_of(row)
        writes = writable and not self.settings.read_only and not self.overrides().read_only
        return None if ailment is ErrorKind.READ_ONLY and not writes else ailment

    def stats(self) -> DatabaseStats:
        observer, watcher = self.instance.observer, self.instance.watcher
        statistics = observer.statistics
        return DatabaseStats(
            database=self.name,
            pool=watcher.pool_stats(self.instance.engine.pool, self.settings.pool_size, self.settings.max_overflow),
            statement_count=statistics.statement_count,
            error_count=statistics.error_count,
            retry_count=statistics.retries.total(),
            retry_refused_count=self.instance.retry_budget.refused,
            hook_error_count=self.hooks.error_count,
            leak_count=watcher.leak_count,
            slow_count=statistics.slow_count,
            errors=dict(statistics.errors),
            retries=dict(statistics.retries),
            durations=statistics.durations(),
            statements=statistics.top(),
            holders=watcher.holders(),
        )

    def expect(self, max_statements: int | None, max_repeats: int | None) -> StatementBudget:
        self.instance.observer.expect_budgets()
        return StatementBudget(self.instance.observer, max_statements=max_statements, max_repeats=max_repeats)

    # --- SQLAlchemy's own objects ----------------------------------------------------------------

    def check_engine_allowed(self) -> None:
        """Refuse the engine inside a transaction: it would open a second connection beside it."""
        self._check_writable("engine")
        if ambient(self.instance) is not None:
            raise UsageError(
                "engine inside transaction(): it would work on another connection, outside the transaction; use "
                "session() or tx.connection"
            )

    def pinned(self) -> Scope | None:
        """Return the transaction that a session joins here, or ``None`` when it gets a connection of its own."""
        self.check_usable()
        scope = ambient(self.instance)
        if scope is None or not scope.blocks[0].options.read_only:
            self._check_writable("session()")
        return scope

    def _check_writable(self, what: str) -> None:
        if self.overrides().read_only and not self.settings.read_only:
            raise UnsupportedError(f"{what} would write although read_only is set; use transaction(read_only=True)")

    def _needs_to_write(self, what: str, written: str) -> UnsupportedError:
        return UnsupportedError(
            f"{what}: {written} is a write, and the settings of database {self.name} say read_only", database=self.name
        )


def _give_back(held: list[Connection]) -> None:
    """Give all of them back, also when that is interrupted at one of them."""
    try:
        while held:
            held.pop().close()
    finally:
        if held:
            _give_back(held)


def _never(error: BaseException) -> bool:
    return False


def health_reason(error: PrefiqDbError) -> str:
    """Return why a database is not well, without host, user or value."""
    code = "" if error.code is None else f" (code {error.code})"
    return f"{error.kind.value}{code}"
