"""The border: turn whatever SQLAlchemy or a driver raises into one of our exceptions, without values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from prefiq_db.errors import PrefiqDbError
from prefiq_db.masking import border_translates
from prefiq_db.silence import hush
from prefiq_db.translation.classify import Phase
from prefiq_db.translation.cleaning import forget
from prefiq_db.translation.judging import interruption_in, judge
from prefiq_db.translation.translate import translate

T = TypeVar("T")


class Border:
    """Translates errors in one place; knows the database's name and dialect, and whether a migration runs."""

    def __init__(self, database: str, dialect: str, *, masked: bool = True, migrating: bool = False) -> None:
        self.database = database
        self.dialect = dialect
        self.masked = masked
        self.migrating = migrating

    def _hush(self, error: BaseException) -> None:
        """Remove values and passwords from the frames of *error*: one that passes unchanged keeps its traceback."""
        if self.masked:
            hush(error)

    def _find_interruption(self, error: Exception, phase: Phase, handled: BaseException | None) -> BaseException | None:
        """Return the interruption from outside, which passes unchanged, even if the driver swallowed it."""
        judgement = judge(error, self.dialect)
        interruption = None if judgement.is_swallowed else judgement.interruption or interruption_in(error, handled)
        # Once COMMIT was sent, its outcome is what matters, whatever interrupts; see classify_python().
        return None if phase == "commit" and isinstance(interruption, Exception) else interruption

    def cross(
        self,
        action: Callable[[], T],
        phase: Phase | Callable[[], Phase] = "statement",
    ) -> T:
        """Return what *action* returns.

        The exception is raised after the except block has ended: then its ``__cause__`` and ``__context__`` are empty.
        ``raise ... from None`` would keep the driver's exception, and the values in its text, in ``__context__``.

        Raises:
            PrefiqDbError: of the class that fits the kind. An interruption from outside passes unchanged.
        """
        outside = border_translates.get()
        failure: PrefiqDbError
        interruption: BaseException | None = None
        handled = sys.exc_info()[1]
        try:
            border_translates.set(True)
            return action()
        except PrefiqDbError as error:
            failure = error
            self._hush(error)
        except Exception as error:  # noqa: BLE001 - this is the border: everything is translated and raised
            where = phase if isinstance(phase, str) else phase()
            interruption = self._find_interruption(error, where, handled)
            if interruption is None:
                failure = translate(
                    error,
                    dialect=self.dialect,
                    phase=where,
                    database=self.database,
                    migrating=self.migrating,
                )
            else:
                self._hush(interruption)
                forget(error)
        except BaseException as error:
            self._hush(error)
            raise
        finally:
            try:
                border_translates.set(outside)
            finally:
                # An interruption before that would disable translation and masking in this thread for good.
                if border_translates.get() is not outside:
                    border_translates.set(outside)
            del handled
        if interruption is not None:
            try:
                raise interruption
            finally:
                del interruption
        if failure.database is None:
            failure.database = self.database
        if not self.masked and failure.original is not None:
            # Only outside production, and only with masking switched off: there the driver's own text helps.
            failure.args = (f"{failure} [{type(failure.original).__name__}: {failure.original}]",)
        try:
            raise failure
        finally:
            # The traceback holds this frame; a reference back would make a cycle for the garbage collector.
            del failure
