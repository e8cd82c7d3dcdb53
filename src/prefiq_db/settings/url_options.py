"""The options that a URL may carry. One without effect is refused, because its author relies on it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from prefiq_db.config import SESSION_ATTRS, SHARED_SESSION_ATTRS, Target
from prefiq_db.errors import Problem
from prefiq_db.settings.problems import Names, show_key
from prefiq_db.settings.tls_options import lift_tls

# libpq's connection parameters (PQconndefaults of version 18), except those that the URL's own parts and our settings
# cover.
_LIBPQ: Final = frozenset(
    """channel_binding client_encoding fallback_application_name gssdelegation gssencmode gsslib hostaddr keepalives
    keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts max_protocol_version
    min_protocol_version oauth_client_id oauth_client_secret oauth_issuer oauth_scope passfile replication require_auth
    requirepeer scram_client_key scram_server_key service ssl_max_protocol_version ssl_min_protocol_version sslcertmode
    sslcompression sslcrl sslcrldir sslkeylogfile sslnegotiation sslpassword sslsni target_session_attrs
    tcp_user_timeout""".split()  # noqa: SIM905 - a block of words reads better
)
_TLS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_OURS: Final = {"connect_timeout": "connect_timeout_seconds", "application_name": "application_name"}


# What PyMongo takes in a URL, except what the URL's own parts and our settings cover; names in any case.
_MONGODB: Final = {
    name.lower(): name
    for name in """authMechanism authMechanismProperties authSource compressors directConnection heartbeatFrequencyMS
    journal loadBalanced localThresholdMS maxConnecting maxStalenessSeconds readConcernLevel readPreference
    readPreferenceTags replicaSet retryWrites serverMonitoringMode srvMaxHosts srvServiceName uuidRepresentation w
    wtimeoutMS zlibCompressionLevel""".split()  # noqa: SIM905 - likewise
}
_OF_SETTINGS: Final = {
    "appname": "application_name",
    "connecttimeoutms": "connect_timeout_seconds",
    "maxidletimems": "pool_max_age_seconds",
    "maxpoolsize": "pool_size",
    "minpoolsize": "pool_size",
    "retryreads": "retry",
    "serverselectiontimeoutms": "connect_timeout_seconds",
    "sockettimeoutms": "statement_timeout_seconds",
    "ssl": "ssl_mode",
    "timeoutms": "statement_timeout_seconds",
    "tls": "ssl_mode",
    "tlsallowinvalidcertificates": "ssl_mode",
    "tlsallowinvalidhostnames": "ssl_mode",
    "tlscafile": "ssl_ca",
    "tlscertificatekeyfile": "ssl_cert",
    "tlsinsecure": "ssl_mode",
    "waitqueuetimeoutms": "pool_timeout_seconds",
}


def find_option_problems(target: Target, where: str, names: Names) -> Iterator[Problem]:
    """Yield a problem for each option of the URL *where* that would have no effect: by its name, never by its value."""
    rest, lifted = lift_tls(target)
    options = [*rest.options, *rest.secret_options]
    if target.product.url_options == "none":
        options += lifted
    for key in options:
        found = _judge_option(target, key, names)
        if found is not None:
            yield Problem(f"{where} ({show_key(key)})", *found)


def _judge_option(target: Target, key: str, names: Names) -> tuple[str, str] | None:
    """Return what is expected and how to fix it, or ``None`` for an option that has an effect."""
    match target.product.url_options:
        case "none":
            fix = "remove it; to read only, use the setting read_only, or transaction(read_only=True)"
            return "no options, since SQLite's URL takes none", fix
        case "session_attrs":
            return _judge_mariadb_option(target, key)
        case "libpq":
            return _judge_libpq_option(key, names)
        case "documents":
            return _judge_mongodb_option(target, key, names)


def _judge_mariadb_option(target: Target, key: str) -> tuple[str, str] | None:
    if key != SESSION_ATTRS:
        return (
            "one of ssl_mode, ssl_ca, ssl_cert, ssl_key, target_session_attrs",
            "remove it; text is utf8mb4, and timeouts have settings of their own",
        )
    if target.options[key] in SHARED_SESSION_ATTRS:
        return None
    return f"one of {', '.join(SHARED_SESSION_ATTRS)}", "leave it out for a list of hosts of which one takes writes"


def _judge_libpq_option(key: str, names: Names) -> tuple[str, str] | None:
    if key in _LIBPQ:
        return None
    if key in _OURS:
        return "no option that a setting says", f"set {names(_OURS[key])} instead"
    if key == "options":
        return "no options of the session, since prefiq_db sets them", "use the settings, or ALTER ROLE ... SET"
    if key == "dbname":
        return "no second name of the database", "write it after the host: postgres://host/name"
    close = difflib.get_close_matches(key, [*_TLS, *_OURS, *_LIBPQ], 1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "remove it."
    return "a connection parameter of libpq", f"{hint} Accepted are {', '.join(_TLS)} and libpq's others"


def _judge_mongodb_option(target: Target, key: str, names: Names) -> tuple[str, str] | None:
    small = key.lower()
    if small == "w" and target.options.get(key, "").strip() == "0":
        return "writes that the server acknowledges", "write w=majority or a number of at least 1, or leave it out"
    if small in _MONGODB:
        return None
    if small in _OF_SETTINGS:
        return "no option that a setting says", f"set {names(_OF_SETTINGS[small])} instead"
    close = difflib.get_close_matches(small, [*_MONGODB], 1, cutoff=0.6)
    hint = f"did you mean {_MONGODB[close[0]]}?" if close else "remove it."
    return "an option of MongoDB's connection string", f"{hint} Accepted are {', '.join(_MONGODB.values())}"
