"""Which server a call goes to: reads that may go to a replica, and what happens when none can serve one.

A replica is an instance of its own, as a tenant's database is; its ``origin`` is the primary's. A call that is known to
read is given to a view of that instance.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self, TypeVar

from prefiq_db.call import Call, Overrides
from prefiq_db.config import NO_RETRY, RetryPolicy
from prefiq_db.core.marked import MarkedView, worth_another_server
from prefiq_db.core.transactions import transaction_repeatable
from prefiq_db.deadline import Deadline, own_deadline, sooner
from prefiq_db.dialects.following import LOOK, WRITES, ReplicaBehindError
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    NotReadyError,
    OutcomeUnknownError,
    PrefiqDbError,
    StatementRefusedError,
    UsageError,
)
from prefiq_db.execution.shapes import ALL_ROWS
from prefiq_db.execution.statement_facts import as_executable, facts_of_call
from prefiq_db.instance import Instance
from prefiq_db.marks import Standing, mark_of, seen_by
from prefiq_db.readers import Node, Unfit
from prefiq_db.transaction import PLAIN, Block, TransactionOptions, open_here

T = TypeVar("T")

_LOOK_SECONDS: Final = 1.0
#: asks a node that may not say how it stands whether it answers
_ALIVE: Final = "SELECT 1"
#: what says that a node can't serve, and not that the call is wrong
_NODE_FAILED: Final = frozenset(
    {
        ErrorKind.CONNECT_FAILED, ErrorKind.CONNECTION_LOST, ErrorKind.SERVER_SHUTDOWN, ErrorKind.NOT_READY,
        ErrorKind.TOO_MANY_CONNECTIONS, ErrorKind.AUTHENTICATION, ErrorKind.POOL_TIMEOUT,
    }
)  # fmt: skip


class NoReplicaError(NotReadyError):
    """No replica can serve a read, and the primary may not."""


class ReadingView(MarkedView):
    """A view of a database that may have replicas."""

    def checked(self, given: Mapping[str, Any]) -> Overrides:
        checked = super().checked(given)
        if checked.after is not None:
            # Not for a tenant's database: one of its own has no replicas.
            mark_of(checked.after, self._mark_kind(), self.home)
        if not checked.replica:
            return checked
        if checked.read_only is False:
            raise UsageError("override replica: a replica only reads, and read_only=False says otherwise; give one")
        return replace(checked, read_only=True)

    # --- where the call goes -----------------------------------------------------------------------

    def here(self) -> Self:
        """Return the same view of the database, or of the replica whose transaction is open here."""
        view = super().here()
        instance = view.instance
        if instance.readers is None:
            return view
        # What is written in another task on our behalf, as COMMIT is, has to be noted where we see it.
        seen_by(view.runtime.worker())
        scope = open_here(instance)
        if scope is None or scope.instance.node is None or scope.instance.origin is not instance:
            return view
        return view.on(scope.instance.node)

    def reads_on_replica(self, given: Overrides, *, read_only: bool = False) -> bool:
        """Return whether what only reads goes to a replica under *given*; *read_only*: its transaction says so."""
        instance = self.instance
        if instance.readers is None or given.replica is False:
            return False
        if given.replica:
            return True
        return self.settings.read_from != "primary" and bool(read_only or given.read_only or self.settings.read_only)

    def check_only_reads(self, call: Call) -> None:
        """Raise if *call* must go to a replica and may write."""
        if call.given.replica and not facts_of_call(call, self.road.dialect).reads_by_words:
            raise StatementRefusedError(f"replica: {WRITES}", database=self.name)

    def refuse_rows(self, verb: str) -> None:
        """Raise if *verb*, which writes rows, must go to a replica."""
        if self.overrides().replica:
            raise StatementRefusedError(f"replica: {verb} writes; run it with replica=False", database=self.name)

    # --- carry out ---------------------------------------------------------------------------------

    def read(
        self,
        given: Overrides,
        run: Callable[[Self], T],
        *,
        leaves: Callable[[PrefiqDbError], bool],
        deadline: Deadline | None,
    ) -> T:
        """Return what *run* returns for a view of a replica, or if none can serve, of the primary.

        Args:
            leaves: whether another server may be asked after an error.
            deadline: what is asked before, of the primary and of a replica, takes no longer.

        Raises:
            NotReadyError: ``read_from`` is ``replica``, and all of them are out, also when they were asked again.
        """
        is_known = self._see(given, deadline)

        def attempt(*, by_force: bool) -> T:
            tried: set[Node[Instance]] = set()
            behind = not is_known
            while not behind and (node := self._next(tried, deadline, by_force=by_force)) is not None:
                tried.add(node)
                try:
                    return run(self._of_reader(node))
                except ReplicaBehindError:
                    behind = True
                except PrefiqDbError as error:
                    if not self._leave(node, error, leaves, tried):
                        raise
            self._check_may_fall_back(behind)
            return run(self)

        return self._until_one_serves(attempt, given)

    def _next(self, tried: set[Node[Instance]], deadline: Deadline | None, *, by_force: bool) -> Node[Instance] | None:
        if tried and deadline is not None and deadline.has_passed:
            return None  # another one that doesn't answer would cost as much again
        return self._readers().next(tried, partial(self._look, deadline), by_force=by_force)

    def _until_one_serves(self, attempt: Callable[..., T], given: Overrides) -> T:
        """Return what *attempt* returns; where only replicas may serve and none can, try again as for the primary."""
        if self.settings.read_from != "replica":
            return attempt(by_force=False)
        forces = itertools.chain((False,), itertools.repeat(True))
        retrier = self.retrier(given, lambda error: isinstance(error, NoReplicaError))
        try:
            return retrier.run(lambda: attempt(by_force=next(forces)))
        except NoReplicaError:
            self._readers().fallback_count += 1
            raise

    def _of_reader(self, node: Node[Instance]) -> Self:
        view = self.on(node)
        # Another server is the better second attempt.
        view.view = replace(view.view, retry=NO_RETRY)
        return view

    def _leave(
        self,
        node: Node[Instance],
        error: PrefiqDbError,
        leaves: Callable[[PrefiqDbError], bool],
        tried: Collection[Node[Instance]],
    ) -> bool:
        """Return whether another server may serve what failed on *node* with *error*; note what that says of it."""
        # A function in it may have done something, or wants to.
        if isinstance(error, OutcomeUnknownError) or error.kind is ErrorKind.READ_ONLY:
            return False
        if error.kind is ErrorKind.POOL_TIMEOUT and self.settings.read_from == "replica":
            # Out of the rotation it would fail those for whom a connection becomes free; no primary spares it any.
            return any(not each.reason for each in self._readers().nodes if each not in tried)
        failed = error.kind in _NODE_FAILED or error.classification.connection_lost
        if failed and node.reason != error.kind.value:  # else its pool has noted it just now
            self._readers().out(node, error.kind.value)
        return failed or leaves(error)

    def _check_may_fall_back(self, behind: bool) -> None:
        readers = self._readers()
        if behind or self.settings.read_from != "replica":
            readers.fallback_count += 1
            return
        raise NoReplicaError(
            f"no replica of database {self.name} can serve reads: {readers.states()}. They are asked again by "
            "themselves; with read_from=replica_preferred the primary answers meanwhile",
            database=self.name,
            classification=ErrorClass(
                ErrorKind.NOT_READY, transient=True, retry_statement=True, retry_transaction=True
            ),
        )

    def _look(self, deadline: Deadline | None, node: Node[Instance]) -> Standing:
        """Ask *node* how it stands, by *deadline*.

        Raises:
            Unfit: it doesn't say.
        """
        view = self._of_reader(node)
        dialect: Any = view.road.dialect
        # The session's own limit stays: it is the driver that waits no longer.
        limit = Deadline(time.monotonic() + _LOOK_SECONDS, view.settings.statement_timeout_seconds).sooner_of(deadline)

        def ask(question: str) -> Any:
            call = Call(LOOK, as_executable(question), None, ALL_ROWS)
            call.deadline = limit
            try:
                return view.road.one_shot(call)
            except PrefiqDbError as error:
                kind = error.kind
            if kind is ErrorKind.PERMISSION:
                return None
            raise Unfit(kind)

        standing = Standing()
        if not node.may_be_asked(time.monotonic()):
            ask(_ALIVE)
        elif (rows := ask(dialect.standing_sql)) is None:
            self._readers().may_not_ask(node)
        else:
            standing = dialect.standing_of(rows)
        if dialect.peer_sql and (rows := ask(dialect.peer_sql)):
            return dialect.peer_standing(standing, rows[0])  # type: ignore[no-any-return]  # the dialect's own
        return standing

    # --- transactions ------------------------------------------------------------------------------

    def for_transaction(self, options: TransactionOptions, replica: bool | None = None) -> Self:
        """Return the view that begins a transaction with *options*: of a replica, if it belongs there.

        Raises:
            UsageError: *replica* without ``read_only``.
        """
        if replica and not options.read_only and not self.overrides().read_only:
            raise UsageError("transaction replica: a replica only reads; say read_only=True, too")
        if self.instance.readers is None:
            return self
        given = self.overrides()
        if replica is not None:
            given = replace(given, replica=replica)
        if not self.reads_on_replica(given, read_only=options.read_only) or self.ambient() is not None:
            return self
        view = copy.copy(self)
        view.reads_under = given
        return view

    def for_attempts(self, options: TransactionOptions) -> Self:
        return self.for_transaction(options)

    #: a transaction begins on a replica, found when it begins, under these overrides
    reads_under: Overrides | None = None

    def begin(self, tx: Block) -> None:
        if self.reads_under is None or not tx.is_root:
            super().begin(tx)
            return
        tx.check_new()
        given = self.reads_under

        def begin() -> None:
            deadline = sooner(own_deadline(given.timeout), own_deadline(tx.options.timeout_seconds))
            behind = not self._see(given, deadline)
            self._until_one_serves(partial(self._begin_on_reader, tx, deadline, behind), given)

        self._begin(tx, begin)

    def _begin_on_reader(self, tx: Any, deadline: Deadline | None, behind: bool, *, by_force: bool) -> None:
        tried: set[Node[Instance]] = set()
        tx.begins_at_once = True  # so that a node that is dead is found now
        while not behind and (node := self._next(tried, deadline, by_force=by_force)) is not None:
            tried.add(node)
            self.move_to(node)
            tx.instance = node.instance
            try:
                tx.begin()
            except ReplicaBehindError:
                behind = True
            except PrefiqDbError as error:
                if not self._leave(node, error, worth_another_server, tried):
                    raise
            else:
                return
        self.move_to(None)
        tx.instance, tx.begins_at_once = self.instance, False
        self._check_may_fall_back(behind)
        super().begin(tx)

    def in_transaction(
        self,
        body: Callable[[Block], Any],
        options: TransactionOptions | None = None,
        retry: RetryPolicy | None = None,
        *,
        may_repeat: Callable[[], bool] | None = None,
        by_deadline: bool = True,
    ) -> Any:
        chosen, given = options or PLAIN, self.overrides()
        inner = super().in_transaction
        if not self.reads_on_replica(given, read_only=chosen.read_only) or self.ambient() is not None:
            return inner(body, options, retry, may_repeat=may_repeat, by_deadline=by_deadline)
        only_reads = replace(chosen, read_only=True)

        def run(view: Self) -> Any:
            policy = retry if view.instance.node is None else NO_RETRY
            return super().in_transaction(body, only_reads, policy, may_repeat=may_repeat, by_deadline=by_deadline)

        return self.read(
            given,
            run,
            leaves=lambda error: transaction_repeatable(error, only_reads),
            deadline=own_deadline(given.timeout),
        )

    def in_transaction_here(self, body: Callable[[Block], Any], options: TransactionOptions) -> Any:
        """Run *body* in a transaction on this very server, whatever the overrides say of replicas."""
        return super().in_transaction(body, options)

    # --- SQLAlchemy's own --------------------------------------------------------------------------

    def for_session(self, replica: bool | None) -> Self:
        """Return the view that a session works on: of a replica, if it belongs there."""
        given = self.overrides()
        if replica is not None:
            given = replace(given, replica=replica)
        if not self.reads_on_replica(given) or self.ambient() is not None:
            return self
        readers = self._readers()
        seen = seen_by(self.runtime.worker())
        if given.after is not None:
            seen.note(readers.key, mark_of(given.after, self._mark_kind(), self.home))
        # Nothing may be asked here: making a session never waits.
        if seen.is_unknown(readers.key):
            return self
        node = readers.next((), None)
        if node is None:
            self._check_may_fall_back(behind=False)
        return self if node is None else self.on(node)

    def engine_for(self, name: str) -> Self:
        """Return the view of the replica *name*.

        Raises:
            UsageError: there is none of that name.
        """
        self.check_usable()
        readers = self.instance.origin.readers
        node = None if readers is None else readers.named(name)
        if node is None:
            known = "none are configured" if readers is None else ", ".join(each.name for each in readers.nodes)
            raise UsageError(f"engine_for: expected the name of a replica of database {self.name}: {known}")
        return self.on(node)


def all_read(items: Iterable[Call], dialect: Any) -> bool:
    """Return whether none of *items* writes by its own words."""
    return all(facts_of_call(each, dialect).reads_by_words for each in items)
