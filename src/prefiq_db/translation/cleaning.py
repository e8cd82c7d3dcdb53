"""Find the driver's exception below SQLAlchemy's wrappers, and remove from it what nobody should keep."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from sqlalchemy import exc

_E = TypeVar("_E", bound=BaseException)


#: The attribute of an error that holds its judgement until the error leaves.
KEPT: Final = "_prefiq_db_judgement"


def unwrap(error: _E) -> _E | Exception:
    """Return the driver's error inside SQLAlchemy's wrapper and its emulated DBAPI for async drivers."""
    inner: Any = error
    if isinstance(inner, exc.StatementError):
        inner = inner.orig
    if isinstance(inner, exc.EmulatedDBAPIException):
        inner = inner.driver_exception
    return inner if isinstance(inner, Exception) else error


def copy_apart(error: Exception) -> Exception:
    """Return a copy of *error*, down to the driver's; an error that can't be copied is returned itself."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - an exception's constructor may need any arguments
        return error
    if isinstance(made, exc.StatementError) and isinstance(made.orig, Exception):
        made.orig = copy_apart(made.orig)
    return made if type(made) is type(error) else error


# Where exceptions keep further exceptions, and what else they hold on to: psycopg a finished connection with its
# password, PyMySQL a formatted traceback.
_INNER: Final = ("__cause__", "__context__", "original_exception", "driver_exception")
_PINNED: Final = ("_pgconn", "traceback")


def clean(original: _E) -> _E:
    """Return *original* without tracebacks, chain and judgement, which pin frames, values and connections."""
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
    """Drop what *error* itself holds on to, its judgement too; the errors behind it stay unchanged."""
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    for name in _PINNED:
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
    forget(error)


def drop_chain(error: BaseException) -> None:
    """Drop the errors behind *error*, and the frames of the driver; the judgement stays."""
    for each in (error, unwrap(error)):
        each.__traceback__ = None
        each.__cause__ = None
        each.__context__ = None


def forget(error: BaseException) -> None:
    """Drop the judgement that *error* holds, once the error has left."""
    with contextlib.suppress(AttributeError):
        delattr(unwrap(error), KEPT)


def _inner(error: BaseException) -> Iterable[BaseException]:
    found = [_kept_in(error, name) for name in _INNER]
    if isinstance(error, BaseExceptionGroup):
        found.extend(error.exceptions)
    return [inner for inner in found if isinstance(inner, BaseException)]


def _kept_in(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except ValueError:  # SQLAlchemy's word for an error that no driver raised, as ours of both trees may be
        return None
