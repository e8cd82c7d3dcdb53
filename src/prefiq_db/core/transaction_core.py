"""The verbs of an explicit ``tx``: its database's verbs, on its connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from prefiq_db.call import EXPLICIT, NO_OVERRIDES, Batch, Call, Shape, next_call_id, told_of
from prefiq_db.core.bulk_insert import Request
from prefiq_db.core.database_core import DatabaseCore
from prefiq_db.core.streams import StreamCore
from prefiq_db.core.transactions import Transactions
from prefiq_db.core.verbs import CoreVerbs
from prefiq_db.execution.one_shot import UNUSUAL
from prefiq_db.execution.prepared import KNOWN_KINDS
from prefiq_db.execution.row_batches import BatchReader
from prefiq_db.origin import line_of_the_verb
from prefiq_db.overrides import NO_SCOPES, scopes_here
from prefiq_db.reports import BulkResult, UpsertResult
from prefiq_db.tags import NO_TAGS
from prefiq_db.transaction import Binding, Block, Savepoint, TransactionOptions

T = TypeVar("T")


class OpenedTransaction:
    """The base of ``tx``, whatever its verbs are: a database, and the block that every call runs in."""

    def __init__(self, database: Transactions, tx: Block) -> None:
        self.database = database
        self.tx = tx

    def enter(self, shell: T) -> T:
        """Begin and return *shell*; if interrupted, leave nothing begun."""
        self.tx.check_new()
        try:
            self.database.begin(self.tx)
            if self.tx.is_root:
                self.database.instance.retry_budget.successes += 1
            return shell
        except BaseException:
            self.tx.abandon()
            raise

    def hush(self, error: BaseException) -> None:
        self.database.hush(error)

    def bind(self) -> Binding:
        """Return a block in which this transaction is ambient for the running task or thread."""
        return Binding(self.tx.root.scope)


class TransactionCore(OpenedTransaction, CoreVerbs):
    """The base of ``tx`` in the sync and the async API: a database, and the block that every call runs in."""

    database: DatabaseCore

    def run(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        """Return the result of a call of *verb*; a known statement that needs nothing decided is carried out at once.

        Raises:
            PrefiqDbError: if the call can't or must not be carried out, or fails.
        """
        database = self.database
        is_text, instance, known = type(statement) is str, database.instance, None
        if is_text:
            known = database.road.texts.kept.get(statement)
        elif type(statement) in KNOWN_KINDS and (params is None or type(params) is dict):
            known = None if database.runtime.is_async else database.road.known_construct(statement, params)
        if (
            known is None
            or (is_text and known.statement is None)
            or not instance.is_usual
            or instance.closed
            or database.view is not NO_OVERRIDES
            or scopes_here() is not NO_SCOPES
        ):
            return self.carry_out(self.prepare(verb, statement, params, shape))
        if not is_text:
            are_taken = known.takes_unchanged(params)
        elif type(params) is dict:
            are_taken = params.keys() == known.keys and known.taken.issuperset(map(type, params.values()))
        else:
            are_taken = params is None and not known.keys
        told = told_of((next_call_id(), line_of_the_verb(3), NO_TAGS)) if database.hooks.wants_lines else None
        may_shoot = are_taken or (not is_text and known.is_read_alike(params))
        if may_shoot and known.inside is not None and not database.runtime.is_async:
            fetched = self.tx.shoot(known, known.executed(statement), params, shape, told, is_taken=are_taken)
            if fetched is not UNUSUAL:
                return fetched
        if not is_text or not (are_taken or known.fits(params)):
            return self.carry_out(self.prepare(verb, statement, params, shape))
        call = Call(verb, known.executed(statement), params, shape).told_as(told)
        call.text, call.prepared, call.way = statement, known, EXPLICIT
        try:
            return self.tx.run(call, explicit=True)
        finally:
            # As for every call: the connection knows it until the next one.
            del call.statement, call.params, call.block, call.text

    def prepare(self, verb: str, statement: Any, params: Any, shape: Shape) -> Call:
        return self.database.prepare(verb, statement, params, shape, self.tx)

    def prepare_many(self, verb: str, statement: Any, rows: Iterable[Mapping[str, Any]]) -> Call | None:
        return self.database.prepare_many(verb, statement, rows, self.tx)

    def prepare_batch(self, statements: Iterable[Any], exactly_once: bool) -> Batch | None:
        return self.database.prepare_batch(statements, exactly_once, self.tx)

    def prepare_stream(
        self, statement: Any, params: Any, reader: BatchReader, shape: Shape, make: Callable[[Any], Any] | None
    ) -> StreamCore:
        return self.database.prepare_stream(statement, params, reader, shape, make, self.tx)

    def upsert(self, table: Any, rows: Any, key: Any, update: Any, returning: Any) -> UpsertResult:
        return self.database.upsert(table, rows, key, update, returning, self.tx)

    def carry_out(self, call: Call) -> Any:
        return self.database.carry_out(call)

    def carry_out_batch(self, batch: Batch) -> Any:
        return self.database.carry_out_batch(batch)

    def bulk_insert(self, request: Request) -> BulkResult:
        return self.database.bulk_insert(request, self.tx)

    def check_tenant(self) -> None:
        """Raise if the overrides in force here choose another tenant than this transaction's."""
        self.database.check_tenant(self.database.overrides(), self.tx)

    def make_savepoint(self, options: TransactionOptions) -> Savepoint:
        """Return a savepoint in this transaction that has not begun."""
        self.database.check_usable()
        self.check_tenant()
        return Savepoint(self.tx.instance, options, self.tx.root.scope)
