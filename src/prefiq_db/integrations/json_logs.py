"""A formatter for applications that write one JSON object per log record.

    handler.setFormatter(JsonFormatter())

The library configures no logging and never uses this itself. Standard library only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime

from prefiq_db.integrations.log_fields import structure_fields


class JsonFormatter(logging.Formatter):
    """Formats any library's records: time, level, logger, message, our fields, and the exception if there is one.

    Args:
        fields: names of further fields to show, which the application puts in ``extra``.

    All other fields of a record are left out: other libraries may put anything in ``extra``.
    """

    def __init__(self, *, fields: Iterable[str] = ()) -> None:
        super().__init__()
        self._further = tuple(fields)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        shown: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **structure_fields(record, self._further),
        }
        if record.exc_info and record.exc_info[0] is not None:
            shown["exception_type"] = record.exc_info[0].__qualname__
            shown["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            shown["stack"] = self.formatStack(record.stack_info)
        return json.dumps(shown, ensure_ascii=False)
