"""All exceptions of prefiq_db, in one class tree. None of them carries a value.

Callers branch on ``kind`` and ``is_transient``, never on text. The driver's own exception stays reachable at
``.original``, outside ``args``, ``__dict__``, ``repr`` and pickles, because its text and attributes hold values.
``docs/errors.md`` has an entry for each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class ErrorKind(StrEnum):
    """What went wrong, in words that are the same on every database."""

    UNIQUE = "unique"
    FOREIGN_KEY = "foreign_key"
    NOT_NULL = "not_null"
    CHECK = "check"
    EXCLUSION = "exclusion"
    INTEGRITY = "integrity"
    SERIALIZATION = "serialization"
    DEADLOCK = "deadlock"
    LOCK_TIMEOUT = "lock_timeout"
    STATEMENT_TIMEOUT = "statement_timeout"
    TRANSACTION_TIMEOUT = "transaction_timeout"
    CONNECT_FAILED = "connect_failed"
    CONNECTION_LOST = "connection_lost"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    POOL_TIMEOUT = "pool_timeout"
    READ_ONLY = "read_only"
    NOT_READY = "not_ready"
    SERVER_SHUTDOWN = "server_shutdown"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    SYNTAX = "syntax"
    SCHEMA = "schema"
    DATA = "data"
    NOT_FOUND = "not_found"
    RESOURCE = "resource"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    USAGE = "usage"
    OUTCOME_UNKNOWN = "outcome_unknown"
    INTERNAL = "internal"
    UNKNOWN = "unknown"


class SubKind(StrEnum):
    """What is wrong with a name, or with the object it refers to: the ``sub_kind`` of an error."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    AMBIGUOUS = "ambiguous"
    DEPENDENT = "dependent"
    WRONG_TYPE = "wrong_type"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """How to treat an error.

    Attributes:
        kind: what went wrong.
        transient: the same work may succeed later, unchanged.
        connection_lost: the connection is dead or must not be used again.
        retry_statement: a single statement may be sent again: it had no effect, or was not sent.
        retry_transaction: the whole transaction may run again from its beginning, after a rollback.
    """

    kind: ErrorKind
    transient: bool = False
    connection_lost: bool = False
    retry_statement: bool = False
    retry_transaction: bool = False


class PrefiqDbError(Exception):
    """The base class of all exceptions of prefiq_db.

    Attributes:
        kind: an :class:`ErrorKind`.
        sub_kind: a :class:`SubKind` if the error is about a name, else ``None``.
        code: the server's own code (SQLSTATE, vendor number, SQLite result code), or ``None``.
        is_transient: whether the same work may succeed later.
        database: the name of the :class:`~prefiq_db.Database` (``main``, ``analytics``), or ``None``.
        constraint, table, column: names from the server's structured error fields, where it sends them.
        classification: the whole :class:`ErrorClass`.
        statement_index: of ``batch()``: which of its statements failed, counted from 0; on MongoDB, which of the
            documents or operations of one call; else ``None``.
        original: the driver's exception (without its traceback), or ``None``. It holds values: don't log it.
    """

    default_kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL
    statement_index: int | None = None

    __slots__ = ("_original",)

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind | None = None,
        code: str | int | None = None,
        database: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        column: str | None = None,
        sub_kind: SubKind | None = None,
        classification: ErrorClass | None = None,
        original: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        if classification is None:
            classification = ErrorClass(kind or self.default_kind)
        self.classification = classification
        self.kind = kind or classification.kind
        self.code = code
        self.database = database
        self.constraint = constraint
        self.table = table
        self.column = column
        self.sub_kind = sub_kind
        self._original = original

    @property
    def is_transient(self) -> bool:
        return self.classification.transient

    @property
    def original(self) -> BaseException | None:
        return self._original

    def __reduce__(self) -> tuple[object, ...]:
        state = dict(self.__dict__)
        state.pop("__notes__", None)
        return (_rebuild, (type(self), self.args, state))


