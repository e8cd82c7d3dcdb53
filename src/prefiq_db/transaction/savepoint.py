"""A block inside a transaction: a savepoint."""

from __future__ import annotations

import logging
from typing import ClassVar

from prefiq_db.errors import ClosedError, NestingError, PrefiqDbError, UsageError
from prefiq_db.instance import Instance
from prefiq_db.reports import Outcome
from prefiq_db.transaction.block import Block
from prefiq_db.transaction.options import TransactionOptions
from prefiq_db.transaction.scope import Scope

logger = logging.getLogger("prefiq_db.transaction")


class Savepoint(Block):
    """A block that commits or rolls back with the transaction around it, unless it is rolled back alone."""

    is_root: ClassVar[bool] = False

    def __init__(self, instance: Instance, options: TransactionOptions, scope: Scope[Block]) -> None:
        super().__init__(instance, options, scope)
        if scope.finished:
            raise ClosedError("the outer transaction has ended; open a new one")
        _check_nesting(options, scope.blocks[0].options)
        if scope.blocks[-1].outcome is not Outcome.ACTIVE:
            raise ClosedError("the outer transaction has ended")

    def _begin(self) -> None:
        scope = self.scope
        with scope.used():
            self.check_connected()
            scope.blocks[0].begin_now()
            self._handle = self.instance.road.border.cross(self.scope.pinned.begin_nested)

    def end(self, error: BaseException | None) -> None:
        self._check_active()
        if self.scope.blocks[-1:] != [self]:
            raise UsageError("nested transactions end in the reverse order of their beginning; this one isn't the last")
        super().end(error)

    def _end(self, error: BaseException | None) -> None:
        scope = self.scope
        outer = scope.blocks[-2]
        scope.blocks.pop()
        if error is not None:
            self._undo()
            self._over = True
            return
        try:
            with scope.used():
                if scope.pinned.is_lost:
                    raise self._lost()
                self.instance.road.border.cross(self._handle.commit)
        except BaseException:
            self._undo()
            self._over = True
            raise
        outer.commit_functions.extend(self.commit_functions)
        outer.rollback_functions.extend(self.rollback_functions)
        # Provisional: the outermost block decides the outcome of all.
        self.outcome = Outcome.COMMITTED
        self._over = True

    def _let_go(self) -> None:
        """Close the connection: the savepoint's state is unknown, and COMMIT must not keep any of it."""
        scope = self.scope
        if self._handle is None or scope.finished:
            return
        try:
            self.outcome = Outcome.NOT_COMMITTED
            if self in scope.blocks:
                for block in scope.blocks[scope.blocks.index(self) :]:
                    block.outcome = Outcome.NOT_COMMITTED
                    scope.blocks.remove(block)
        finally:
            scope.doubt()

    def _undo(self) -> None:
        self.outcome = Outcome.NOT_COMMITTED
        if not self.scope.pinned.is_lost:
            try:
                with self.scope.used():
                    self.instance.road.border.cross(self._handle.rollback)
            except PrefiqDbError as error:
                # Then the outer transaction can't continue either; the server or the aborted state will raise.
                logger.info(
                    "ROLLBACK TO SAVEPOINT on database %s failed (%s)",
                    self.instance.name,
                    error.kind.value,
                    extra={"database": self.instance.name, "error_kind": error.kind.value},
                )
        self._call(self.rollback_functions, "on_rollback")


def _check_nesting(options: TransactionOptions, outer: TransactionOptions) -> None:
    """Raise if a savepoint can't apply *options*, in a transaction that began with *outer*."""
    if options.durable:
        raise NestingError("transaction(durable=True) was opened inside another transaction; open it outside")
    if options.schema is not None and options.schema != outer.schema:
        raise NestingError(
            "schema: a nested transaction is a savepoint and can't be in another schema than the outermost"
        )
    if options.isolation is not None and options.isolation != outer.isolation:
        raise NestingError("isolation: a nested transaction is a savepoint and can't change the level; set it outside")
    if options.read_only and not outer.read_only:
        raise NestingError("read_only: a nested transaction is a savepoint and can't become read-only; set it outside")
    if options.exactly_once and not outer.exactly_once:
        raise NestingError(
            "exactly_once: a nested transaction is a savepoint and commits with the outermost one; ask for it there"
        )
