"""One ``db`` for Python services: SQLite, PostgreSQL and MariaDB, sync and async, on SQLAlchemy Core."""

from prefiq_db.application import Application
from prefiq_db.bootstrap import bootstrap, bootstrap_async
from prefiq_db.config import RetryPolicy
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError
from prefiq_db.faces.transaction_async import AsyncTransaction
from prefiq_db.faces.transaction_sync import Transaction
from prefiq_db.health import is_healthy, is_healthy_async
from prefiq_db.providers import BaseProvider, DatabaseProvider, SettingsProvider, register_provider
from prefiq_db.reports import ExecuteResult, HealthReport
from prefiq_db.retry import with_retry, with_retry_async
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.classify import classify_error

__all__ = [
    "Application",
    "AsyncDatabase",
    "AsyncTransaction",
    "BaseProvider",
    "Database",
    "DatabaseProvider",
    "DatabaseSettings",
    "ErrorClass",
    "ErrorKind",
    "ExecuteResult",
    "HealthReport",
    "PrefiqDbError",
    "RetryPolicy",
    "SettingsProvider",
    "Transaction",
    "bootstrap",
    "bootstrap_async",
    "classify_error",
    "is_healthy",
    "is_healthy_async",
    "register_provider",
    "with_retry",
    "with_retry_async",
]
