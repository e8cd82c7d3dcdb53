"""Begin a transaction, run a body in one, and run the whole body again where that is safe."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

from prefiq_db.call import NO_OVERRIDES
from prefiq_db.config import RetryPolicy
from prefiq_db.core.sessions import judge_session_error
from prefiq_db.core.view import View
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.errors import ErrorKind, PrefiqDbError, UnsupportedError
from prefiq_db.exactly_once import check_token
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.instance import Instance
from prefiq_db.overrides import NO_SCOPES, scopes_here
from prefiq_db.retry import worth_repeating
from prefiq_db.transaction import (
    NO_TRANSACTIONS,
    PLAIN,
    Block,
    Outcome,
    RootBlock,
    Savepoint,
    Scope,
    TransactionOptions,
    ambient,
    of_another_tenant,
    request_here,
    transactions_here,
)


class Transactions(View):
    """A database that begins transactions."""

    instance: Instance
    road: StandardRoad

    def ambient(self) -> Scope[Block] | None:
        """Return the transaction that the database's own verbs run in here, if any.

        Raises:
            TransactionOwnershipError: this task or thread inherited it and did not open it.
        """
        return ambient(self.instance)

    def transaction(self, options: TransactionOptions) -> Block:
        """Return a transaction that has not begun: a savepoint if one is open here, else a new one."""
        if (
            transactions_here() is NO_TRANSACTIONS
            and request_here.get() is None
            and scopes_here() is NO_SCOPES
            and self.view is NO_OVERRIDES
            and not (self.instance.closed or self.runtime.is_async or self.settings.read_only or options.exactly_once)
        ):
            return self.new_root(options, None)
        self.admit()
        return self._block(options, self.ambient())

    def _block(
        self, options: TransactionOptions, parent: Scope[Block] | None, deadline: Deadline | None = None
    ) -> Block:
        chosen = self.with_overrides(options)
        if parent is None:
            return self.new_root(chosen, deadline)
        return Savepoint(self.instance, chosen, parent)

    def new_root(self, options: TransactionOptions, deadline: Deadline | None) -> Block:
        """Return a transaction of its own that has not begun; *options* have the overrides already."""
        return RootBlock(self.instance, options, deadline)

    def for_attempts(self, options: TransactionOptions) -> Self:
        """Return the view whose transactions are the attempts of a loop."""
        return self

    def declare(self, options: TransactionOptions) -> TransactionOptions:
        """Record what *options* need of the database before anything runs; readiness checks for it."""
        if options.exactly_once:
            self.instance.needs_tokens = True
        return options

    def with_overrides(self, options: TransactionOptions) -> TransactionOptions:
        """Return *options* with the overrides of the view and the scope applied."""
        given = self.overrides()
        if given is NO_OVERRIDES and not (options.exactly_once or self.settings.read_only):
            return options
        self.declare(options)
        if self.settings.read_only and options.exactly_once:
            raise self._needs_to_write("exactly_once", "the token")
        if (given.read_only or self.settings.read_only) and not options.read_only:
            options = replace(options, read_only=True)
        schema = self.schema_of(given)
        if schema is not None:
            if options.schema not in (None, schema):
                raise of_another_tenant(self.name)
            options = replace(options, schema=schema)
        return options if given.timeout is None else replace(options, step_timeout_seconds=given.timeout)

    def begin(self, tx: Block) -> None:
        """Begin *tx*, a new one; retry on a dead connection, since nothing was done yet."""
        given = self.overrides()
        limit = tx.options.timeout_seconds
        if limit is not None and (given.timeout is None or limit < given.timeout):
            given = replace(given, timeout=limit)
        tx.new_retrier = partial(self.retrier, given, worth_repeating if tx.is_root else _never)
        started = time.monotonic()
        try:
            try:
                tx.begin()
            except Exception as error:
                retrier = tx.new_retrier()
                if not retrier.may_repeat(error):
                    raise
                first = error
            else:
                return
            retrier.resume(tx.begin, first, started)
        except BaseException:
            # On any exception, a cancellation too: nothing was begun, so nothing can be committed.
            tx.abandon()
            raise

    def _begin(self, tx: Block, begin: Callable[[], None] | None = None) -> None:
        try:
            (begin or tx.begin)()
        except BaseException:
            tx.abandon()  # as in begin()
            raise

    def in_transaction(
        self,
        body: Callable[[Block], Any],
        options: TransactionOptions | None = None,
        retry: RetryPolicy | None = None,
        *,
        may_repeat: Callable[[], bool] | None = None,
        by_deadline: bool = True,
    ) -> Any:
        """Run *body* in a transaction; run all of it again if a transient error rolled it back.

        Args:
            may_repeat: asked before it runs again, after any error.
            by_deadline: whether the ``timeout`` of ``using()`` limits the whole transaction, too.

        Inside another transaction it runs once, in a savepoint: only the outermost block may run again.
        """
        self.check_usable()
        chosen = options or PLAIN
        parent = self.ambient()
        if parent is not None:
            return self.attempt(self._block(chosen, parent), body)
        given, shown = self.overrides(), self.with_overrides(chosen)
        deadline = own_deadline(given.timeout) if by_deadline else None
        begun: list[Block] = []

        def repeatable(error: BaseException) -> bool:
            if begun and begun[-1].is_settled:
                return False
            return transaction_repeatable(error, shown) and (may_repeat is None or may_repeat())

        retrier = self.retrier(given, repeatable, retry)
        numbers = itertools.count()

        def attempt() -> Any:
            tx = self._block(chosen, None, deadline)
            tx.retry_number = next(numbers)
            begun[:] = [tx]
            return self.attempt(tx, body)

        result = retrier.run(attempt)
        self.instance.retry_budget.successes += 1
        return result

    def attempt(self, tx: Block, body: Callable[[Block], Any]) -> Any:
        """Run *body* once, in *tx*, which begins and ends here."""
        try:
            self._begin(tx)
            try:
                result = body(tx)
            except BaseException as error:
                failure = judge_session_error(tx, error)
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
            del failure  # or its traceback would keep it alive in a reference cycle

    def resolve_outcome(self, token: Any) -> Outcome:
        """Return the outcome of the transaction with *token*."""
        checked = check_token(token)
        self.check_usable()
        if self.settings.read_only:
            raise self._needs_to_write("resolve_outcome", "its question")
        return self.instance.resolver.resolve(checked, own_deadline(self.overrides().timeout))

    def _needs_to_write(self, what: str, written: str) -> UnsupportedError:
        return UnsupportedError(
            f"{what}: {written} is a write, and the settings of database {self.name} say read_only", database=self.name
        )


def _never(error: BaseException) -> bool:
    return False


def transaction_repeatable(error: BaseException, options: TransactionOptions) -> bool:
    if not isinstance(error, PrefiqDbError):
        return False
    if options.read_only and error.kind is ErrorKind.READ_ONLY:  # from our own READ ONLY, not a failover: it won't pass
        return False
    return error.classification.retry_transaction
