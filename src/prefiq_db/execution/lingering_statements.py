"""Statements that change a connection beyond the end of their transaction, sent by a session or a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefiq_db.execution.refused_statements import refuse_behind_pooler
from prefiq_db.execution.statement_facts import facts_sent


def marking_lingering(dialect: Any) -> Callable[[str, Any], None]:
    """Return a guard that marks the connection after such a statement: the pool then closes it.

    Behind a transaction pooler that would not help, as the session is another client's next: there it raises.

    ``USE`` and ``SET search_path`` are among them. Left in the pool, that connection would read and write another
    tenant's tables for its next user.
    """

    def guard(statement: str, context: Any) -> None:
        facts = facts_sent(context, statement, dialect.label)
        if facts.lingers:
            if not dialect.limits.session_settings:
                refuse_behind_pooler(facts)
            dialect.session_of(context.root_connection._dbapi_connection).checkout.tainted = True

    return guard
