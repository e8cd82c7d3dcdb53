"""What writes of documents return, as plain dataclasses; only the ids are values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """The result of ``update()``.

    Attributes:
        matched: documents that the filter matched.
        modified: documents that were changed; one that had the new values already isn't.
        upserted_id: the ``_id`` of the document that was inserted, with ``upsert=True``; else ``None``.
    """

    matched: int
    modified: int
    upserted_id: Any = None


@dataclass(frozen=True, slots=True)
class BulkWriteCounts:
    """The result of ``bulk_write()``.

    Attributes:
        inserted, matched, modified, deleted: how many documents.
        upserted_ids: the ``_id`` of each document that an upsert inserted, by the place of its operation.
    """

    inserted: int
    matched: int
    modified: int
    deleted: int
    upserted_ids: Mapping[int, Any] = field(default_factory=dict)
