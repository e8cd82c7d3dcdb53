"""One ``db`` for Python services: SQLite, PostgreSQL and MariaDB, sync and async, on SQLAlchemy Core."""

from prefiq_db.config import RetryPolicy
from prefiq_db.database import Database, Transaction
from prefiq_db.database_async import AsyncDatabase, AsyncTransaction
from prefiq_db.dialects.classify import classify_error
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError
from prefiq_db.reports import ExecuteResult, HealthReport
from prefiq_db.retry import with_retry, with_retry_async
from prefiq_db.settings import DatabaseSettings

__all__ = [
    "AsyncDatabase",
    "AsyncTransaction",
    "Database",
    "DatabaseSettings",
    "ErrorClass",
    "ErrorKind",
    "ExecuteResult",
    "HealthReport",
    "PrefiqDbError",
    "RetryPolicy",
    "Transaction",
    "classify_error",
    "with_retry",
    "with_retry_async",
]
