"""Keep values out of the log records of other libraries.

SQLAlchemy logs rows at DEBUG and literals at INFO despite ``hide_parameters``; aiosqlite logs statements with their
parameters at DEBUG; asyncmy logs the server's warnings at WARNING, with the value in question; PyMongo logs commands
and replies at DEBUG. We install filters only: no handler, no level, no formatter.
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


class _PymongoFilter(logging.Filter):
    """For the loggers of PyMongo: keep names, numbers and durations, drop commands, replies and the servers' texts."""

    def filter(self, record: logging.LogRecord) -> bool:
        fields = getattr(record.msg, "_kwargs", None)
        if isinstance(fields, dict):
            kept = {name: _shown(value) for name, value in fields.items() if name in _PYMONGO_FIELDS}
            record.msg, record.args = ", ".join(f"{name}={value}" for name, value in kept.items()), None
        if record.exc_info is not None and record.exc_info[0] is not None:
            record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
            record.exc_info = None
        return True


# What a record of PyMongo may tell; everything else is a document, or a text that may quote one.
_PYMONGO_FIELDS = frozenset(
    """message clientId commandName databaseName requestId operationId driverConnectionId serverConnectionId serverHost
    serverPort durationMS reason operation topologyId awaited attempt remainingTimeMS""".split()  # noqa: SIM905
)


def _shown(value: object) -> str:
    return str(getattr(value, "value", value))


def mask_pymongo_loggers() -> None:
    """Install the filters on PyMongo's loggers, once."""
    for name in ("command", "connection", "serverSelection", "topology", "client"):
        logger = logging.getLogger(f"pymongo.{name}")
        if not any(isinstance(installed, _PymongoFilter) for installed in logger.filters):
            logger.addFilter(_PymongoFilter())


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