def _rebuild(cls: type[PrefiqDbError], args: tuple[Any, ...], state: dict[str, Any]) -> PrefiqDbError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error._original = None
    return error


# --- what the caller did -------------------------------------------------------------------------


class UsageError(PrefiqDbError):
    """The call is wrong; the message says what was expected and what to do instead."""

    default_kind = ErrorKind.USAGE


class UnsupportedError(UsageError):
    """This database, or this version of prefiq_db, can't do that."""

    default_kind = ErrorKind.UNSUPPORTED


class MissingExtraError(UnsupportedError):
    """A required package isn't installed; the message names the extra to install."""


class MissingDriverError(MissingExtraError):
    """A driver isn't installed; the message names the extra to install."""


class ClosedError(UsageError):
    """The database, transaction or application is closed."""


class TransactionOwnershipError(UsageError):
    """A task or thread used a transaction that it did not open but inherited with its context."""


class TransactionBusyError(UsageError):
    """Two tasks or threads used one transaction at the same moment."""


class StatementRefusedError(UsageError):
    """The statement would not do here what it appears to do; the message says where to run it."""


class EventLoopError(UsageError):
    """An AsyncDatabase was used from another event loop than the one it was opened in."""


class ForkError(UsageError):
    """A forked child used a transaction that its parent opened."""


class NestingError(UsageError):
    """A call doesn't fit into the open transaction.

    A ``durable`` transaction was nested, a savepoint was given an option that only BEGIN can apply, or the call is for
    another tenant.
    """


class StatementBudgetError(UsageError, AssertionError):
    """A block sent more statements than allowed; in a test it counts as a failed assertion."""


class MappingError(UsageError):
    """A row could not be converted to what ``into=`` asks for."""

    default_kind = ErrorKind.DATA


class TooManyRowsError(UsageError):
    """``fetch_exactly_one`` found a second row: the statement doesn't single one out."""

    default_kind = ErrorKind.DATA


class RowNotFoundError(PrefiqDbError):
    """``fetch_exactly_one`` found no row."""

    default_kind = ErrorKind.NOT_FOUND


# --- configuration and container -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings, without its value.

    Attributes:
        where: the variable or key as the user wrote it: ``DB_PORT``, ``databases.analytics.pool_size``.
        expected: what belongs there.
        fix: what to do.
    """

    where: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}; {self.fix}"


class SettingsError(UsageError):
    """The settings are wrong; ``problems`` lists every problem found, not only the first."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"{head} in the settings:", *(f"  - {problem}" for problem in self.problems)]))
        self.problems = tuple(problems)


class BindingError(UsageError):
    """A name in the container is missing, bound twice, or can't be resolved."""


