"""Messages for statements that are refused, with the reason."""

from __future__ import annotations

from typing import Final

from prefiq_db.errors import PrefiqDbError, StatementRefusedError, UsageError
from prefiq_db.execution.statement_facts import Facts
from prefiq_db.translation.both import of_both

_BEHIND_A_POOLER: Final = {
    "set": "use SET LOCAL",
    "select": "use set_config(..., true), pg_advisory_xact_lock() or a table",
    "with": "use set_config(..., true), pg_advisory_xact_lock() or a table",
    "create": "add ON COMMIT DROP",
    "declare": "use stream()",
}


def refuse_everywhere(facts: Facts) -> None:
    """Raise if a statement with these *facts* is never allowed."""
    if facts.unsendable:
        raise UsageError(f"statement: expected SQL to send, but {facts.unsendable}")
    if facts.control:
        raise control_refused()
    if facts.several:
        raise StatementRefusedError(
            "several statements in one text: send one statement per call; what belongs together goes into "
            "transaction(), with a call for each"
        )
    if facts.carries_rows:
        raise StatementRefusedError(
            "COPY from stdin or to stdout: its rows come and go beside the statement, and a verb can't carry them; "
            "use execute_many, or cursor.copy() of psycopg on db.engine.raw_connection()"
        )


def refuse_one_shot(facts: Facts) -> None:
    """Raise if a statement with these *facts* makes no sense outside a transaction."""
    refuse_everywhere(facts)
    if facts.no_tomorrow:
        raise StatementRefusedError(f"this statement can't run outside a transaction: {facts.no_tomorrow}")


def refuse_behind_pooler(facts: Facts) -> None:
    """Raise if what a statement with these *facts* does to its session would meet another client of the pooler's."""
    if facts.lingers:
        instead = _BEHIND_A_POOLER.get(facts.verb, "connect to the server itself for it")
        raise StatementRefusedError(
            f"{facts.verb.upper() or 'statement'}: pgbouncer is on, and this would stay on the server's session when "
            f"the transaction ends, for whichever client gets that session next; {instead}"
        )


def control_refused() -> StatementRefusedError:
    return StatementRefusedError(
        "BEGIN, COMMIT, ROLLBACK and SAVEPOINT can't be sent as text: use transaction(); a nested one is a savepoint"
    )


def commit_of_a_block() -> PrefiqDbError:
    """Return the error for commit() on the connection of a transaction; for either error tree."""
    return of_both(
        StatementRefusedError(
            "commit() on the connection of a transaction(): the block itself commits, when it is left without an "
            "error; leave the block, or take a connection of your own with db.engine.connect() outside of it"
        )
    )


def commit_refused(label: str, what: str) -> StatementRefusedError:
    return StatementRefusedError(
        f"{what.upper()}: {label} commits the open transaction at every DDL statement and at this one, and everything "
        "before it with it, even when it fails; run it outside transaction(), DDL best in a migration"
    )


def hidden_refused(label: str) -> StatementRefusedError:
    return StatementRefusedError(
        f"EXECUTE and PREPARE in a transaction: {label} makes a statement of a text that can't be read here, and a "
        "COMMIT in it would end the transaction unseen; send the statement itself, with binds, or run it outside "
        "transaction()"
    )
