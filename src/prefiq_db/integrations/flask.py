"""The endpoints in a Flask application."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request

from prefiq_db.integrations.sources import Source
from prefiq_db.integrations.wsgi import HealthApp


def mount_health(app: Flask, source: Source, **options: Any) -> HealthApp:
    """Add the endpoints to *app*; *source* and *options* are those of the WSGI application."""
    health = HealthApp(source, **options)

    def answer() -> Any:
        return Response.from_app(health, request.environ)

    for path in health.paths:
        app.add_url_rule(path, f"prefiq_db{path}", answer, methods=["GET", "HEAD"])
    return health
