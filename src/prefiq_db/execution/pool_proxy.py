"""SQLAlchemy's proxy of a pooled connection, made by us over a place in the pool that we have already."""

from __future__ import annotations

import weakref
from typing import Any, Final

from sqlalchemy.pool.base import _ConnectionFairy, _finalize_fairy


class OwnProxy(_ConnectionFairy):
    """SQLAlchemy's proxy of a connection, which doesn't return it when nobody has the proxy any more.

    Who made it returns it. A proxy that an interruption drops half-made would return it, too.
    """

    __slots__ = ()

    def __init__(self, record: Any) -> None:
        self._pool = record.pool
        self.dbapi_connection = record.dbapi_connection
        self._connection_record = record
        self._echo = False
        self._counter = 1
        self._finalizer: Any = _NO_FINALIZER
        record.fairy_ref = weakref.ref(self, _ignore)

    def return_itself(self) -> None:
        """Return the connection to the pool, from now on, when nobody has the proxy any more, as SQLAlchemy's does."""
        self._finalizer = weakref.finalize(
            self, _finalize_fairy, None, self._connection_record, self._pool, False, is_gc_cleanup=True
        )


def clean_up(record: Any, gone: Any) -> None:
    """Do what SQLAlchemy does when *gone*, a reference to the holder of *record*, has lost it: reset, and return it."""
    record.fairy_ref = gone
    _finalize_fairy(None, record, record.pool, False, is_gc_cleanup=True)


class _NoFinalizer:
    """Where SQLAlchemy's proxy has what returns its connection."""

    def detach(self) -> None:
        """Do nothing."""


_NO_FINALIZER: Final = _NoFinalizer()


def _ignore(reference: object) -> None:
    """Do nothing; see SQLAlchemy's ``_NOOP_WEAKREF_CALLBACK`` for why its proxy's reference needs a callback."""
