"""``batch()``: statements that don't need each other's results, all or nothing."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from prefiq_db.call import Batch, Call, Way
from prefiq_db.config import NO_RETRY, RetryPolicy
from prefiq_db.core.marked import worth_another_server
from prefiq_db.core.reading import all_read
from prefiq_db.core.reading_statements import check_read_only
from prefiq_db.core.statements import Statements
from prefiq_db.core.transactions import transaction_repeatable
from prefiq_db.deadline import own_deadline
from prefiq_db.dialects.burst_control import CannotTravelError
from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.batch_items import items_of, name_statement
from prefiq_db.execution.statement_facts import Facts, facts_of_call
from prefiq_db.hooks.calls import CALL_EVENTS, tell_call, tell_refused_call
from prefiq_db.transaction import Block, BurstBlock, BurstSavepoint, Savepoint, TransactionOptions


class Batches(Statements):
    """A database that runs batches."""

    def prepare_batch(self, statements: Iterable[Any], exactly_once: bool, block: Block | None = None) -> Batch | None:
        """Return a call of ``batch``, with its arguments checked; ``None`` if there are no statements."""
        given = self.admit()
        options = TransactionOptions(exactly_once=exactly_once)  # checks it
        items = items_of(statements, given, self.road.dialect.label)
        if not items:
            return None
        batch = Batch(items, given, exactly_once=options.exactly_once)
        try:
            if given.replica:
                for number, each in enumerate(items):
                    with _numbered(number):
                        self.check_only_reads(each)
            scope = self.ambient() if block is None else None
            if scope is not None:
                self._check_items(items, scope.blocks[0].options)
                batch.way, batch.block = Way.AMBIENT, scope.blocks[-1]
            elif block is not None:
                self._check_items(items, block.root.options)
                self.check_tenant(given, block)
                batch.way, batch.block = Way.EXPLICIT, block
            else:
                batch.way = Way.OWN_TRANSACTION
        except BaseException as error:
            if not self.hooks.wanted.isdisjoint(CALL_EVENTS):
                tell_refused_call(self.hooks, self.name, batch, error)
            raise
        return batch

    def _check_items(self, items: list[Call], options: TransactionOptions) -> None:
        for number, each in enumerate(items):
            with _numbered(number):
                check_read_only(each, options, self.road.dialect)

    def carry_out_batch(self, batch: Batch) -> Any:
        """Return the results of a prepared batch, after as many attempts as needed."""
        if self.hooks.wanted.isdisjoint(CALL_EVENTS):
            return self._carry_out_batch(batch)
        return tell_call(self.hooks, self.name, batch, lambda _: self._carry_out_batch(batch))

    def _carry_out_batch(self, batch: Batch) -> list[Any]:
        try:
            if batch.block is not None:
                return self._run_in_block(batch)
            reads = self.reads_on_replica(batch.given) and all_read(batch.items, self.road.dialect)
            return self._read_alone(batch) if reads else self._run_alone(batch)
        finally:
            # The connection knows its last call until the next one, and must not keep what the caller gave it.
            for each in (batch, *batch.items):
                del each.statement, each.params, each.block

    # --- in the caller's transaction ---------------------------------------------------------------

    def _run_in_block(self, batch: Batch) -> list[Any]:
        block: Any = batch.block
        scope = block.root.scope
        if batch.way is Way.EXPLICIT:
            scope.explicit_uses += 1
        options = TransactionOptions(exactly_once=batch.exactly_once)
        batch.attempts += 1
        try:
            return BurstSavepoint(self.instance, options, scope).run_batch(batch)
        except CannotTravelError:
            savepoint = Savepoint(self.instance, options, scope)
        results: list[Any] = self.attempt(savepoint, lambda tx: _one_by_one(tx, batch))
        return results

    # --- in a transaction of its own ---------------------------------------------------------------

    def _run_alone(self, batch: Batch, policy: RetryPolicy | None = None) -> list[Any]:
        given = batch.given
        options = TransactionOptions(
            read_only=bool(given.read_only), timeout_seconds=given.timeout, exactly_once=batch.exactly_once
        )
        shown = self.with_overrides(options)
        deadline = own_deadline(given.timeout, batch.started)
        retrier = self.retrier(given, lambda error: transaction_repeatable(error, shown), policy)
        numbers = itertools.count()

        def attempt() -> list[Any]:
            batch.attempts += 1
            number = next(numbers)
            if not batch.one_by_one:
                burst = BurstBlock(self.instance, shown, deadline)
                burst.retry_number = number
                try:
                    return burst.run_batch(batch, may_repeat=lambda: self._may_repeat(batch, shown))
                except CannotTravelError:
                    batch.one_by_one = True
            tx = self._block(options, None, deadline)
            tx.retry_number = number
            results: list[Any] = self.attempt(tx, lambda tx: _one_by_one(tx, batch))
            return results

        results = retrier.run(attempt)
        self.instance.retry_budget.successes += 1
        return results

    def _read_alone(self, batch: Batch) -> list[Any]:
        """Run a batch that only reads on a replica, or if none can serve, on the primary."""

        def run(view: Batches) -> list[Any]:
            # The items are compiled anew, since each server has its own.
            return view._run_alone(batch, NO_RETRY if view.instance.node is not None else None)

        return self.read(batch.given, run, leaves=worth_another_server, deadline=batch.deadline)

    def _may_repeat(self, batch: Batch, options: TransactionOptions) -> bool:
        """Return whether the batch may be sent again without knowing what became of it."""
        if batch.given.idempotent or options.read_only:
            return True
        return all(_surely_reads(facts_of_call(each, self.road.dialect)) for each in batch.items)


def _surely_reads(facts: Facts) -> bool:
    return facts.reads_only and not facts.takable


def _one_by_one(tx: Block, batch: Batch) -> list[Any]:
    results = []
    for number, each in enumerate(batch.items):
        with _numbered(number):
            results.append(tx.run(each, explicit=True))
    return results


@contextlib.contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Name statement *number* in an error that leaves the block."""
    try:
        yield
    except PrefiqDbError as error:
        name_statement(error, number)
        raise
