"""Judge an error once, where it is caught first, and keep the judgement with it until it leaves.

All users read the same judgement: the observer of statements, the pool (is the connection lost?), the transaction (can
it go on?), and both borders. The phase then decides what it means: the same lost connection is a failed statement, or
a COMMIT with an unknown outcome.
Why: docs/decisions/0106-why-an-error-is-judged-once.md.
"""

from __future__ import annotations

import contextlib
from asyncio import CancelledError, current_task
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Final

from sqlalchemy import exc

from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.halfway import REFUSED
from prefiq_db.drivers.prepared import OUTDATED
from prefiq_db.drivers.readable import UNSENT
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError
from prefiq_db.interruptions import is_interruption
from prefiq_db.silence import has_ended
from prefiq_db.translation.classify import UNANSWERED, Phase, classify_error, in_phase, treatment
from prefiq_db.translation.cleaning import KEPT, unwrap
from prefiq_db.translation.driver_reports import Report, read_report
from prefiq_db.translation.labels_mongodb import apply_labels
from prefiq_db.translation.named_exceptions import find_named
from prefiq_db.translation.python_errors import classify_python
from prefiq_db.translation.refused_calls import refused_kind, refuses_call

#: Set on sqlite3's exception: a transaction that has read was refused to write, and waiting doesn't help.
STALE: Final = "prefiq_db_stale"

# A prepared statement became outdated: nothing of it ran, and the driver has forgotten it.
_PREPARE_AGAIN: Final = ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True)

# The connection had ended before: whatever was to be sent, and COMMIT too, the server never got it.
_NOT_SENT: Final = replace(treatment(ErrorKind.CONNECTION_LOST), retry_statement=True)

# Cancels look the same whoever sent them, and a socket that our watchdog shut looks like a lost one.
_CANCELS: Final = frozenset({ErrorKind.STATEMENT_TIMEOUT, ErrorKind.CANCELLED})

