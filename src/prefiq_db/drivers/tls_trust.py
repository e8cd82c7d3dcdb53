"""The machine's TLS settings: trusted authorities, and addresses that never leave the machine."""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import Final

# Where systems keep all authorities in one file: Debian and Alpine, Fedora, SUSE, RHEL, macOS and the BSDs.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_authorities() -> str | None:
    """Return the file with the authorities that the system trusts, as Python's own TLS finds it (``SSL_CERT_FILE``)."""
    return ssl.get_default_verify_paths().cafile or next(filter(os.path.exists, _BUNDLES), None)


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
