"""The arguments of PyMongo's client, from the settings."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import quote

from prefiq_db.config import Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.settings import DatabaseSettings

_MOST_BYTES_OF_A_NAME: Final = 128  # the server refuses a longer application name


def client_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the arguments for ``MongoClient`` or ``AsyncMongoClient``; the password is among them.

    Raises:
        SettingsError: TLS's certificate and key are in two files; PyMongo takes one.
    """
    target = settings.target
    said = {name.lower() for name in target.options}
    options: dict[str, Any] = {
        "host": _uri(target),
        "connect": False,
        "appname": settings.application_name.encode()[:_MOST_BYTES_OF_A_NAME].decode(errors="ignore"),
        "maxPoolSize": settings.pool_size + settings.max_overflow,
        "maxIdleTimeMS": _milliseconds(settings.pool_max_age_seconds),
        "waitQueueTimeoutMS": _milliseconds(settings.pool_timeout_seconds),
        "connectTimeoutMS": _milliseconds(settings.connect_timeout_seconds),
        "serverSelectionTimeoutMS": _milliseconds(settings.connect_timeout_seconds),
        # For whoever uses the client itself; our verbs bound each call by pymongo.timeout().
        "socketTimeoutMS": _milliseconds(settings.statement_timeout_seconds),
        # Reads are repeated by our policy and budget; see docs/decisions/0141-who-retries-on-mongodb.md.
        "retryReads": False,
        "tz_aware": True,
        **_tls_options(settings),
    }
    if "uuidrepresentation" not in said:
        options["uuidRepresentation"] = "standard"
    if "w" not in said:
        options["w"] = "majority"  # or a failover may undo a write that was acknowledged
    if target.user is not None:
        options["username"] = target.user
        options["password"] = None if target.password is None else target.password.reveal()
        if "authsource" not in said:
            options["authSource"] = _auth_source(settings)
    return options


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _auth_source(settings: DatabaseSettings) -> str:
    """Return the database that keeps the users: that of the URL, as MongoDB's URLs say it, or else ``admin``."""
    in_url = settings.url is not None and settings.name is None
    return settings.target.database if in_url and settings.target.database else "admin"


def _uri(target: Target) -> str:
    """Return the URL without user and password: hosts and options."""
    hosts = ",".join(_format_host(host, target) for host in target.hosts)
    options = {**target.options, **{name: secret.reveal() for name, secret in target.secret_options.items()}}
    # Their values are written as MongoDB's connection strings have them: lists with commas, pairs with colons.
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe=',:')}" for name, value in options.items())
    return f"mongodb{'+srv' if target.is_srv else ''}://{hosts}/{'?' + query if query else ''}"


def _format_host(host: Host, target: Target) -> str:
    if host.is_path:
        return quote(host.host, safe="")
    return host.host if target.is_srv else str(host)


def _tls_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the options for TLS. ``prefer`` leaves it to the kind of URL: MongoDB can't negotiate it on a connection.

    See docs/decisions/0143-what-does-prefer-mean-on-mongodb.md.
    """
    if settings.ssl_mode == "disable":
        return {"tls": False}
    if settings.ssl_mode == "prefer":
        return {}
    options: dict[str, Any] = {"tls": True}
    if settings.ssl_mode == "require":
        options["tlsAllowInvalidCertificates"] = True
    else:
        options["tlsAllowInvalidHostnames"] = settings.ssl_mode == "verify-ca"
        if settings.ssl_ca is not None:
            options["tlsCAFile"] = os.fspath(settings.ssl_ca)
    if settings.ssl_cert is not None:
        if settings.ssl_key is None or os.fspath(settings.ssl_key) != os.fspath(settings.ssl_cert):
            raise SettingsError(
                [
                    Problem(
                        "ssl_key",
                        "the same file as ssl_cert, since MongoDB's driver reads both from one",
                        "write the certificate and its key into one file, and name it in both",
                    )
                ]
            )
        options["tlsCertificateKeyFile"] = os.fspath(settings.ssl_cert)
    return options
