"""The driver's exception below SQLAlchemy's wrappers, and what it must lose before somebody keeps it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from sqlalchemy import exc

_E = TypeVar("_E", bound=BaseException)


#: Where an error keeps its judgement while it travels.
KEPT: Final = "_prefiq_db_judgement"


def unwrap(error: _E) -> _E | Exception:
    """Return the driver's error out of SQLAlchemy's wrapper and of its emulated DBAPI for async drivers."""
    inner: Any = error
    if isinstance(inner, exc.StatementError):
        inner = inner.orig
    if isinstance(inner, exc.EmulatedDBAPIException):
        inner = inner.driver_exception
    return inner if isinstance(inner, Exception) else error


def copy_apart(error: Exception) -> Exception:
    """Return a copy of *error*, down to the driver's; what can't be copy_apart is returned itself."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - an exception's constructor may want anything
        return error
    if isinstance(made, exc.StatementError) and isinstance(made.orig, Exception):
        made.orig = copy_apart(made.orig)
    return made if type(made) is type(error) else error


# Where exceptions keep further exceptions, and what else they pin: psycopg a finished connection with its password,
# PyMySQL a formatted traceback.
_INNER: Final = ("__cause__", "__context__", "original_exception", "driver_exception")
_PINNED: Final = ("_pgconn", "traceback")


def clean(original: _E) -> _E:
    """Return *original* without tracebacks, causes, contexts and judgement: these pin frames, values, connections."""
    pending: list[BaseException] = [original]
    seen: set[int] = set()
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        pending.extend(_inner(error))
        unpin(error)
    return original


def unpin(error: BaseException) -> None:
    """Drop what *error* itself pins, its judgement too; the errors behind it stay what they are."""
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    for name in _PINNED:
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
    forget(error)


def forget(error: BaseException) -> None:
    """Drop the judgement that is kept with *error*: it has left."""
    with contextlib.suppress(AttributeError):
        delattr(unwrap(error), KEPT)


def _inner(error: BaseException) -> Iterable[BaseException]:
    found = [getattr(error, name, None) for name in _INNER]
    if isinstance(error, BaseExceptionGroup):
        found.extend(error.exceptions)
    return [inner for inner in found if isinstance(inner, BaseException)]
