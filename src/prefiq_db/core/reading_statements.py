"""A single statement on a replica, or if none can serve, on the primary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefiq_db.call import Call, Overrides, Way
from prefiq_db.core.marked import worth_another_server
from prefiq_db.core.reading import ReadingView
from prefiq_db.deadline import own_deadline
from prefiq_db.errors import PrefiqDbError, StatementRefusedError
from prefiq_db.execution.shapes import ROW_COUNT
from prefiq_db.execution.statement_facts import facts_of_call
from prefiq_db.transaction import TransactionOptions


class ReadingStatements(ReadingView):
    """A database that runs statements, some of them on replicas."""

    def _needs_a_transaction(self, given: Overrides, travels: Callable[[], bool]) -> bool:
        raise NotImplementedError

    def _run_in_own_transaction(self, call: Call, *, read_only: bool = False, here: bool = False) -> Any:
        raise NotImplementedError

    def _one_shot(self, call: Call) -> Any:
        raise NotImplementedError

    def _one_shot_again(self, first: PrefiqDbError, call: Call) -> Any:
        raise NotImplementedError

    def goes_to_replica(self, call: Call) -> bool:
        """Return whether *call*, which is in no transaction, is for a replica."""
        return (
            self.reads_on_replica(call.given)
            and call.shape is not ROW_COUNT
            and facts_of_call(call, self.road.dialect).reads_by_words
        )

    def read_on_replica(self, call: Call) -> Any:
        """Return the result of *call* on a replica, where its session refuses writes, or else on the primary."""
        usual, deadline = call.way, call.deadline or own_deadline(call.given.timeout, call.started)

        def run(view: ReadingStatements) -> Any:
            is_reader = view.instance.node is not None
            needs_one = is_reader and view._needs_a_transaction(call.given, lambda: True)
            in_transaction = needs_one if is_reader else usual is Way.OWN_TRANSACTION
            call.prepared = None  # each server has its own
            call.deadline = deadline
            if in_transaction:
                # Else the primary, which is asked because no replica can serve, would ask them all once more.
                return view._run_in_own_transaction(call, read_only=True, here=True)
            fetched = view._one_shot(call) if is_reader else view._one_shot_with_retries(call)
            return fetched if call.shape.finish is None else call.shape.finish(fetched)

        return self.read(call.given, run, leaves=worth_another_server, deadline=deadline)

    def _one_shot_with_retries(self, call: Call) -> Any:
        try:
            return self._one_shot(call)
        except PrefiqDbError as error:
            first = error
        return self._one_shot_again(first, call)


def check_read_only(call: Call, options: TransactionOptions, dialect: Any) -> None:
    """Raise if a read-only view or scope may write in a read-write transaction, where the server can't refuse it."""
    if call.given.read_only and not options.read_only and not facts_of_call(call, dialect).reads_only:
        raise StatementRefusedError(
            "read_only: this statement may write, and the server would let it: the open transaction isn't read-only; "
            "run it outside the read-only scope, or open transaction(read_only=True)"
        )
