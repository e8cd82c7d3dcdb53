"""The data of the page, as JSON: counters, kinds and lines of code, never values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prefiq_db.health import Health
from prefiq_db.integrations.health_json import health_json
from prefiq_db.integrations.sources import AnyDatabase
from prefiq_db.masking import mask_literals
from prefiq_db.reports import DatabaseStats, HistogramStats, PoolStats


def collect_page_data(databases: Sequence[AnyDatabase], health: Health) -> dict[str, Any]:
    """Return the state of all *databases* now; *health* is the result of the health check."""
    by_name = {finding.subject: finding for finding in health.findings}
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "health": health_json(health),
        "databases": [
            {
                "name": database.name,
                "engine": database.settings.engine,
                "mode": "async" if database.is_async else "sync",
                "status": by_name[database.name].status.value,
                "reason": by_name[database.name].reason,
                "latency_seconds": by_name[database.name].latency_seconds,
                "slow_query_seconds": database.settings.slow_query_seconds,
                **_stats(database.stats()),
            }
            for database in databases
        ],
    }


def _stats(stats: DatabaseStats) -> dict[str, Any]:
    return {
        "pool": _pool(stats.pool),
        "statement_count": stats.statement_count,
        "error_count": stats.error_count,
        "retry_count": stats.retry_count,
        "hook_error_count": stats.hook_error_count,
        "leak_count": stats.leak_count,
        "slow_count": stats.slow_count,
        "errors": _by_kind(stats.errors),
        "retries": _by_kind(stats.retries),
        "latency": _histogram(merge(stats.durations.values())),
        # Masked when they were recorded; masked again here, for a database created with mask=False.
        "statements": [asdict(each) | {"statement": mask_literals(each.statement)} for each in stats.statements],
        "replicas": [
            {
                "name": each.name,
                "role": each.role,
                "in_rotation": each.in_rotation,
                "reason": each.reason,
                "lag_seconds": each.lag_seconds,
                "pool": _pool(each.pool),
            }
            for each in stats.replicas
        ],
        "replica_fallback_count": stats.replica_fallback_count,
        "holders": [asdict(each) for each in stats.holders],
    }


def _pool(pool: PoolStats) -> dict[str, Any]:
    return {
        "size": pool.size,
        "max_overflow": pool.max_overflow,
        "checked_out": pool.checked_out,
        "idle": pool.idle,
        "pending": pool.pending,
        "timeout_count": pool.timeout_count,
        "opened_count": pool.opened_count,
        "lost": dict(pool.lost),
        "wait": _histogram(pool.wait),
        "use": _histogram(pool.use),
        "create": _histogram(pool.create),
    }


def merge(histograms: Iterable[HistogramStats]) -> HistogramStats:
    """Return the sum of all histograms; those whose bounds differ from the first one's are left out."""
    first, *others = list(histograms) or [HistogramStats()]
    same = [first, *(each for each in others if each.bounds == first.bounds)]
    return HistogramStats(
        first.bounds,
        tuple(map(sum, zip(*(each.counts for each in same), strict=True))),
        sum(each.total_seconds for each in same),
        max(each.max_seconds for each in same),
    )


def _histogram(found: HistogramStats) -> dict[str, Any]:
    return {
        "bounds": list(found.bounds),
        "counts": list(found.counts),
        "count": found.count,
        "mean_seconds": found.mean_seconds,
        "p50_seconds": found.quantile_seconds(0.5),
        "p95_seconds": found.quantile_seconds(0.95),
        "p99_seconds": found.quantile_seconds(0.99),
        "max_seconds": found.max_seconds,
    }


def _by_kind(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(kind): count for kind, count in sorted(counts.items(), key=lambda each: -each[1])}
