"""Who notes what was written on a primary with replicas, and what a replica's readers wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.bridge import Runtime
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.execution.enclosable import may_travel
from prefiq_db.execution.statement_facts import facts_sent
from prefiq_db.execution.tied_statements import SERVER_LOCK
from prefiq_db.marks import Doubt, Mark, seen_by, seen_here

#: why nobody knows what a reader has to see
UNSAID: Final = "the primary doesn't say how far it was when something was written before"
# What they run may commit, and go on in another transaction.
_PROGRAMS: Final = frozenset({"call", "begin", "do", "execute"})


class _Statements:
    """What the dialect asks about the statement that it is about to send."""

    def __init__(self, dialect: PrefiqDialect, runtime: Runtime, key: object) -> None:
        self._dialect = dialect
        self._runtime = runtime
        self._key = key

    def may_write(self, statement: str, context: Any) -> bool:
        return not facts_sent(context, statement, self._dialect.label).reads_only

    def writes(self, statement: str, context: Any) -> bool:
        facts = facts_sent(context, statement, self._dialect.label)
        # A lock that only the replica knows keeps nobody out.
        return not facts.reads_by_words or facts.no_tomorrow == SERVER_LOCK

    def may_travel(self, statement: str, context: Any) -> bool:
        if getattr(context, "carrier", None) is not None:
            return False
        return may_travel(facts_sent(context, statement, self._dialect.label), statement, self._dialect)


class ScopeMarker(_Statements):
    """Notes what was written in the scope of whoever wrote it."""

    def note(self, mark: Mark | None, doubt: Doubt | None = None) -> None:
        seen_by(self._runtime.worker()).note(self._key, mark, doubt)

    def may_commit(self, statement: str, context: Any) -> bool:
        facts = facts_sent(context, statement, self._dialect.label)
        return facts.control or bool(facts.commits) or facts.verb in _PROGRAMS


class ScopeGate(_Statements):
    """Lets readers wait for what their scope has seen.

    Args:
        ask: asks the primary how far it is; raises if that doesn't say.
    """

    def __init__(
        self,
        dialect: PrefiqDialect,
        runtime: Runtime,
        key: object,
        wait_seconds: float,
        ask: Callable[[], Mark],
    ) -> None:
        super().__init__(dialect, runtime, key)
        self.wait_seconds = wait_seconds
        self._ask = ask

    def wanted(self) -> Mark | None:
        seen, key = seen_here(), self._key
        if seen is None:
            return None
        if seen.is_unknown(key):
            # Our own verbs have asked before; a session or an engine comes here without them.
            doubts = seen.doubts(key)
            seen.settle(key, self._ask(), doubts)
        return seen.mark(key)

    def pause(self, seconds: float) -> None:
        self._runtime.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()
