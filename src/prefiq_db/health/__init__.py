"""Health of databases: a yes or no, or a cached check that many callers may call often."""

from prefiq_db.health.check import AsyncHealthCheck, HealthCheck
from prefiq_db.health.questions import is_healthy, is_healthy_async
from prefiq_db.health.verdicts import Finding, Health, Status, Verdict

__all__ = [
    "AsyncHealthCheck",
    "Finding",
    "Health",
    "HealthCheck",
    "Status",
    "Verdict",
    "is_healthy",
    "is_healthy_async",
]
