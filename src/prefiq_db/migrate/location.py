"""Where the revisions are."""

from __future__ import annotations

from pathlib import Path

from prefiq_db.errors import UsageError


def migrations_directory() -> Path:
    """Return the directory of the shipped migrations: beside ``src`` in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_migrations", package.parent.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise UsageError("prefiq_db's migrations are missing from this installation: install the wheel or use a checkout")
