"""The error for a package that an extra would have brought."""

from __future__ import annotations

from prefiq_db.errors import MissingExtraError


def missing_extra(module: str, package: str, extra: str) -> MissingExtraError:
    """Return the error that *module* of ours raises at import when *package* isn't installed."""
    return MissingExtraError(
        f"{module}: the package {package} is not installed; install it with: pip install 'prefiq-db[{extra}]'"
    )