class ProviderError(PrefiqDbError):
    """A provider failed to register, boot or shut down; ``provider`` names it."""

    provider: str

    def __init__(self, message: str, *, provider: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.provider = provider


# --- what the database said ----------------------------------------------------------------------


class DatabaseError(PrefiqDbError):
    """An error of the server, the driver or the network, classified by code, phase and dialect."""

    default_kind = ErrorKind.UNKNOWN


class IntegrityError(DatabaseError):
    """A constraint was violated."""

    default_kind = ErrorKind.INTEGRITY


class UniqueViolationError(IntegrityError):
    default_kind = ErrorKind.UNIQUE


class ForeignKeyViolationError(IntegrityError):
    default_kind = ErrorKind.FOREIGN_KEY


class NotNullViolationError(IntegrityError):
    default_kind = ErrorKind.NOT_NULL


class CheckViolationError(IntegrityError):
    default_kind = ErrorKind.CHECK


class ExclusionViolationError(IntegrityError):
    default_kind = ErrorKind.EXCLUSION


class ConcurrencyError(DatabaseError):
    """The transaction conflicted with another one; running the whole transaction again usually helps."""


class SerializationError(ConcurrencyError):
    default_kind = ErrorKind.SERIALIZATION


class DeadlockError(ConcurrencyError):
    default_kind = ErrorKind.DEADLOCK


class LockTimeoutError(ConcurrencyError):
    default_kind = ErrorKind.LOCK_TIMEOUT


class DeadlineError(DatabaseError):
    """Something took longer than its limit."""


class StatementTimeoutError(DeadlineError):
    default_kind = ErrorKind.STATEMENT_TIMEOUT


class TransactionTimeoutError(DeadlineError):
    default_kind = ErrorKind.TRANSACTION_TIMEOUT


class PoolTimeoutError(DeadlineError):
    default_kind = ErrorKind.POOL_TIMEOUT


class AvailabilityError(DatabaseError):
    """The server can't be reached, or can't serve this now."""


class ConnectFailedError(AvailabilityError):
    default_kind = ErrorKind.CONNECT_FAILED


class ConnectionLostError(AvailabilityError):
    default_kind = ErrorKind.CONNECTION_LOST


class TooManyConnectionsError(AvailabilityError):
    default_kind = ErrorKind.TOO_MANY_CONNECTIONS


class NotReadyError(AvailabilityError):
    default_kind = ErrorKind.NOT_READY


class SplitBrainError(NotReadyError):
    """Two hosts of one cluster both say that they are its primary, so neither gets a write.

    Attributes:
        hosts: their names with ports.
    """

    def __init__(self, message: str, *, hosts: tuple[str, ...] = (), **fields: Any) -> None:
        super().__init__(message, **fields)
        self.hosts = hosts


class ServerShutdownError(AvailabilityError):
    default_kind = ErrorKind.SERVER_SHUTDOWN


class ReadOnlyError(AvailabilityError):
    default_kind = ErrorKind.READ_ONLY


class AuthenticationError(DatabaseError):
    default_kind = ErrorKind.AUTHENTICATION


class PermissionDeniedError(DatabaseError):
    default_kind = ErrorKind.PERMISSION


class StatementSyntaxError(DatabaseError):
    default_kind = ErrorKind.SYNTAX


class SchemaError(DatabaseError):
    """A table, column, function or database doesn't exist, or exists already."""

    default_kind = ErrorKind.SCHEMA


class DataError(DatabaseError):
    """A value doesn't fit: out of range, too long, not a number, not a date."""

    default_kind = ErrorKind.DATA


class ResourceError(DatabaseError):
    """Disk, memory or another limit of the server is used up."""

    default_kind = ErrorKind.RESOURCE


class StatementCancelledError(DatabaseError):
    default_kind = ErrorKind.CANCELLED


class ServerUsageError(DatabaseError):
    """The server refused the call as misused: wrong transaction state, wrong parameters."""

    default_kind = ErrorKind.USAGE


class ServerUnsupportedError(DatabaseError):
    """The server doesn't have that feature."""

    default_kind = ErrorKind.UNSUPPORTED


class InternalServerError(DatabaseError):
    default_kind = ErrorKind.INTERNAL


class OutcomeUnknownError(DatabaseError):
    """A write or COMMIT was sent and no reply came: it may have taken effect. It is never repeated on a guess.

    Attributes:
        token: of a transaction with ``exactly_once=True``, for ``resolve_outcome(token)`` in any process; else
            ``None``. It is not a secret, and it survives pickling.
    """

    default_kind = ErrorKind.OUTCOME_UNKNOWN

    def __init__(self, message: str, *, token: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.token = token


class TransactionEndedError(OutcomeUnknownError):
    """A statement ended the transaction: everything before it is already committed or rolled back."""


class NotCommittedError(DatabaseError):
    """The transaction did not commit and never will."""

    default_kind = ErrorKind.CONNECTION_LOST


class ResultsLostError(DatabaseError):
    """The batch is committed, and its results can't be had: they were lost with the reply, or can't be read.

    Nothing of it may be repeated. What it wrote can be read from the database.
    """

    default_kind = ErrorKind.CONNECTION_LOST


class TransactionAbortedError(DatabaseError):
    """A statement failed and its error was swallowed: COMMIT would have rolled back silently."""

    default_kind = ErrorKind.USAGE


_BY_KIND: dict[ErrorKind, type[DatabaseError]] = {
    ErrorKind.UNIQUE: UniqueViolationError,
    ErrorKind.FOREIGN_KEY: ForeignKeyViolationError,
    ErrorKind.NOT_NULL: NotNullViolationError,
    ErrorKind.CHECK: CheckViolationError,
    ErrorKind.EXCLUSION: ExclusionViolationError,
    ErrorKind.INTEGRITY: IntegrityError,
    ErrorKind.SERIALIZATION: SerializationError,
    ErrorKind.DEADLOCK: DeadlockError,
    ErrorKind.LOCK_TIMEOUT: LockTimeoutError,
    ErrorKind.STATEMENT_TIMEOUT: StatementTimeoutError,
    ErrorKind.TRANSACTION_TIMEOUT: TransactionTimeoutError,
    ErrorKind.CONNECT_FAILED: ConnectFailedError,
    ErrorKind.CONNECTION_LOST: ConnectionLostError,
    ErrorKind.TOO_MANY_CONNECTIONS: TooManyConnectionsError,
    ErrorKind.POOL_TIMEOUT: PoolTimeoutError,
    ErrorKind.READ_ONLY: ReadOnlyError,
    ErrorKind.NOT_READY: NotReadyError,
    ErrorKind.SERVER_SHUTDOWN: ServerShutdownError,
    ErrorKind.AUTHENTICATION: AuthenticationError,
    ErrorKind.PERMISSION: PermissionDeniedError,
    ErrorKind.SYNTAX: StatementSyntaxError,
    ErrorKind.SCHEMA: SchemaError,
    ErrorKind.DATA: DataError,
    ErrorKind.RESOURCE: ResourceError,
    ErrorKind.CANCELLED: StatementCancelledError,
    ErrorKind.UNSUPPORTED: ServerUnsupportedError,
    ErrorKind.USAGE: ServerUsageError,
    ErrorKind.OUTCOME_UNKNOWN: OutcomeUnknownError,
    ErrorKind.INTERNAL: InternalServerError,
    ErrorKind.UNKNOWN: DatabaseError,
}


def error_type(kind: ErrorKind) -> type[DatabaseError]:
    """Return the exception class for server errors of this *kind*."""
    return _BY_KIND[kind]


# Functions that convert a driver's exception; registered by the dialects, which this module can't import.
_readers: list[Callable[[BaseException, str | None, str | None], PrefiqDbError | None]] = []


def as_prefiq_error(error: BaseException, *, dialect: str | None = None, database: str | None = None) -> PrefiqDbError:
    """Convert a driver's or SQLAlchemy's *error* to a PrefiqDbError with kind, code and names, and without values.

    For engines and connections that don't belong to a ``Database``, on the same drivers. A PrefiqDbError is returned as
    it is; *error* itself isn't changed, and ``.original`` is a copy of the driver's exception. An error of COMMIT is
    classified like one of a statement, because its phase is unknown: don't repeat a COMMIT, or a write, because of it.

    Args:
        dialect: ``postgresql``, ``mariadb``, ``mysql`` or ``sqlite``. Default: the driver's own; MariaDB's for both
            MySQL drivers.
        database: the database's name, for the message.

    Raises:
        UsageError: if *dialect* is none of those.
        TypeError: if *error* is not a database error: raise it again unchanged.
    """
    found = next((made for read in _readers if (made := read(error, dialect, database)) is not None), None)
    if found is None:
        raise TypeError(
            f"as_prefiq_error: {type(error).__name__} is no error of a driver or of SQLAlchemy: let it pass"
        )
    return found
