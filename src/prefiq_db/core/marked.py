"""What a scope has written on a database with replicas, for its reads on them and for the next request."""

from __future__ import annotations

import copy
from typing import Any, Self

from prefiq_db.call import Call, Overrides
from prefiq_db.core.tenant_view import TenantView
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.dialects.following import MARK
from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.execution.shapes import ALL_ROWS
from prefiq_db.execution.statement_facts import as_executable
from prefiq_db.instance import Instance
from prefiq_db.marks import Mark, Seen, mark_of, seen_by, unknown_text
from prefiq_db.readers import Node, Readers


class MarkedView(TenantView):
    """A view of a database whose scopes know what they have written."""

    def on(self, node: Node[Instance] | None) -> Self:
        """Return the same view of *node*; ``None``: of the primary."""
        other = copy.copy(self)
        other.move_to(node)
        return other

    def move_to(self, node: Node[Instance] | None) -> None:
        """Make this the view of *node*; ``None``: of the primary."""
        self.instance = instance = self.instance.origin if node is None else node.instance
        self.settings, self.road = instance.settings, instance.road

    def _readers(self) -> Readers[Instance]:
        readers = self.instance.origin.readers
        assert readers is not None, "asked for without replicas"
        return readers

    @property
    def home(self) -> str:
        """What marks of this database are known by."""
        return self.instance.origin.target.database

    def _mark_kind(self) -> str:
        dialect: Any = self.instance.origin.road.dialect
        return str(getattr(dialect, "mark_kind", ""))

    def _see(self, given: Overrides, deadline: Deadline | None) -> bool:
        """Let the scope see what ``after`` asks for, and settle what was written without an answer how far that went.

        The latter asks the primary, in a message of its own, by *deadline*. Return ``False`` if it can't say: then no
        replica can be asked whether it has that.
        """
        readers = self._readers()
        seen = seen_by(self.runtime.worker())
        if given.after is not None:
            seen.note(readers.key, mark_of(given.after, self._mark_kind(), self.home))
        return not seen.is_unknown(readers.key) or self._settled(seen, deadline) is not None

    def mark(self) -> str:
        """Return a token for what the scope has written until now, for ``using(after=...)``.

        Raises:
            UsageError: a transaction that may write is open here.
        """
        self.check_usable()
        scope = self.ambient()
        if scope is not None and not scope.blocks[0].options.read_only:
            raise UsageError(
                "mark: the transaction that is open here isn't committed yet, so no mark can hold what it writes; "
                "ask when it has ended"
            )
        readers = self.instance.origin.readers
        if readers is None:
            return unknown_text(self.home)
        seen = seen_by(self.runtime.worker())
        mark = seen.mark(readers.key)
        if mark is None or seen.is_unknown(readers.key):
            mark = self._settled(seen, own_deadline(self.overrides().timeout))
        return unknown_text(self.home) if mark is None else mark.text(self.home)

    def _settled(self, seen: Seen, deadline: Deadline | None) -> Mark | None:
        """Return how far the primary is, and let *seen* hold that; ``None``: it doesn't say."""
        key = self._readers().key
        doubts = seen.doubts(key)  # before the question: what is written meanwhile stays in doubt
        mark = self._ask_mark(deadline)
        if mark is not None:
            seen.settle(key, mark, doubts)
        return mark

    def _ask_mark(self, deadline: Deadline | None) -> Mark | None:
        view = self.on(None)
        dialect: Any = view.road.dialect
        call = Call(MARK, as_executable(dialect.mark_sql), None, ALL_ROWS)
        call.deadline = deadline
        rows: list[Any] = view.retrier(view.overrides(), worth_another_server).run(lambda: view.road.one_shot(call))
        mark: Mark | None = dialect.mark_from(rows[0]) if rows else None
        return mark


def worth_another_server(error: BaseException) -> bool:
    """Return whether a read that failed with *error* may be asked of another server."""
    if not isinstance(error, PrefiqDbError):
        return False
    found = error.classification
    return found.retry_statement or found.retry_transaction
