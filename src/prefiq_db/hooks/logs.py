"""Keep values out of the log records of other libraries.

SQLAlchemy logs rows at DEBUG and literals at INFO despite ``hide_parameters``; aiosqlite logs statements with their
parameters at DEBUG; asyncmy logs the server's warnings at WARNING, with the value in question. We install filters only:
no handler, no level, no formatter.
"""

from __future__ import annotations

import logging
import re

from prefiq_db.masking import mask_statement


class _EngineFilter(logging.Filter):
    """For the logger of one engine: keep statements without literals, drop rows and parameters."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.args:
            record.args = tuple(argument if isinstance(argument, int) else "<masked>" for argument in record.args)
        elif isinstance(record.msg, str):
            record.msg = mask_statement(record.msg)
        return True


class _PoolFilter(logging.Filter):
    """For the logger of one pool: keep what concerns a connection, drop a driver's error text."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                type(argument).__name__ if isinstance(argument, BaseException) else argument for argument in record.args
            )
        if record.exc_info is not None and record.exc_info[0] is not None:
            record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
            record.exc_info = None
        return True


class _AiosqliteFilter(logging.Filter):
    """For aiosqlite's one logger: keep the name of the operation, drop its arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.args:
            record.args = tuple(_operation(argument) for argument in record.args)
        return True


class _AsyncmyFilter(logging.Filter):
    """For asyncmy's one logger: keep the server's warning, drop the value that it quotes."""

    def filter(self, record: logging.LogRecord) -> bool:
        # Up to the end, not to the next quote: the value may contain quotes itself.
        record.msg = _QUOTED_TO_THE_END.sub("?", record.getMessage())
        record.args = None
        return True


_QUOTED_TO_THE_END = re.compile(r"['\"].*", re.S)


def _operation(argument: object) -> str:
    function = getattr(argument, "func", argument)
    return str(getattr(function, "__name__", type(argument).__name__))


def logging_name(database: str, *, masked: bool) -> str:
    """Return the suffix that gives one database's engine and pool their own loggers.

    An unmasked database doesn't share them with a masked one of the same name, since a filter stays on its logger.
    """
    return f"prefiq.{database}" if masked else f"prefiq.{database}.unmasked"


def mask_loggers(engine: logging.Logger, pool: logging.Logger) -> None:
    """Install the filters, once per logger."""
    for logger, kind in (
        (engine, _EngineFilter),
        (pool, _PoolFilter),
        (logging.getLogger("aiosqlite"), _AiosqliteFilter),
        (logging.getLogger("asyncmy"), _AsyncmyFilter),
    ):
        if not any(isinstance(installed, kind) for installed in logger.filters):
            logger.addFilter(kind())
