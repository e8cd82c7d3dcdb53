"""The options of a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prefiq_db.config import ISOLATION_LEVELS, MAX_SECONDS
from prefiq_db.errors import UsageError


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """The options that a transaction begins with.

    Attributes:
        isolation: one of :data:`~prefiq_db.config.ISOLATION_LEVELS`, or ``None`` for the server's default.
        read_only: the server refuses writes in it.
        durable: raise when nested, so that leaving the block means it is committed.
        timeout_seconds: from BEGIN to COMMIT; ``None`` means no limit beyond that of each statement.
        exactly_once: write a token at BEGIN, which later shows whether a COMMIT without a reply happened; see
            :mod:`prefiq_db.exactly_once`.
        step_timeout_seconds: the timeout of ``using()`` and ``override()``. It applies separately to the checkout, to
            BEGIN, to COMMIT and to finding out its outcome; a call that runs the whole transaction bounds all of it.
        schema: the schema of ``using()`` and ``override()`` that names are looked up in; ``None``: the session's own.

    Raises:
        UsageError: if an option has a wrong value, or two of them exclude each other.
    """

    isolation: str | None = None
    read_only: bool = False
    durable: bool = False
    timeout_seconds: float | None = None
    exactly_once: bool = False
    step_timeout_seconds: float | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.isolation is not None:
            level = str(self.isolation).upper().replace("_", " ")
            if level not in ISOLATION_LEVELS:
                raise UsageError(f"isolation: expected one of {', '.join(ISOLATION_LEVELS)}")
            object.__setattr__(self, "isolation", level)
        for name in ("read_only", "durable", "exactly_once"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: expected True or False")
        if self.exactly_once and self.read_only:
            raise UsageError("exactly_once: a read-only transaction writes nothing that could be lost or doubled")
        check_timeout(self.timeout_seconds)


def check_timeout(seconds: float | None) -> None:
    """Raise :class:`UsageError` unless *seconds* is ``None`` or a number that is valid for a setting too."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"timeout: expected seconds, greater than 0 and at most {MAX_SECONDS:.0f}")


#: without any option
PLAIN: Final = TransactionOptions()


def make_options(
    isolation: str | None, read_only: bool, durable: bool, timeout: float | None, exactly_once: bool = False
) -> TransactionOptions:
    """Return the options of ``transaction()``; without any, always the same object.

    Raises:
        UsageError: as of :class:`TransactionOptions`.
    """
    are_plain = read_only is False and durable is False and exactly_once is False
    if are_plain and isolation is None and timeout is None:
        return PLAIN
    return TransactionOptions(isolation, read_only, durable, timeout, exactly_once)
