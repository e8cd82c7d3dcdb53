"""The structured fields of our log records, and how to extract them."""

from __future__ import annotations

import logging
from typing import Final

from prefiq_db.masking import describe_value

FIELDS: Final = (
    "database",
    "summary",
    "fingerprint",
    "duration_seconds",
    "wait_seconds",
    "rows",
    "query_bytes",
    "retries",
    "transaction_id",
    "source",
    "error_kind",
    "error_type",
    "age_seconds",
    "worker",
    "held_back",
    "tags",
)

Field = str | int | float | bool | None


def structure_fields(record: logging.LogRecord, further: tuple[str, ...] = ()) -> dict[str, Field]:
    """Return our fields of *record*; values other than text and numbers are shown by type and length only."""
    found = vars(record)
    return {name: _make_plain(found[name]) for name in (*FIELDS, *further) if name in found}


def _make_plain(value: object) -> Field:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value) if isinstance(value, str) else describe_value(value)