# The modules that talk to a server: the drivers, and the code that adapts them.
_DRIVERS: Final = (
    "psycopg.",
    "psycopg_binary.",
    "psycopg_c.",
    "pymysql.",
    "asyncmy.",
    "aiosqlite.",
    "sqlite3.",
    "pymongo.",
    "sqlalchemy.dialects.",
    "sqlalchemy.connectors.",
    "prefiq_db.drivers.",
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of one error. Its ``repr`` has no value of the statement.

    Attributes:
        found: its class as a statement's error.
        by_code: the class of the server's code in a statement; ``None`` without a code.
        report: the content of the driver's error; ``None`` when no driver raised it.
        by_timeout: whether our own clock (``True``) or somebody else (``False``) stopped it; ``None``: not known.
        lost: whether the connection is lost; ``None`` if it could not be checked.
        interruption: the interruption from outside that ended the statement; it passes unchanged.
        is_swallowed: the driver only stopped the statement on the interruption, and the connection is fine.
        made_at: when it was made, on the clock of the observer.
    """

    found: ErrorClass
    by_code: ErrorClass | None = None
    report: Report | None = field(default=None, repr=False)
    by_timeout: bool | None = None
    lost: bool | None = None
    interruption: BaseException | None = field(default=None, repr=False)
    is_swallowed: bool = False
    made_at: float = field(default_factory=perf_counter, repr=False, compare=False)

    @property
    def kind(self) -> ErrorKind:
        """The kind that the statement's event and the caller's error show."""
        return self.found.kind if self.interruption is None else ErrorKind.CANCELLED

    @property
    def code(self) -> str | int | None:
        return None if self.report is None or self.interruption is not None else self.report.code


def find_judgement(error: BaseException) -> Judgement | None:
    """Return the judgement that *error* holds, or ``None``."""
    for each in (error, unwrap(error)):
        kept = getattr(each, KEPT, None)
        if isinstance(kept, Judgement):  # an application's class may answer to any name
            return kept
    return None


def judge(
    error: BaseException,
    dialect: str,
    *,
    by_timeout: bool | None = None,
    swallowed: BaseException | None = None,
    is_lost: Callable[[ErrorClass | None], bool | None] | None = None,
) -> Judgement:
    """Return the judgement of *error*: the one that it holds, or a new one, which it then holds.

    Args:
        error: the driver's, or SQLAlchemy's wrapper of it.
        by_timeout: what our own clock knows, see :class:`Judgement`.
        swallowed: what a signal handler raised while the statement ran, so that the driver only stopped the statement.
        is_lost: checks the connection, given the class of the server's code.
    """
    judgement = find_judgement(error)
    if judgement is not None:
        return judgement
    original = unwrap(error)
    if isinstance(original, PrefiqDbError):
        return Judgement(replace(original.classification, kind=original.kind), report=Report(original.code))
    judgement = _judge(error, original, dialect, by_timeout, swallowed, is_lost)
    if judgement.interruption is not error:
        with contextlib.suppress(AttributeError, TypeError):  # a class may allow no attributes
            setattr(original, KEPT, judgement)
    return judgement


def judge_outcome(judgement: Judgement, error: BaseException, dialect: str, phase: Phase) -> ErrorClass:
    """Return what *judgement* means in *phase*, for the connection, the statement, or a COMMIT."""
    if phase == "statement":
        return judgement.found
    return _adjust_to_clock(_classify_in(judgement.report, unwrap(error), dialect, phase), judgement.by_timeout, phase)


def _judge(
    error: BaseException,
    original: BaseException,
    dialect: str,
    by_timeout: bool | None,
    swallowed: BaseException | None,
    is_lost: Callable[[ErrorClass | None], bool | None] | None,
) -> Judgement:
    interruption = original if is_interruption(original) else _stumbled_over(original)
    if not isinstance(original, Exception):
        return Judgement(treatment(ErrorKind.CANCELLED), interruption=interruption)
    is_silence = isinstance(original, DeadlinePassed)
    report = Report(None) if is_silence else read_report(original)
    if interruption is not None and report is None:
        return Judgement(treatment(ErrorKind.CANCELLED), interruption=interruption)
    found = _classify_in(report, original, dialect, "statement")
    by_code = None if report is None or report.code is None else found
    lost = error.connection_invalidated if isinstance(error, exc.DBAPIError) else None
    if is_lost is not None:
        lost = is_lost(by_code)
    if lost is not None and not is_silence:
        found = _adjust_to_connection(found, report, original, lost=lost)
    found = _adjust_to_clock(found, by_timeout, "statement")
    is_swallowed = interruption is None and swallowed is not None and by_code is not None and by_code.kind in _CANCELS
    return Judgement(
        found,
        by_code,
        report,
        by_timeout=by_timeout,
        lost=lost,
        interruption=swallowed if is_swallowed else interruption,
        is_swallowed=is_swallowed,
    )


def _classify_in(report: Report | None, original: BaseException, dialect: str, phase: Phase) -> ErrorClass:
    """Return the class of *original* in *phase*, by its own content alone."""
    if isinstance(original, DeadlinePassed):
        return in_phase(UNANSWERED, phase)
    if report is not None:
        return _classify_report(report, original, dialect, phase)
    python = None if refuses_call(original, phase) else classify_python(original, phase)
    return python or ErrorClass(refused_kind(original, dialect))


def _classify_report(report: Report, error: BaseException, dialect: str, phase: Phase) -> ErrorClass:
    found = _classify_code(report, error, dialect, phase)
    return apply_labels(found, report.labels, phase) if report.labels else found


def _classify_code(report: Report, error: BaseException, dialect: str, phase: Phase) -> ErrorClass:
    if getattr(error, STALE, False):
        return in_phase(treatment(ErrorKind.SERIALIZATION), phase)
    if getattr(error, UNSENT, False):
        return _NOT_SENT
    if getattr(error, OUTDATED, False):
        return _PREPARE_AGAIN
    named = find_named(dialect, report.code, report.text, phase)
    if named is not None:
        becomes = named.becomes
        return becomes if isinstance(becomes, ErrorClass) else in_phase(treatment(becomes), phase)
    if report.code is not None:
        return classify_error(dialect, report.code, phase=phase)
    codeless = {} if report.driver is None else report.driver.codeless
    names = (cls.__name__ for cls in type(error).__mro__)
    kind = next((codeless[name] for name in names if name in codeless), ErrorKind.UNKNOWN)
    if phase == "commit":
        # The server didn't report it, and only the server knows the outcome.
        kind = ErrorKind.OUTCOME_UNKNOWN
    return in_phase(treatment(kind), phase)


def _adjust_to_connection(found: ErrorClass, report: Report | None, error: BaseException, *, lost: bool) -> ErrorClass:
    """Return *found*, adjusted after the connection was checked: it is *lost*, or as good as before."""
    codeless = report is not None and report.code is None
    if lost and found.kind is not ErrorKind.CONNECTION_LOST:
        # A driver's error without a code, on a lost connection, is about the loss.
        unsaid = found.kind is ErrorKind.UNKNOWN or (codeless and not getattr(error, REFUSED, False))
        return replace(treatment(ErrorKind.CONNECTION_LOST) if unsaid else found, connection_lost=True)
    is_vague = codeless and report is not None and report.driver is not None and report.driver.is_vague
    if not lost and is_vague and found.kind is ErrorKind.CONNECTION_LOST:
        return treatment(ErrorKind.USAGE)  # refused by the driver, before anything was sent
    return found


def _adjust_to_clock(found: ErrorClass, by_timeout: bool | None, phase: Phase) -> ErrorClass:
    """Return *found*, adjusted by whether our own clock stopped the statement."""
    if by_timeout is None or phase == "connect":
        return found
    if found.kind in _CANCELS and found != UNANSWERED:
        return treatment(ErrorKind.STATEMENT_TIMEOUT if by_timeout else ErrorKind.CANCELLED)
    if by_timeout and found.kind is ErrorKind.CONNECTION_LOST:
        return UNANSWERED
    return found


def interruption_in(error: BaseException, handled: BaseException | None = None) -> BaseException | None:
    """Return the interruption from outside: *error* itself, what SQLAlchemy wrapped, or what made a driver fail.

    An interrupted driver often fails once more, and that error would hide the cause. An exception that a caller is
    still handling when calling us doesn't count: *handled*, or one whose frame has not ended.
    """
    inner: BaseException | None = error
    while inner is not None and inner is not handled:
        found = unwrap(inner)
        if is_interruption(found):
            return found if inner is error or _goes_on(found) else None
        caught = inner.__context__
        if isinstance(caught, CancelledError) and inner.__cause__ is caught:
            return None  # a time limit: asyncio makes it from its own cancellation
        inner = caught
        if inner is not None and inner.__traceback__ is not None and not has_ended(inner.__traceback__.tb_frame):
            return None
    return None


def _stumbled_over(error: BaseException) -> BaseException | None:
    """Return the interruption that a driver's code caught before it raised *error*.

    What other code catches, such as a column's type or a listener, is that code's own business: there, *error* is what
    it wants to say.
    """
    inner: BaseException | None = error.__context__
    while inner is not None and _caught_in_driver(inner):
        found = unwrap(inner)
        if is_interruption(found):
            return found if _goes_on(found) else None
        inner = inner.__context__
    return None


def _caught_in_driver(error: BaseException) -> bool:
    """Return whether the frame that caught *error* is a driver's and has ended."""
    if error.__traceback__ is None:
        return False
    frame = error.__traceback__.tb_frame
    return f"{frame.f_globals.get('__name__', '')}.".startswith(_DRIVERS) and has_ended(frame)


def _goes_on(interruption: BaseException) -> bool:
    """Return whether *interruption*, which some code caught, is still to be raised."""
    if isinstance(interruption, CancelledError):
        try:
            task = current_task()
        except RuntimeError:  # no event loop
            return False
        return task is not None and task.cancelling() > 0
    return not isinstance(interruption, GeneratorExit)
