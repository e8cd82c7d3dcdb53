"""A self-signed certificate for a server on this machine."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from prefiq_db.testing.locate import ServerUnavailableError


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is its own authority, for ``localhost`` and 127.0.0.1, valid for a day.

    Attributes:
        certificate: PEM; also the client's ``ssl_ca``.
        key: PEM, readable by its owner only.
    """

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """Write ``server.crt`` and ``server.key`` into *folder*, with ``cryptography`` or else with ``openssl``."""
    made = Certificate(folder / "server.crt", folder / "server.key")
    made.key.touch(mode=0o600)
    if importlib.util.find_spec("cryptography"):
        _with_cryptography(made)
    elif openssl := shutil.which("openssl"):
        _with_openssl(openssl, made)
    else:
        raise ServerUnavailableError("TLS needs a certificate: pip install cryptography, or apt-get install openssl")
    return made


def _with_cryptography(made: Certificate) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _with_openssl(openssl: str, made: Certificate) -> None:
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(made.key), "-out", str(made.certificate)),
        ],
        capture_output=True,
        check=True,
    )
