"""Every exception of prefiq_db, in one tree, none of them carrying a value.

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
    RESOURCE = "resource"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    USAGE = "usage"
    OUTCOME_UNKNOWN = "outcome_unknown"
    INTERNAL = "internal"
    UNKNOWN = "unknown"


class SubKind(StrEnum):
    """What is wrong with a name, or with what it stands for: ``sub_kind`` of an error."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    AMBIGUOUS = "ambiguous"
    DEPENDENT = "dependent"
    WRONG_TYPE = "wrong_type"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """How an error is to be treated.

    Attributes:
        kind: what went wrong.
        transient: the same work may succeed later, without anybody changing it.
        connection_lost: the connection is dead or must not be used again.
        retry_statement: a single statement may be sent again: nothing of it was done (or nothing was sent).
        retry_transaction: the whole transaction may run again from its beginning, after a rollback.
    """

    kind: ErrorKind
    transient: bool = False
    connection_lost: bool = False
    retry_statement: bool = False
    retry_transaction: bool = False


class PrefiqDbError(Exception):
    """The root of the tree.

    Attributes:
        kind: an :class:`ErrorKind`.
        sub_kind: a :class:`SubKind` for a mistake with a name, else ``None``.
        code: the server's own code (SQLSTATE, vendor number, SQLite result code), or ``None``.
        is_transient: whether the same work may succeed later.
        database: the name of the :class:`~prefiq_db.Database` (``main``, ``analytics``), or ``None``.
        constraint, table, column: names from the server's structured fields, where it gives them.
        classification: the whole :class:`ErrorClass`.
        original: the driver's exception (its traceback dropped), or ``None``. It holds values: don't log it.
    """

    default_kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

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
    """The call can't mean what it says: the message names what was expected and how to do it."""

    default_kind = ErrorKind.USAGE


class UnsupportedError(UsageError):
    """This database, or this version of prefiq_db, can't do that."""

    default_kind = ErrorKind.UNSUPPORTED


class MissingExtraError(UnsupportedError):
    """A package that is needed here isn't installed; the message names the extra that brings it."""


class MissingDriverError(MissingExtraError):
    """A driver isn't installed; the message names the extra that brings it."""


class ClosedError(UsageError):
    """The database, transaction or application was closed already."""


class TransactionOwnershipError(UsageError):
    """A task or thread that did not open the transaction tried to use it by inheritance."""


class TransactionBusyError(UsageError):
    """Two tasks or threads used one transaction at the same moment."""


class StatementRefusedError(UsageError):
    """The statement would not do what it seems to, here; the message says where it belongs."""


class EventLoopError(UsageError):
    """An AsyncDatabase was used from another event loop than the one it was opened in."""


class ForkError(UsageError):
    """A transaction was carried over a fork."""


class NestingError(UsageError):
    """A transaction that asked not to be nested was nested, or a savepoint was asked for what only BEGIN can do."""


class StatementBudgetError(UsageError, AssertionError):
    """A block sent more statements than it was allowed to; a test that runs into it fails like an assertion."""


class MappingError(UsageError):
    """A row could not be made into what ``into=`` asks for."""

    default_kind = ErrorKind.DATA


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
    """The container has no such name, or has it twice."""


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
    """Another transaction was in the way; running the whole transaction again usually helps."""


class SerializationError(ConcurrencyError):
    default_kind = ErrorKind.SERIALIZATION


class DeadlockError(ConcurrencyError):
    default_kind = ErrorKind.DEADLOCK


class LockTimeoutError(ConcurrencyError):
    default_kind = ErrorKind.LOCK_TIMEOUT


class DeadlineError(DatabaseError):
    """Something took longer than it was allowed to."""


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
    """A write or COMMIT was sent and its reply never came: it may have happened. Never repeated on a guess.

    Attributes:
        token: what ``resolve_outcome(token)`` takes, from any process, for a transaction with ``exactly_once=True``;
            else ``None``. It is no secret, and it survives pickling.
    """

    default_kind = ErrorKind.OUTCOME_UNKNOWN

    def __init__(self, message: str, *, token: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.token = token


class TransactionEndedError(OutcomeUnknownError):
    """A statement ended the transaction by itself: what came before it is committed, or undone, already."""


class NotCommittedError(DatabaseError):
    """The transaction did not commit and never will."""

    default_kind = ErrorKind.CONNECTION_LOST


class TransactionAbortedError(DatabaseError):
    """A statement failed and its error was swallowed: COMMIT would have become a ROLLBACK without a word."""

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
    """Return the exception class that a server's error of this *kind* is raised as."""
    return _BY_KIND[kind]


# Who can read a driver's exception: the dialects, which lie above this module.
_readers: list[Callable[[BaseException, str | None, str | None], PrefiqDbError | None]] = []


def as_prefiq_error(error: BaseException, *, dialect: str | None = None, database: str | None = None) -> PrefiqDbError:
    """Return *error*, a driver's or SQLAlchemy's, as one of ours: with kind, code and names, and without a value.

    For errors of engines and connections that aren't a ``Database``'s, on the same drivers. One of ours is returned
    as it is; *error* itself isn't changed, and ``.original`` is a copy of the driver's. Nobody knows at what moment it
    was raised: an error of COMMIT is judged like one of a statement, so don't repeat a COMMIT, or a write, by it.

    Args:
        dialect: ``postgresql``, ``mariadb``, ``mysql``, ``sqlite``; else the driver's, MariaDB's for both of MySQL's.
        database: its name, for the message.

    Raises:
        UsageError: if *dialect* is none of those.
        TypeError: if *error* is no database's: it must go on as it is.
    """
    found = next((made for read in _readers if (made := read(error, dialect, database)) is not None), None)
    if found is None:
        raise TypeError(
            f"as_prefiq_error: {type(error).__name__} is no error of a driver or of SQLAlchemy: let it pass"
        )
    return found
