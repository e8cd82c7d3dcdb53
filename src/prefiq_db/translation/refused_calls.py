"""Errors that neither server nor driver reports: SQLAlchemy or Python refused a call, or a package is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import exc

from prefiq_db.errors import (
    ErrorKind,
    EventLoopError,
    MissingDriverError,
    PoolTimeoutError,
    PrefiqDbError,
    UnsupportedError,
    UsageError,
    error_type,
)
from prefiq_db.translation.classify import Phase, treatment
from prefiq_db.translation.cleaning import clean
from prefiq_db.translation.messages import WORDS, say_where
from prefiq_db.translation.python_errors import classify_python

# --- calls ---------------------------------------------------------------------------------------

# The extra that installs a dialect's drivers.
_EXTRAS: Final[Mapping[str, str]] = {
    "postgresql": "prefiq-db[postgres]",
    "mariadb": "prefiq-db[mariadb]",
    "mysql": "prefiq-db[mariadb]",
    "mongodb": "prefiq-db[mongodb]",
    "sqlite": "prefiq-db",
}

# A bind's name is part of the statement and not a value.
_MISSING_BIND: Final = re.compile(r"A value is required for bind parameter '(\w+)'(?:, in parameter group (\d+))?")

# RuntimeErrors with a known meaning: texts of asyncio, PyMySQL and asyncmy, without values.
_LOOP: Final = re.compile(r"Event loop is closed|different (?:event )?loop|no running event loop")
_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "pynacl": ("ed25519", "pynacl"),
    "cryptography": ("sha256_password and caching_sha2_password", "'prefiq-db[mariadb]'"),
}


def refuses_call(original: BaseException, phase: Phase) -> bool:
    """Return whether *original* means that a call was refused, not that a statement failed."""
    if isinstance(original, RuntimeError):
        return phase != "commit"
    return isinstance(original, (ImportError, exc.SQLAlchemyError)) or classify_python(original, phase) is None


def refused_call_error(original: BaseException, dialect: str, database: str | None) -> PrefiqDbError:
    """Return the error for a call that *original* refused."""
    cls, message = _describe(original, dialect)
    # It holds the statement and its parameters; for a missing bind, our message says everything.
    holds_parameters = isinstance(original, exc.StatementError) or _MISSING_BIND.match(_text_of(original))
    return cls(
        f"{say_where(database)}{message}", database=database, original=None if holds_parameters else clean(original)
    )


def refused_kind(original: BaseException, dialect: str) -> ErrorKind:
    """Return the kind of the error that :func:`refused_call_error` makes."""
    return _describe(original, dialect)[0].default_kind


def _describe(original: BaseException, dialect: str) -> tuple[type[PrefiqDbError], str]:
    if isinstance(original, (ImportError, exc.NoDBAPILoaded)):
        return MissingDriverError, f"the driver is not installed: pip install '{_EXTRAS.get(dialect, 'prefiq-db')}'"
    known = _describe_runtime(str(original)) if isinstance(original, RuntimeError) else None
    return known or _describe_usage(original)


def _describe_runtime(text: str) -> tuple[type[PrefiqDbError], str] | None:
    if _LOOP.search(text):
        return EventLoopError, "used from another event loop than the one it was opened in: open one per loop"
    for package, (method, install) in _PACKAGES.items():
        if package in text.lower():
            return MissingDriverError, (
                f"the server's account logs in by {method}, which needs a package that is not installed: "
                f"pip install {install}"
            )
    return None


def _describe_usage(original: BaseException) -> tuple[type[PrefiqDbError], str]:
    """Name the error and SQLAlchemy's page about it; its text may quote values, so it is left out."""
    if missing := _MISSING_BIND.match(_text_of(original)):
        where = f" of rows[{missing[2]}]" if missing[2] else ""
        return UsageError, f"params{where}: no value for the bind {missing[1]!r} of the statement"
    code = getattr(original, "code", None)
    known = isinstance(original, exc.SQLAlchemyError) and isinstance(code, str) and re.fullmatch(r"\w{4}", code)
    more = f" (https://sqlalche.me/e/21/{code})" if known else ""
    unsupported = isinstance(original, (exc.UnsupportedCompilationError, NotImplementedError))
    return (
        UnsupportedError if unsupported else UsageError,
        f"the call was refused with {type(original).__name__}{more}: see .original for its text",
    )


def _text_of(original: BaseException) -> str:
    return str(original.args[0]) if original.args else ""


# --- values --------------------------------------------------------------------------------------

#: For each dialect, raises UsageError for parameters that no database can store. ``dialects.values`` fills it.
REFUSERS: Final[dict[str, Callable[[Any], None]]] = {}


def is_misfit(error: exc.StatementError, original: BaseException) -> bool:
    """Return whether a column's type raised *original* because it could not convert a value.

    Args:
        error: SQLAlchemy's wrapper of it.
    """
    return (
        not isinstance(error, exc.DBAPIError)
        and isinstance(original, (TypeError, ValueError, ArithmeticError, AttributeError, LookupError))
        and not isinstance(original, exc.SQLAlchemyError)
    )


def refused_value_error(
    error: exc.StatementError, original: Exception, dialect: str, database: str | None
) -> PrefiqDbError:
    """Return the same error as for a value without a column type: our refusal, or else the server's kind, DATA."""
    refused: UsageError | None = None
    try:
        REFUSERS[dialect](error.params)
    except UsageError as found:
        refused = UsageError(f"{say_where(database)}{found}", database=database, original=clean(original))
    except (KeyError, ValueError, ArithmeticError):
        pass  # a database without refusals, or an impossible date: it doesn't fit any database
    if refused is not None:
        return refused
    what, advice = WORDS[ErrorKind.DATA]
    return error_type(ErrorKind.DATA)(
        f"{say_where(database)}{what}: {advice}",
        database=database,
        classification=treatment(ErrorKind.DATA),
        original=clean(original),
    )


# --- the pool ------------------------------------------------------------------------------------

_POOL: Final = re.compile(r"limit of size (\d+) overflow (-?\d+) reached, connection timed out, timeout ([\d.]+)")


def pool_timeout_error(error: exc.TimeoutError, database: str | None) -> PrefiqDbError:
    """Return the error for a checkout that timed out."""
    what, advice = WORDS[ErrorKind.POOL_TIMEOUT]
    numbers = _POOL.search(str(error.args[0])) if error.args else None
    if numbers:
        size, overflow, seconds = int(numbers[1]), max(int(numbers[2]), 0), float(numbers[3])
        what = f"no connection within {seconds:g} s: all {size + overflow} of the pool are in use"
    return PoolTimeoutError(
        f"{say_where(database)}{what}; {advice}",
        database=database,
        classification=treatment(ErrorKind.POOL_TIMEOUT),
        original=clean(error),
    )
