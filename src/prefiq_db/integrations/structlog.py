"""Render our log records with structlog; extra ``structlog``.

prefiq_db logs through the standard library. structlog's ``ProcessorFormatter`` renders such records too; the processor
:func:`lift_fields` adds our fields:

    structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[lift_fields, ...], processors=[...])

:func:`processor_formatter` returns such a formatter. The library configures nothing itself.
"""

from __future__ import annotations

import logging

from prefiq_db.integrations.extras import missing_extra
from prefiq_db.integrations.log_fields import structure_fields

try:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger
except ModuleNotFoundError:
    raise missing_extra(__name__, "structlog", "structlog") from None


def lift_fields(logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
    """Copy our fields from the standard library's record, if there is one; existing fields stay."""
    record = event_dict.get("_record")
    if isinstance(record, logging.LogRecord):
        for name, value in structure_fields(record).items():
            event_dict.setdefault(name, value)
    return event_dict


def processor_formatter(renderer: Processor | None = None) -> structlog.stdlib.ProcessorFormatter:
    """Return a formatter for a handler of the standard library: time, level, logger, message and our fields.

    Args:
        renderer: converts the record to text; default JSON, one object per record.
    """
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso"),
            lift_fields,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer or structlog.processors.JSONRenderer(),
        ],
    )
