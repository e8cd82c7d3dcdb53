"""The verb ``upsert``: one statement on its own where that is enough, else several in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import CursorResult, Table
from sqlalchemy.exc import NoSuchTableError

from prefiq_db.call import Call, Shape, Way
from prefiq_db.core.reading_statements import check_read_only
from prefiq_db.core.statements import Statements
from prefiq_db.core.upsert_steps import UpsertSteps
from prefiq_db.errors import ConcurrencyError, ErrorKind, PrefiqDbError, UsageError
from prefiq_db.execution.shapes import ONE_VALUE
from prefiq_db.execution.target_tables import Reflect, Target, TargetTables, reflect_on
from prefiq_db.execution.upsert_request import UpsertRequest, check_key, has_key, request_of
from prefiq_db.hooks.calls import CALL_EVENTS, tell_call
from prefiq_db.reports import UpsertResult
from prefiq_db.retry import affordable, attempt_failed, note_attempt
from prefiq_db.transaction import Block, Savepoint, TransactionOptions


def _fetch(result: CursorResult[Any]) -> Any:
    return list(result.all()) if result.returns_rows else []


_ROWS: Final = Shape(_fetch)
# The table may be another one by now than what we know of it.
_TABLE_CHANGED: Final = frozenset({ErrorKind.SCHEMA, ErrorKind.SYNTAX, ErrorKind.UNSUPPORTED, ErrorKind.USAGE})


class Upserts(Statements):
    """A database that upserts rows."""

    def upsert(
        self, table: Any, rows: Any, key: Any, update: Any, returning: Any, block: Block | None = None
    ) -> UpsertResult:
        """Insert *rows*, and update those that are there; in *block*, if the caller named one."""
        given = self.admit()
        self.refuse_rows("upsert")
        reflect = self._reflect(block)
        tables = self.tables(block)
        target = tables.resolve(table, reflect)
        try:
            request = request_of(target, rows, key, update, returning, self.runtime)
        except UsageError:
            if target.is_reflected:  # the next call looks whether the table has changed
                tables.forget(target)
            raise
        if request is None:
            return UpsertResult(0, 0, 0)
        if self.road.dialect.upserts.names_no_key:
            _check_key(request, target, reflect, tables)
        steps = UpsertSteps(request, self.road.dialect)
        call = Call("upsert", steps.insert, None, _ROWS, given)
        if block is None:
            scope = self.ambient()
            call.way, inner = (Way.ONE_SHOT, None) if scope is None else (Way.AMBIENT, scope.blocks[-1])
        else:
            self.check_tenant(given, block)
            call.way, inner = Way.EXPLICIT, block
        if inner is not None:
            check_read_only(call, inner.root.options, self.road.dialect)
        work = _Work(self, call, steps, inner, target, tables)
        try:
            if self.hooks.wanted.isdisjoint(CALL_EVENTS):
                return work.done(call)
            return tell_call(self.hooks, self.name, call, work.done)
        finally:
            call.params = call.block = None

    def _reflect(self, block: Block | None) -> Reflect:
        """Return a function that reads a table's columns and keys from the database."""
        if block is None and (scope := self.ambient()) is not None:
            block = scope.blocks[-1]

        def reflect(schema: str | None, name: str) -> Table:
            if block is not None:
                found = self._reflected(block, schema, name)
            else:
                options = TransactionOptions(read_only=True)
                # Of the primary: a replica may not have it yet.
                found = self.in_transaction_here(lambda tx: self._reflected(tx, schema, name), options)
            if found is None:
                raise NoSuchTableError(name)
            return found

        return reflect

    def _reflected(self, tx: Block, schema: str | None, name: str) -> Table | None:
        def reflect() -> Table | None:
            try:
                return reflect_on(tx.connection)(schema, name)
            except NoSuchTableError:
                return None

        tx.check_connected()
        with tx.scope.used():
            return self.road.border.cross(reflect)


def _check_key(request: UpsertRequest, target: Target, reflect: Reflect, tables: TargetTables) -> None:
    """Raise if the database doesn't have the key; what is known of the table may be old, so it is read anew."""
    if not has_key(request.wanted, tables.reflected(target, reflect)):
        tables.forget(target)
        check_key(request.wanted, tables.reflected(target, reflect))


