"""TLS options in a URL, under the names that drivers use."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefiq_db.config import Target

_LIBPQ_NAMES: Final = {"sslmode": "ssl_mode", "sslrootcert": "ssl_ca", "sslcert": "ssl_cert", "sslkey": "ssl_key"}
_FIELDS: Final = frozenset(_LIBPQ_NAMES.values())


def lift_tls(target: Target) -> tuple[Target, dict[str, str]]:
    """Return *target* without the TLS options of its URL, and those options: name in the URL -> our field."""
    spelled = {key: key.lower().replace("-", "_") for key in target.options}
    fields = {key: _LIBPQ_NAMES.get(name, name) for key, name in spelled.items()}
    lifted = {key: field for key, field in fields.items() if field in _FIELDS}
    rest = {key: value for key, value in target.options.items() if key not in lifted}
    return replace(target, options=rest), lifted
