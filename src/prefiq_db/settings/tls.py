"""TLS options that stand in a URL, where the drivers' own names are understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from prefiq_db.config import Target
from prefiq_db.settings.values import check_file, check_ssl_mode

_SSL_IN_URL: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "sslmode": ("ssl_mode", check_ssl_mode),
    "ssl_mode": ("ssl_mode", check_ssl_mode),
    "sslrootcert": ("ssl_ca", check_file),
    "ssl_ca": ("ssl_ca", check_file),
    "sslcert": ("ssl_cert", check_file),
    "ssl_cert": ("ssl_cert", check_file),
    "sslkey": ("ssl_key", check_file),
    "ssl_key": ("ssl_key", check_file),
}


def lift_tls(target: Target) -> tuple[Target, dict[str, tuple[str, Callable[[object], object], str]]]:
    """Return *target* without the TLS options of its URL, and those: option -> (our field, its check, text)."""
    spelled = {key: _SSL_IN_URL.get(key.lower().replace("-", "_")) for key in target.options}
    lifted = {key: (*found, target.options[key]) for key, found in spelled.items() if found is not None}
    rest = {key: value for key, value in target.options.items() if key not in lifted}
    return replace(target, options=rest), lifted
