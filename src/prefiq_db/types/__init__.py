"""Column types that return exactly what was stored, on SQLite, PostgreSQL and MariaDB, and names that fit all three.

SQLAlchemy's own types suffice for text, integers, bytes and booleans. The others don't: ``DateTime(timezone=True)``
loses the offset on MariaDB and SQLite (and on MariaDB the microseconds), which makes it another instant; ``Numeric``
goes through a float on SQLite; ``JSON`` returns ``None`` for JSON's null and for SQL's; ``Enum`` differs on each.
"""

from __future__ import annotations

from prefiq_db.types.choices import StrEnum
from prefiq_db.types.decimal_arithmetic import numeric_order
from prefiq_db.types.decimals import ExactDecimal, Money
from prefiq_db.types.documents import JSON_NULL, Json
from prefiq_db.types.identifiers import Uuid
from prefiq_db.types.instants import UtcDateTime
from prefiq_db.types.naming import misfit_names, naming_convention

__all__ = [
    "JSON_NULL",
    "ExactDecimal",
    "Json",
    "Money",
    "StrEnum",
    "UtcDateTime",
    "Uuid",
    "misfit_names",
    "naming_convention",
    "numeric_order",
]

# Callers, revisions and the recorded API use this address; the modules below are an internal matter.
for _public in (ExactDecimal, Json, Money, StrEnum, UtcDateTime, Uuid, misfit_names, numeric_order):
    _public.__module__ = __name__
del _public
