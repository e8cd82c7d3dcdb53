"""The endpoints in a Starlette or FastAPI application."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette

from prefiq_db.integrations.asgi import HealthApp
from prefiq_db.integrations.sources import Source


def mount_health(app: Starlette, source: Source, **options: Any) -> HealthApp:
    """Add the endpoints to *app*, also during its startup; *source* and *options* are those of the ASGI application."""
    health = HealthApp(source, **options)
    for path in health.paths:
        app.router.add_route(path, health, include_in_schema=False)  # type: ignore[arg-type]
    return health
