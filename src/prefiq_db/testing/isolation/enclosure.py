"""The transaction of a test: the one that the server knows, in which all others are savepoints."""

from __future__ import annotations

from typing import Any, Final

from prefiq_db.errors import PrefiqDbError, StatementRefusedError, UsageError
from prefiq_db.translation.both import of_both

#: The savepoint that an outermost transaction of the application is.
TRANSACTION: Final = "prefiq_test_transaction"
#: The savepoint around a statement outside any transaction.
STATEMENT: Final = "prefiq_test_statement"

COMMITTED: Final = "use the fixture db_committed (async: async_db_committed), where transactions are the server's own"


class Enclosure:
    """One test's transaction.

    Attributes:
        raw: the driver's connection that it is on; ``None`` before the first statement.
        is_open: whether a transaction of the application is open in it.
        state: the state of the session that it is on.
        lost: why it no longer exists, or ``""``.
        deferred: whether a constraint is checked as late as COMMIT; ``None``: not known.
    """

    def __init__(self) -> None:
        self.raw: Any = None
        self.is_open = False
        self.state: Any = None
        self.lost = ""
        self.deferred: bool | None = None
        #: the settings that the open transaction has changed for itself, as far as its statements tell
        self.settings: set[str] = set()

    @property
    def began(self) -> bool:
        """Whether it was begun at the server."""
        return self.raw is not None

    def check(self) -> None:
        """Raise if it no longer exists: what follows would be committed, or miss what came before."""
        if self.lost:
            raise gone(self.lost)


def gone(why: str) -> PrefiqDbError:
    """Return the error for a test whose transaction has ended; for either error tree."""
    return of_both(
        UsageError(
            f"the transaction in which this test's fixture runs everything has ended: {why}; what the test did before "
            f"is undone or committed already. For such a test {COMMITTED}"
        )
    )


def ends_it(label: str, what: str) -> PrefiqDbError:
    """Return the error for a statement that would commit the test's transaction; for either error tree."""
    return of_both(
        StatementRefusedError(
            f"{what.upper()}: {label} commits the open transaction at this statement, and this test's fixture undoes "
            f"the test by rolling one transaction back. Put tables into the migrations of the tests, or {COMMITTED}"
        )
    )


def no_driver_transaction() -> UsageError:
    """Return the error for ``raw_connection()``."""
    return UsageError(
        "raw_connection(): the driver's own commit() would commit the transaction in which this test's fixture runs "
        f"everything; {COMMITTED}"
    )
