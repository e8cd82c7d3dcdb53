"""Errors that leave a session or a connection of the engine: each belongs to our tree and to SQLAlchemy's.

Callers may write ``except sqlalchemy.exc.IntegrityError`` as well as ``except UniqueViolationError``. We create a class
that derives from both for each pair that occurs, once, under our class's name.
Why: docs/decisions/0084-why-what-leaves-a-session-is-of-both-trees.md.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import exc

from prefiq_db import errors
from prefiq_db.errors import PrefiqDbError

# Left out of pickles: the driver's exception and parameters that SQLAlchemy keeps, and notes that callers added.
_LEFT_BEHIND: Final = ("orig", "params", "__notes__", "_behind")

# SQLAlchemy's class for an error that no driver raised; the first match counts.
_ALIKE: Final[tuple[tuple[type[PrefiqDbError], type[exc.SQLAlchemyError]], ...]] = (
    (errors.IntegrityError, exc.IntegrityError),
    (errors.DataError, exc.DataError),
    (errors.PoolTimeoutError, exc.TimeoutError),
    # As in psycopg: PostgreSQL is the server that itself reports a transaction that can't go on.
    (errors.TransactionAbortedError, exc.InternalError),
    (errors.InternalServerError, exc.InternalError),
    (errors.StatementSyntaxError, exc.ProgrammingError),
    (errors.SchemaError, exc.ProgrammingError),
    (errors.ServerUsageError, exc.ProgrammingError),
    (errors.ServerUnsupportedError, exc.NotSupportedError),
    (errors.DatabaseError, exc.OperationalError),
    (PrefiqDbError, exc.InvalidRequestError),
)

# Where Python itself keeps cause and context.
_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_CONTEXT: Final[Any] = BaseException.__dict__["__context__"]


class Both:
    """Mixed in before our class and SQLAlchemy's; not an exception by itself.

    SQLAlchemy raises it from the driver's exception, which stays at ``.orig``, without its values. The chain that log
    formatters and error trackers follow doesn't lead there: it leads to the error that the driver ran into.
    """

    def __str__(self) -> str:
        error: Any = self
        lines = [f"({detail})" for detail in getattr(error, "detail", ())]
        lines.append(str(error.args[0]) if error.args else "")
        if getattr(error, "statement", None):
            lines.append(f"[SQL: {error.statement}]")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        error: Any = self
        state = {name: value for name, value in error.__dict__.items() if name not in _LEFT_BEHIND}
        return (_rebuild, (*_parts_of(type(error)), error.args, state))

    @property
    def __cause__(self) -> BaseException | None:
        return self._in_front(_CAUSE.__get__(self))

    @__cause__.setter
    def __cause__(self, cause: BaseException | None) -> None:
        _CAUSE.__set__(self, cause)

    @property
    def __context__(self) -> BaseException | None:
        return self._in_front(_CONTEXT.__get__(self))

    @__context__.setter
    def __context__(self, context: BaseException | None) -> None:
        _CONTEXT.__set__(self, context)

    def _in_front(self, found: BaseException | None) -> BaseException | None:
        return None if found is self.__dict__.get("_behind") else found


def of_both(
    error: PrefiqDbError,
    alike: type[exc.SQLAlchemyError] | None = None,
    *,
    raised: exc.StatementError | None = None,
    behind: BaseException | None = None,
) -> PrefiqDbError:
    """Return *error* as an error that also belongs to SQLAlchemy's class *alike*.

    Args:
        alike: by default the class of *raised*, or the one that fits *error*.
        raised: SQLAlchemy's own exception: its statement, parameters and driver's exception are taken over.
        behind: the exception that this error will be raised from.
    """
    if isinstance(error, Both):
        return error
    kind = alike or (_alike(error) if raised is None else type(raised))
    cls = _class(type(error), kind)
    made: PrefiqDbError = cls.__new__(cls)
    made.args = error.args
    made.__dict__.update(_statement_fields(raised, behind) if issubclass(kind, exc.StatementError) else {})
    made.__dict__.update(error.__dict__, _behind=behind)
    made._original = error.original
    return made


def _alike(error: PrefiqDbError) -> type[exc.SQLAlchemyError]:
    return next(theirs for ours, theirs in _ALIKE if isinstance(error, ours))


def _statement_fields(raised: exc.StatementError | None, behind: BaseException | None) -> dict[str, Any]:
    return {
        "statement": getattr(raised, "statement", None),
        "params": getattr(raised, "params", None),
        "orig": behind if raised is None else raised.orig,
        "ismulti": getattr(raised, "ismulti", None),
        "hide_parameters": getattr(raised, "hide_parameters", True),
        "connection_invalidated": getattr(raised, "connection_invalidated", False),
        "detail": [],
    }


_classes: dict[tuple[type[PrefiqDbError], type[exc.SQLAlchemyError]], type[PrefiqDbError]] = {}


def _class(ours: type[PrefiqDbError], theirs: type[exc.SQLAlchemyError]) -> type[PrefiqDbError]:
    made = _classes.get((ours, theirs))
    if made is None:
        fields = {"__module__": ours.__module__, "__qualname__": ours.__qualname__, "__doc__": ours.__doc__}
        made = type(ours.__name__, (Both, ours, theirs), fields)
        made = _classes.setdefault((ours, theirs), made)  # every thread uses the same class
    return made


def _parts_of(cls: type) -> tuple[type, type]:
    _, ours, theirs = cls.__bases__
    return ours, theirs


def _rebuild(
    ours: type[PrefiqDbError], theirs: type[exc.SQLAlchemyError], args: tuple[Any, ...], state: dict[str, Any]
) -> PrefiqDbError:
    cls = _class(ours, theirs)
    error: PrefiqDbError = cls.__new__(cls)
    error.args = args
    error.__dict__.update(_statement_fields(None, None) if issubclass(theirs, exc.StatementError) else {})
    error.__dict__.update(state)
    error._original = None
    return error


_rebuild.__module__ = "prefiq_db.dialects.both"  # pickles name it; see there
