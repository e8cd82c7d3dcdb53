"""The TLS context for MariaDB's drivers, from the settings; libpq has its own."""

from __future__ import annotations

import os
import ssl
from typing import Any

from prefiq_db.settings import DatabaseSettings


def file_path(path: Any) -> str | None:
    return None if path is None else os.fspath(path)


def ssl_context(settings: DatabaseSettings) -> ssl.SSLContext | None:
    """Return the TLS context for MariaDB's drivers; ``None`` for ``disable``.

    ``prefer`` and ``require`` encrypt without verifying, as libpq does; ``verify-ca`` checks the chain,
    ``verify-full`` the host's name as well.
    """
    if settings.ssl_mode == "disable":
        return None
    if settings.ssl_mode in ("prefer", "require"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=file_path(settings.ssl_ca))
        context.check_hostname = settings.ssl_mode == "verify-full"
    if settings.ssl_cert is not None:
        context.load_cert_chain(os.fspath(settings.ssl_cert), file_path(settings.ssl_key))
    return context