class _Work:
    """One call of upsert: how its statements reach the server."""

    def __init__(
        self,
        core: Upserts,
        call: Call,
        steps: UpsertSteps,
        inner: Block | None,
        target: Target,
        tables: TargetTables,
    ) -> None:
        self.core = core
        self.target = target
        self.tables = tables
        self.call = call
        self.steps = steps
        self.inner = inner

    def done(self, call: Call) -> UpsertResult:
        """Return the result, after as many attempts as needed."""
        try:
            return self._done()
        except PrefiqDbError as error:
            if error.kind in _TABLE_CHANGED:
                self.tables.forget(self.target)
                self.core.instance.tells_inserted.kept.pop(self._table_key, None)
            explained = self.steps.explained(error)
            if explained is None:
                raise
        raise explained

    def _done(self) -> UpsertResult:
        core, steps, call = self.core, self.steps, self.call
        if self.inner is None:
            if steps.is_one_statement and not core._needs_a_transaction(call.given, lambda: True):
                return self._alone()
            return self._in_own_transaction()
        if steps.needs_undo:
            return self._in_savepoint(self.inner)
        self._learn(self.inner)
        return steps.run(self._sender(self.inner))

    def _alone(self) -> UpsertResult:
        self._learn(None)
        try:
            return self.steps.run(self._send_alone)
        except ConcurrencyError as error:
            # The server undid the statement, which was all there was: it may run again, and in a transaction it does.
            core = self.core
            if not error.classification.retry_transaction or core.policy(self.call.given).attempts == 1:
                raise
            if not affordable(core.instance.retry_budget, error):
                raise
            event = attempt_failed(error, self.call.attempts, 0.0)
        note_attempt(core.name, event)
        core.note_retry(event)
        return self._in_own_transaction()

    def _in_own_transaction(self) -> UpsertResult:
        call = self.call
        options = TransactionOptions(read_only=bool(call.given.read_only), timeout_seconds=call.given.timeout)
        call.way = Way.OWN_TRANSACTION

        def attempt(tx: Block) -> UpsertResult:
            call.attempts += 1
            self._learn(tx)
            call.last = self.steps.is_one_statement and (tx.options.schema is not None or self.core.settings.pgbouncer)
            return self.steps.run(self._sender(tx))

        result: UpsertResult = self.core.in_transaction(attempt, options)
        return result

    def _in_savepoint(self, inner: Block) -> UpsertResult:
        core, steps = self.core, self.steps
        savepoint = Savepoint(core.instance, TransactionOptions(), inner.root.scope)
        self._learn(inner)
        result: UpsertResult = core.attempt(savepoint, lambda tx: steps.run(self._sender(tx)))
        return result

    # --- statements ------------------------------------------------------------------------------

    def _sender(self, tx: Block) -> Callable[[Any, Any], Any]:
        def send(statement: Any, params: Any) -> Any:
            call = self.call
            call.statement, call.params, call.shape, call.facts = statement, params, _ROWS, None
            return tx.run(call, explicit=call.way is not Way.AMBIENT)

        return send

    def _send_alone(self, statement: Any, params: Any) -> Any:
        call = self.call
        call.statement, call.params, call.shape, call.facts = statement, params, _ROWS, None
        return self.core._carry_out(call)

    def _learn(self, tx: Block | None) -> None:
        """Find out, once for each table, whether the server tells inserted rows from updated ones."""
        steps, core = self.steps, self.core
        question = steps.question
        if question is None:
            return
        known = core.instance.tells_inserted
        told = known.kept.get(self._table_key)
        if told is None:
            asked = Call("upsert", question, None, ONE_VALUE, self.call.given)
            value = core._carry_out(asked) if tx is None else tx.run(asked, explicit=True)
            told = known.keep(self._table_key, bool(value), steps.table_name)
        steps.tell(told)

    @property
    def _table_key(self) -> tuple[str | None, str]:
        return self.tables.schema, self.steps.table_name
