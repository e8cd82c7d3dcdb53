"""What a statement means for the transaction that it is sent in, found out once of each text."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.session import TransactionState
from prefiq_db.execution.enclosable import may_travel
from prefiq_db.execution.statement_facts import COUNTED, Facts


class Inside:
    """What a statement means that may stand in a transaction.

    Attributes:
        may_travel: it may be sent in company with BEGIN.
        may_repeat: it may be sent again with a BEGIN that nobody answered: what a function of the caller's does
            outside the transaction isn't undone with it.
        is_rowless: it gives no rows, which would be lost with a reply.
        reads_only: it provably does nothing but read.
        is_counted: the server's row count is a number of rows.
    """

    __slots__ = ("is_counted", "is_rowless", "may_repeat", "may_travel", "reads_only")

    def __init__(self, facts: Facts, statement: str, dialect: Any) -> None:
        self.may_travel = may_travel(facts, statement, dialect)
        self.may_repeat = facts.only_built_in and (facts.verb in COUNTED or facts.reads_only)
        self.is_rowless = facts.verb in COUNTED and not facts.returning
        self.reads_only = facts.reads_only
        self.is_counted = facts.verb in COUNTED and not facts.weighted

    def note(self, transaction: TransactionState) -> None:
        """Note it, before the statement is sent in *transaction*."""
        transaction.may_travel = self.may_travel
        transaction.may_repeat = self.may_repeat
        # With a token the outcome can be found out when the replies are lost, but not the rows.
        transaction.may_close = self.may_travel and (transaction.token is None or self.is_rowless)
        if not self.reads_only:
            transaction.only_reads = False


def known_inside(facts: Facts, statement: str, dialect: Any) -> Inside | None:
    """Return what a text means; ``None``: it is refused in a transaction, or marks the connection."""
    return Inside(facts, statement, dialect) if facts.stands_inside and not facts.lingers else None
