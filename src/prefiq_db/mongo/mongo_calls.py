"""Calls of one document database: each carried out alone, or in the transaction that is open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from prefiq_db.call import NO_OVERRIDES, Call, Overrides
from prefiq_db.core.transactions import Transactions
from prefiq_db.deadline import Deadline
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    OutcomeUnknownError,
    PrefiqDbError,
    ReadOnlyError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.hooks.calls import CALL_EVENTS, tell_call
from prefiq_db.mongo.asking import ask, fate_unknown, may_read_again, may_write_again
from prefiq_db.mongo.document_requests import Request
from prefiq_db.mongo.running_calls import Attempt, DocumentCall, Note
from prefiq_db.mongo.session_block import SessionBlock
from prefiq_db.overrides import check_overrides
from prefiq_db.transaction import Block, Scope, TransactionOptions, ambient

_LACKS: Final = {"schema": "MongoDB has none; use database"}
# What MongoDB allows in the name of a database on every platform.
_DATABASE: Final = re.compile(r"""[^/\\. "$*<>:|?\x00]{1,63}""")


class MongoCalls(Transactions):
    """A document database that carries out calls, and begins transactions."""

    instance: Any  # a MongoInstance

    def checked(self, given: Mapping[str, Any]) -> Overrides:
        """Return the overrides *given*, validated for MongoDB."""
        return check_overrides(given, lacks=_LACKS, check_database=_check_database)

    def database_name(self, given: Overrides) -> str:
        """Return the name of the database that calls go to.

        Raises:
            UnsupportedError: a request's tenant is a schema, which would be nobody's here.
        """
        if given.schema is not None:
            raise UnsupportedError(f"override schema: {_LACKS['schema']}", database=self.name)
        name: str = given.database or self.instance.database
        return name

    # --- calls -----------------------------------------------------------------------------------

    def carry_out(self, request: Request, block: Block | None = None) -> Any:
        """Return the answer to *request*, after as many attempts as needed; in *block*, if the caller named one."""
        call = DocumentCall(request.verb, self.admit())
        wanted = self.hooks.wanted
        if not wanted or wanted.isdisjoint(CALL_EVENTS):
            return self._carry_out(request, block, call)
        return tell_call(self.hooks, self.name, call, lambda _: self._carry_out(request, block, call))

    def _carry_out(self, request: Request, block: Block | None, call: DocumentCall) -> Any:
        scope = ambient(self.instance) if block is None else None
        if block is None is scope:
            if not request.reads:
                self.check_may(request, call.given, None)
            try:
                found = self._attempt(request, call, call)
            except PrefiqDbError as error:
                first = error
            else:
                self.instance.retry_budget.successes += 1
                return found if request.finish is None else request.finish(found)
            found = self._alone_again(request, call, first)
        else:
            place = self.place(block) if scope is None else cast("SessionBlock", scope.blocks[-1])
            assert place is not None
            self.check_may(request, call.given, place)
            found = self._in_block(request, place, call, explicit=block is not None)
        return found if request.finish is None else request.finish(found)

    def place(self, block: Block | None) -> SessionBlock | None:
        """Return the transaction that a call runs in; ``None``: none is open here."""
        if block is None:
            scope = ambient(self.instance)
            if scope is None:
                return None
            block = scope.blocks[-1]
        return cast("SessionBlock", block)

    def check_may(self, request: Request, given: Overrides, block: Block | None) -> None:
        """Raise if *request* writes where only reads are allowed: MongoDB has no sessions that only read."""
        limited = self.settings.read_only or given.read_only or (block is not None and block.options.read_only)
        if limited and not request.reads:
            raise ReadOnlyError(
                f"database {self.name}: {request.verb} would write, and read_only is set by the settings, by "
                "using() or override(), or by the transaction",
                database=self.name,
                classification=ErrorClass(ErrorKind.READ_ONLY),
            )

    def collection_for(self, request: Request, call: Call, *, pinned: bool) -> Any:
        """Return PyMongo's collection for *request*; *pinned* if it is used in a transaction."""
        given = call.given
        replica = bool(given.replica) and not pinned
        return self.instance.collection(self.database_name(given), request.collection, replica=replica)

    def _in_block(self, request: Request, block: SessionBlock, call: Call, *, explicit: bool) -> Any:
        call.attempts += 1
        collection = self.collection_for(request, call, pinned=True)
        settle = self.instance.settle
        return block.carry_out(call, lambda session: request.work(collection, session, settle), explicit=explicit)

    def _alone_again(self, request: Request, call: DocumentCall, first: PrefiqDbError) -> Any:
        """Retry after a first failure; the objects that a retry needs are created only here."""
        last: list[Attempt] = [call]

        def again() -> Any:
            last[0] = Note(call, retry_number=call.attempts)
            return self._attempt(request, call, last[0])

        def repeatable(error: BaseException) -> bool:
            if not isinstance(error, PrefiqDbError) or isinstance(error, OutcomeUnknownError):
                return False
            reads = request.reads or bool(call.given.idempotent)
            return may_read_again(error) if reads else may_write_again(error, last[0])

        found = self.retrier(call.given, repeatable).resume(again, first, call.started)
        self.instance.retry_budget.successes += 1
        return found

    def _attempt(self, request: Request, call: DocumentCall, told: Attempt) -> Any:
        instance, seconds = self.instance, self.instance.statement_timeout_seconds
        call.attempts += 1
        if call.given is NO_OVERRIDES:
            collection = instance.usual.get(request.collection)
            if collection is None:  # PyMongo's collections have no truth value
                collection = self.collection_for(request, call, pinned=False)
        else:
            collection = self.collection_for(request, call, pinned=False)
            seconds = self.seconds(call)
        try:
            return ask(instance, told, seconds, request.work, collection, None, instance.settle)
        except PrefiqDbError as error:
            if error.kind is ErrorKind.OUTCOME_UNKNOWN and not request.reads:
                instance.observer.statistics.note_unknown_outcome()  # too few copies confirm it
            if request.reads or call.given.idempotent or not fate_unknown(error, told):
                raise
            failure = self._outcome_unknown(error)
        try:
            raise failure
        finally:
            del failure

    def seconds(self, call: Call) -> float:
        """Return how long one attempt of *call* may take."""
        usual: float = self.instance.statement_timeout_seconds
        if call.deadline is None:
            return usual
        return min(call.deadline.seconds, call.deadline.left())

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

    # --- transactions ----------------------------------------------------------------------------

    def new_root(self, options: TransactionOptions, deadline: Deadline | None) -> Block:
        return SessionBlock(self.instance, options, deadline)

    def _block(
        self, options: TransactionOptions, parent: Scope[Block] | None, deadline: Deadline | None = None
    ) -> Block:
        if parent is not None:
            raise UnsupportedError(
                f"database {self.name}: a transaction is open here, and MongoDB has no savepoints; use the verbs of "
                "db or of the open tx, which run in it",
                database=self.name,
            )
        return super()._block(options, None, deadline)


def _check_database(field: str, name: Any) -> None:
    if name is not None and not (isinstance(name, str) and _DATABASE.fullmatch(name)):
        raise UsageError(
            f'override {field}: expected the name of a database: 1 to 63 characters, no space and none of /\\."$*<>:|?'
        )
