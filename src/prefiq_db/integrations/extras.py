"""The error for a missing package that an extra installs."""

from __future__ import annotations

from prefiq_db.errors import MissingExtraError


def missing_extra(module: str, package: str, extra: str) -> MissingExtraError:
    """Return the error that our *module* raises at import if *package* isn't installed."""
    return MissingExtraError(
        f"{module}: the package {package} is not installed; install it with: pip install 'prefiq-db[{extra}]'"
    )
