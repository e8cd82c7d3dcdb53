"""Prepare a call, without waiting, and carry it out: shared by all single-statement verbs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any
from weakref import ref

from sqlalchemy import TextClause

from prefiq_db.bridge import spawn
from prefiq_db.call import (
    EXPLICIT,
    NO_OVERRIDES,
    OWN_TRANSACTION,
    Call,
    Overrides,
    Shape,
    Told,
    Way,
    next_call_id,
    told_of,
)
from prefiq_db.core.bulk_insert import Request, bulk_insert
from prefiq_db.core.doubt import Doubt, fate_unknown
from prefiq_db.core.reading_statements import ReadingStatements, check_read_only
from prefiq_db.core.streams import StreamCore
from prefiq_db.core.verbs import CoreVerbs
from prefiq_db.dialects.functions import taken_sql
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    OutcomeUnknownError,
    PrefiqDbError,
    ReadOnlyError,
)
from prefiq_db.execution.awaited_one_shot import Unusual, shoot_awaited
from prefiq_db.execution.awaited_shot import UNDONE, AwaitedShot
from prefiq_db.execution.binds import bind_params, bind_rows, check_params, checked_rows
from prefiq_db.execution.entities import refuse_entities
from prefiq_db.execution.one_shot import UNUSUAL
from prefiq_db.execution.prepared import KNOWN_KINDS, Prepared
from prefiq_db.execution.refused_statements import refuse_one_shot
from prefiq_db.execution.row_batches import BatchReader, streamed
from prefiq_db.execution.shapes import ALL_ROWS, ONE_VALUE, ROW_COUNT
from prefiq_db.execution.statement_facts import as_executable, facts_of, facts_of_call, may_travel
from prefiq_db.hooks.calls import CALL_EVENTS, Telling, tell_call, tell_refused_call
from prefiq_db.insight.explainer import LIMIT_SECONDS, Explain
from prefiq_db.insight.summary import fingerprint
from prefiq_db.origin import line_of_the_verb
from prefiq_db.overrides import NO_SCOPES, scopes_here
from prefiq_db.reports import BulkResult
from prefiq_db.tags import NO_TAGS
from prefiq_db.transaction import NO_TRANSACTIONS, Block, TransactionOptions, request_here, transactions_here

logger = logging.getLogger("prefiq_db.database")

open_request = request_here.get


class Statements(ReadingStatements, CoreVerbs):
    """A database that runs statements."""

    # --- the short way -------------------------------------------------------------------------------

    def run(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        """Return the result of a call of *verb*; one that needs nothing decided is sent at once.

        Raises:
            PrefiqDbError: if the call can't or must not be carried out, or fails.
        """
        known: Prepared | None = None
        if type(statement) is str:
            known = self.road.texts.kept.get(statement)
        elif type(statement) in KNOWN_KINDS:
            known = self.road.seen(ref(statement))
            if known is None and (params is None or type(params) is dict):
                known = self.road.construct(statement, params)
        instance = self.instance
        if (
            known is None
            or not known.is_plain
            or not instance.is_usual
            or instance.closed
            or transactions_here() is not NO_TRANSACTIONS
            or open_request() is not None
        ):
            return self.carry_out(self.prepare(verb, statement, params, shape))
        given = self.view if scopes_here() is NO_SCOPES else self.overrides()
        if given is not NO_OVERRIDES and self._changes_sending(given):
            return self.carry_out(self.prepare(verb, statement, params, shape))
        if params.keys() != known.asked if type(params) is dict else params is not None or known.asked:
            return self.carry_out(self.prepare(verb, statement, params, shape))
        now = perf_counter()
        told: Told | None = None
        if self.hooks.wants_lines:
            told = told_of((next_call_id(), line_of_the_verb(3), given.tags or NO_TAGS))
        elif given.tags:
            told = told_of((next_call_id(), None, given.tags))
        try:
            fetched = self.road.shoot(known, statement, params, shape, told, now)
        except PrefiqDbError as error:
            first = error
        else:
            if fetched is UNUSUAL:
                return self.carry_out(self.prepare(verb, statement, params, shape))
            instance.retry_budget.successes += 1
            finish = shape.finish
            return fetched if finish is None else finish(fetched)
        call = Call(verb, known.executed(statement), params, shape, given).told_as(told)
        call.prepared = known
        call.started = time.monotonic() - (perf_counter() - now)
        call.attempts = 1
        return self._carry_out(call, self._judged(first, call))

    async def run_awaited(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        """Return the same as :meth:`run`, for a task; only what has to be bridged runs in a greenlet."""
        known: Prepared | None = None
        if type(statement) is str:
            known = self.road.texts.kept.get(statement)
        elif type(statement) in KNOWN_KINDS:
            known = self.road.seen(ref(statement))
            if known is None and (params is None or type(params) is dict):
                known = self.road.construct(statement, params)
        given = None if known is None else self._given_at_once(known, params)
        if known is None or given is None:
            call = self.prepare(verb, statement, params, shape)
            return await self._carry_out_awaited(call, self._awaited_shot(call))
        self.check_world()
        now = perf_counter()
        told: Told | None = None
        if given.tags or self.hooks.wants_lines:  # the line is looked for where it is told, which is after a failure
            told = told_of((next_call_id(), None, given.tags or NO_TAGS))
        try:
            fetched = await shoot_awaited(self.road, known, statement, params, shape, told, now)
        except PrefiqDbError as error:
            first = error
        else:
            if type(fetched) is Unusual:
                record = fetched.record
                try:
                    call = self.prepare(verb, statement, params, shape)
                    shot = self._awaited_shot(call)
                except BaseException:
                    if record is not None:
                        record.pool.give_up(record)
                    raise
                return await self._carry_out_awaited(call, shot, record, fetched.since)
            self.instance.retry_budget.successes += 1
            finish = shape.finish
            return fetched if finish is None else finish(fetched)
        call = Call(verb, known.executed(statement), params, shape, given).told_as(told)
        call.prepared = known
        call.started = time.monotonic() - (perf_counter() - now)
        call.attempts = 1
        return await spawn(self._carry_out, call, self._judged(first, call))

    def _given_at_once(self, known: Prepared, params: Any) -> Overrides | None:
        """Return the overrides in force if what is *known* can be sent at once, in the async world; else ``None``.

        The conditions are those of :meth:`run`.
        """
        if (
            not known.is_plain
            or not self.instance.is_usual
            or self.instance.closed
            or transactions_here() is not NO_TRANSACTIONS
            or open_request() is not None
        ):
            return None
        given = self.view if scopes_here() is NO_SCOPES else self.overrides()
        if given is not NO_OVERRIDES and self._changes_sending(given):
            return None
        fits = params.keys() == known.asked if type(params) is dict else params is None and not known.asked
        return given if fits else None

    def _changes_sending(self, given: Overrides) -> bool:
        """Return whether *given* change more than what is told of a call, and what becomes of it after a failure."""
        return not (
            given.timeout is None
            and given.read_only is None
            and given.schema is None
            and given.database is None
            and given.replica is None
            and given.after is None
            and (not given.tags or self.road.dialect.commenter is None)
        )

    def _awaited_shot(self, call: Call) -> AwaitedShot | None:
        """Return the shot that carries out *call* in a coroutine; ``None``: it has to be bridged."""
        is_plain = call.way is Way.ONE_SHOT and self.instance.explainer is None
        return AwaitedShot.of(self.road, call) if is_plain else None

    async def _carry_out_awaited(
        self, call: Call, shot: AwaitedShot | None, record: Any = None, since: float = 0.0
    ) -> Any:
        """Carry out *call* by *shot*, if there is one; *record* is a place in the pool, waited for *since* then."""
        if shot is None:
            if record is not None:
                record.pool.give_up(record)
            return await spawn(self.carry_out, call)
        if self.hooks.wanted.isdisjoint(CALL_EVENTS):
            return await self._shot_awaited(call, shot, record, since)
        with Telling(self.hooks, self.name, call):
            return await self._shot_awaited(call, shot, record, since)

    async def _shot_awaited(self, call: Call, shot: AwaitedShot, record: Any, since: float) -> Any:
        try:
            fetched = await shot.shoot(record, since)
        except GeneratorExit:  # this coroutine is being closed, and awaits no more
            self.road.fly(shot)
            raise
        if fetched is UNDONE:
            call.begun = shot
            del shot
            return await spawn(self._carry_out, call)
        self.instance.retry_budget.successes += 1
        finish = call.shape.finish
        del call.statement, call.params, call.block, call.text
        return fetched if finish is None else finish(fetched)

    # --- prepare a call: nothing here waits --------------------------------------------------------

    def prepare(self, verb: str, statement: Any, params: Any, shape: Shape, block: Block | None = None) -> Call:
        """Return a call of *verb*, with its arguments checked; in *block*, if the caller named one.

        Raises:
            PrefiqDbError: if the call can't or must not be carried out.
        """
        given = self.admit()
        text = statement if type(statement) is str else None
        known = None if text is None else self.road.texts.kept.get(text)
        executable: Any
        if known is not None and known.fits(params):
            executable = known.statement
        else:
            known = None
            executable = bind_params(as_executable(statement), check_params(params), self.road.dialect.label)
            if type(executable) is not TextClause and shape.typed and getattr(executable, "_propagate_attrs", None):
                refuse_entities(executable)
        call = Call(verb, executable, params, shape, given)
        call.text, call.prepared = text, known
        if self.hooks.wants_lines:
            call.line = line_of_the_verb()
        self._choose_way(call, block)
        return call

    def prepare_many(
        self, verb: str, statement: Any, rows: Iterable[Mapping[str, Any]], block: Block | None = None
    ) -> Call | None:
        """Return a call that runs *statement* once per row; ``None`` if there are no rows."""
        checked = None if block is None else checked_rows(rows)
        if checked is not None and not checked:
            return None  # a transaction asks nothing of its database when there is no row
        given = self.admit()
        executable = as_executable(statement)
        checked = checked_rows(rows) if checked is None else checked
        if not checked:
            return None
        executable = bind_rows(executable, checked, self.road.dialect.label)
        call = Call(verb, executable, checked, ROW_COUNT, given)
        if self.hooks.wants_lines:
            call.line = line_of_the_verb()
        self._choose_way(call, block)
        return call

    def prepare_stream(
        self,
        statement: Any,
        params: Any,
        reader: BatchReader,
        shape: Shape,
        make: Callable[[Any], Any] | None,
        block: Block | None = None,
    ) -> StreamCore:
        """Return a stream that isn't open yet; where it reads is decided when it is opened."""
        given, label = self.admit(), self.road.dialect.label
        executable = bind_params(streamed(as_executable(statement), label), check_params(params), label)
        if shape.typed and getattr(executable, "_propagate_attrs", None):
            refuse_entities(executable)
        return StreamCore(
            self, Call("stream", executable, params, shape, given), reader, make, lambda call: self._place(call, block)
        )

    def _place(self, call: Call, block: Block | None) -> Block | None:
        """Return the block that a stream reads in; ``None``: it needs a transaction of its own."""
        if call.given.replica:
            self.check_only_reads(call)
        if block is not None:
            if call.given.read_only:
                check_read_only(call, block.root.options, self.road.dialect)
            self.check_tenant(call.given, block)
            call.way = Way.EXPLICIT
            return block
        scope = self.ambient()
        if scope is not None:
            check_read_only(call, scope.blocks[0].options, self.road.dialect)
            call.way = Way.AMBIENT
            return scope.blocks[-1]
        refuse_one_shot(facts_of(call.statement, self.road.dialect.label))
        call.way = Way.OWN_TRANSACTION
        return None

    def bulk_insert(self, request: Request, block: Block | None = None) -> BulkResult:
        """Insert many rows; in *block*, if the caller named one."""
        self.refuse_rows("bulk_insert")
        return bulk_insert(self, block, request)

    def _choose_way(self, call: Call, block: Block | None) -> None:
        if call.given.replica:
            self.check_only_reads(call)
        if block is not None:
            if call.given.read_only:
                check_read_only(call, block.root.options, self.road.dialect)
            if call.given is not NO_OVERRIDES:
                self.check_tenant(call.given, block)
            call.way, call.block = EXPLICIT, block
            return
        try:
            scope = self.ambient()
            if scope is not None:
                check_read_only(call, scope.blocks[0].options, self.road.dialect)
                call.way, call.block = Way.AMBIENT, scope.blocks[-1]
            elif call.shape is ROW_COUNT:
                call.way = Way.OWN_TRANSACTION
            else:
                if call.prepared is None or not call.prepared.stands_alone:
                    facts = facts_of(call.statement, self.road.dialect.label)
                    if not facts.stands_alone:
                        refuse_one_shot(facts)
                if self._needs_a_transaction(call.given, lambda: may_travel(call, self.road.dialect)):
                    refuse_one_shot(facts_of_call(call, self.road.dialect))  # a Core construct's are known only now
                    call.way = Way.OWN_TRANSACTION
        except BaseException as error:
            if not self.hooks.wanted.isdisjoint(CALL_EVENTS):
                tell_refused_call(self.hooks, self.name, call, error)
            raise

    def _needs_a_transaction(self, given: Overrides, travels: Callable[[], bool]) -> bool:
        # Only the server knows what a view or a function does, so a READ ONLY transaction lets it judge. Behind a
        # transaction pooler only a transaction can have time limits: what can travel with BEGIN and COMMIT has them.
        settings = self.settings
        return (
            bool(given.read_only and not settings.read_only)
            or (settings.pgbouncer and (bool(given.timeout or settings.read_only) or travels()))
            or (given.schema is not None and self.has_namespaces)
        )

    # --- carry it out ------------------------------------------------------------------------------

    def carry_out(self, call: Call) -> Any:
        """Return the result of a prepared call, after as many attempts as needed."""
        if self.hooks.wanted.isdisjoint(CALL_EVENTS):
            return self._carry_out(call)
        return tell_call(self.hooks, self.name, call, self._carry_out)

    def _carry_out(self, call: Call, first: PrefiqDbError | None = None) -> Any:
        """Carry out *call*, which has failed before if there was a *first* error."""
        try:
            if call.block is not None:
                return call.block.run(call, explicit=call.way is EXPLICIT)
            if self.instance.readers is not None and self.goes_to_replica(call):
                return self.read_on_replica(call)
            if call.way is OWN_TRANSACTION:
                if call.shape is not ROW_COUNT and (self.settings.pgbouncer or self.schema_of(call.given) is not None):
                    return self._run_in_one_message(call)
                return self._run_in_own_transaction(call)
            if first is None:
                try:
                    fetched = self._one_shot(call)
                except PrefiqDbError as error:
                    first = error
            if first is not None:
                fetched = self._one_shot_again(first, call)
            else:
                instance = self.instance
                instance.retry_budget.successes += 1
                if instance.explainer is not None:
                    self._explain_if_slow(call)
            finish = call.shape.finish
            return fetched if finish is None else finish(fetched)
        finally:
            # The connection knows its last call until the next one, and must not keep what the caller gave it.
            del call.statement, call.params, call.block, call.text

    def _run_in_own_transaction(self, call: Call, *, read_only: bool = False, here: bool = False) -> Any:
        """Return the result of *call* in a transaction of its own; *here*: on this very server."""

        def attempt(tx: Block) -> Any:
            call.attempts += 1
            tx.may_run_twice = call.last and bool(call.given.idempotent)
            return tx.run(call, explicit=True)

        if call.shape is ROW_COUNT:
            return self.in_transaction(attempt)
        options = TransactionOptions(
            read_only=read_only or bool(call.given.read_only), timeout_seconds=call.given.timeout
        )
        return (self.in_transaction_here if here else self.in_transaction)(attempt, options)

    def _run_in_one_message(self, call: Call) -> Any:
        """Run one statement in a transaction of its own, whose BEGIN says the schema or the limits: all in one message.

        What surely reads runs in a read-only one, whose COMMIT nobody has to wait for; with a write COMMIT travels.
        """
        facts = facts_of_call(call, self.road.dialect)
        if facts.reads_only and not facts.takable:
            try:
                fetched = self._run_in_own_transaction(call, read_only=True)
            except ReadOnlyError:  # a view or a function that writes after all; nothing of it was done
                if call.given.read_only or self.settings.read_only:
                    raise
                call.attempts = 0
            else:
                if self.instance.explainer is not None:
                    self._explain_if_slow(call)
                return fetched
        call.last = not call.given.read_only
        try:
            return self._run_in_own_transaction(call)
        except OutcomeUnknownError as error:
            if not self._may_run_twice(call):
                raise
            first = error
        retrier = self.retrier(call.given, lambda error: isinstance(error, OutcomeUnknownError))
        return retrier.resume(lambda: self._run_in_own_transaction(call), first, call.started)

    def _explain_if_slow(self, call: Call) -> None:
        """Ask for the plan of a SELECT that took too long, on another connection; a failure is only logged."""
        explainer = self.instance.explainer
        slow = time.monotonic() - call.started >= self.settings.slow_query_seconds
        if explainer is None or not slow or not facts_of_call(call, self.road.dialect).reads_only:
            return
        kind = fingerprint(str(call.statement), explainer.dialect)
        if not explainer.admits(kind):
            return
        given = replace(call.given, timeout=LIMIT_SECONDS, tags=None)
        try:
            asked = Call("explain", Explain(call.statement), call.params, ALL_ROWS, given)
            within = self.settings.pgbouncer or self.schema_of(given) is not None
            rows = self._run_in_own_transaction(asked, read_only=True) if within else self._one_shot(asked)
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
        """Retry after a first failure; the objects that a retry needs are created only here."""
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
        return frozenset() if call.given.idempotent else facts_of_call(call, self.road.dialect).takable

    def _ask_who_took(self, names: frozenset[str]) -> bool:
        """Ask the server whether there is a user-defined function with one of *names*."""
        return self._ask("functions", taken_sql(names), ONE_VALUE) is not None

    def _ask(self, verb: str, sql: str, shape: Shape) -> Any:
        """Return the server's reply to *sql*, in one attempt."""
        return self._one_shot(Call(verb, as_executable(sql), None, shape, replace(self.overrides(), tags=None)))

    def _one_shot(self, call: Call) -> Any:
        call.attempts += 1
        try:
            if call.attempts == 1 and self._may_be_sent_at_once(call):
                told = told_of((call.id, call.line, call.tags))
                fetched = self.road.shoot(call.prepared, call.text, call.params, call.shape, told, perf_counter())
                if fetched is not UNUSUAL:
                    return fetched
            return self.road.one_shot(call)
        except PrefiqDbError as error:
            failure = self._judged(error, call)
            if failure is error:
                raise
        raise failure

    def _may_be_sent_at_once(self, call: Call) -> bool:
        """Return whether a known text may take the short way, though listeners hear of calls, or want plans."""
        known: Prepared | None = call.prepared
        return (
            known is not None
            and known.is_plain
            and call.text is not None
            and call.begun is None
            and self.instance.sends_plainly
            and not self.instance.is_usual  # or run() has tried it
            and not self._changes_sending(call.given)
        )

    def _judged(self, error: PrefiqDbError, call: Call) -> PrefiqDbError:
        """Return *error* of an attempt, or what it means for a write whose fate it leaves open."""
        if self.settings.read_only and error.kind is ErrorKind.READ_ONLY:
            error.classification = ErrorClass(ErrorKind.READ_ONLY)  # our own setting: no failover to wait for
        return self._outcome_unknown(error) if fate_unknown(error) and not self._may_run_twice(call) else error

    def _may_run_twice(self, call: Call) -> bool:
        return bool(call.given.idempotent) or facts_of_call(call, self.road.dialect).reads_only

    def _outcome_unknown(self, error: PrefiqDbError) -> OutcomeUnknownError:
        """Count one more write of unknown outcome, and return its error."""
        self.instance.observer.statistics.note_unknown_outcome()
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
