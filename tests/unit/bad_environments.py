"""A table of bad environments: name -> (environment, the variables that the message must name).

Each must end in one ``SettingsError`` (and ``python -m prefiq_db.bootstrap`` in exit status 2). Values that could be
told apart from ordinary words carry ``CANARY``: no message may show one.
"""

from __future__ import annotations

from typing import Final

CANARY: Final = "c4n4ry"
_C = CANARY

BAD_ENVIRONMENTS: Final[dict[str, tuple[dict[str, str], list[str]]]] = {
    # --- one field ---
    "engine unknown": ({"DB_ENGINE": _C}, ["DB_ENGINE"]),
    "engine oracle": ({"DB_ENGINE": "oracle"}, ["DB_ENGINE"]),
    "mode unknown": ({"DB_MODE": _C}, ["DB_MODE"]),
    "port in words": ({"DB_HOST": "h", "DB_PORT": _C}, ["DB_PORT"]),
    "port zero": ({"DB_HOST": "h", "DB_PORT": "0"}, ["DB_PORT"]),
    "port too high": ({"DB_HOST": "h", "DB_PORT": "65536"}, ["DB_PORT"]),
    "port of a Kubernetes service link": ({"DB_PORT": f"tcp://{_C}:5432"}, ["DB_PORT"]),
    "host with a blank": ({"DB_HOST": f"{_C} h"}, ["DB_HOST"]),
    "host with a user": ({"DB_HOST": f"{_C}@h"}, ["DB_HOST"]),
    "host is a URL": ({"DB_HOST": f"postgres://{_C}/x"}, ["DB_HOST"]),
    "host list with a hole": ({"DB_HOST": f"{_C},,h"}, ["DB_HOST"]),
    "host with a bad port": ({"DB_HOST": f"{_C}:99999"}, ["DB_HOST"]),
    "pool size zero": ({"DB_POOL_SIZE": "0"}, ["DB_POOL_SIZE"]),
    "pool size in words": ({"DB_POOL_SIZE": _C}, ["DB_POOL_SIZE"]),
    "pool size broken": ({"DB_POOL_SIZE": "2.5"}, ["DB_POOL_SIZE"]),
    "overflow negative": ({"DB_MAX_OVERFLOW": "-1"}, ["DB_MAX_OVERFLOW"]),
    "pool timeout zero": ({"DB_POOL_TIMEOUT_SECONDS": "0"}, ["DB_POOL_TIMEOUT_SECONDS"]),
    "pool age infinite": ({"DB_POOL_MAX_AGE_SECONDS": "inf"}, ["DB_POOL_MAX_AGE_SECONDS"]),
    "connect timeout not a number": ({"DB_CONNECT_TIMEOUT_SECONDS": "nan"}, ["DB_CONNECT_TIMEOUT_SECONDS"]),
    "statement timeout with a unit": ({"DB_STATEMENT_TIMEOUT_SECONDS": "30s"}, ["DB_STATEMENT_TIMEOUT_SECONDS"]),
    "lock timeout negative": ({"DB_LOCK_TIMEOUT_SECONDS": "-1"}, ["DB_LOCK_TIMEOUT_SECONDS"]),
    "lock timeout beyond the servers'": ({"DB_LOCK_TIMEOUT_SECONDS": "1e12"}, ["DB_LOCK_TIMEOUT_SECONDS"]),
    "ping interval in words": ({"DB_PING_AFTER_IDLE_SECONDS": _C}, ["DB_PING_AFTER_IDLE_SECONDS"]),
    "slow threshold negative": ({"DB_SLOW_QUERY_SECONDS": "-0.5"}, ["DB_SLOW_QUERY_SECONDS"]),
    "leak threshold zero": ({"DB_LEAK_AFTER_SECONDS": "0"}, ["DB_LEAK_AFTER_SECONDS"]),
    "mask undecided": ({"DB_MASK": _C}, ["DB_MASK"]),
    "pgbouncer undecided": ({"DB_PGBOUNCER": "2"}, ["DB_PGBOUNCER"]),
    "retry attempts zero": ({"DB_RETRY__ATTEMPTS": "0"}, ["DB_RETRY__ATTEMPTS"]),
    "retry wait in words": ({"DB_RETRY__WAIT_MAX_SECONDS": _C}, ["DB_RETRY__WAIT_MAX_SECONDS"]),
    "retry as a word": ({"DB_RETRY": _C}, ["DB_RETRY"]),
    "retry with an unknown key": ({"DB_RETRY": '{"attempt": 3}'}, ["DB_RETRY.attempt"]),
    "TLS mode unknown": ({"DB_SSL_MODE": _C}, ["DB_SSL_MODE"]),
    "TLS authority missing": ({"DB_SSL_CA": f"/{_C}/ca.pem"}, ["DB_SSL_CA"]),
    "TLS certificate without key": ({"DB_SSL_CERT": __file__}, ["DB_SSL_KEY", "DB_SSL_CERT"]),
    "TLS key without certificate": ({"DB_SSL_KEY": __file__}, ["DB_SSL_KEY", "DB_SSL_CERT"]),
    "password was masked": ({"DB_HOST": "h", "DB_PASSWORD": "***"}, ["DB_PASSWORD"]),
    # --- URL ---
    "URL without scheme": ({"DB_URL": f"{_C}@h/x"}, ["DB_URL"]),
    "URL of an unknown scheme": ({"DB_URL": f"{_C}://u@h/x"}, ["DB_URL (scheme)"]),
    "URL with a foreign driver": ({"DB_URL": f"postgresql+psycopg2://u:{_C}@h/x"}, ["DB_URL (scheme)"]),
    "URL with a raw @ in the password": ({"DB_URL": f"postgres://u:{_C}@{_C}@h/x"}, ["DB_URL (password)"]),
    "URL with a raw / in the password": ({"DB_URL": f"postgres://u:{_C}/{_C}@h/x"}, ["DB_URL (password)"]),
    "URL with a raw ? in the password": ({"DB_URL": f"postgres://u:{_C}?{_C}@h/x"}, ["DB_URL (password)"]),
    "URL with a raw # in the password": ({"DB_URL": f"postgres://u:{_C}#{_C}@h/x"}, ["DB_URL (password)"]),
    "URL with a raw % in the password": ({"DB_URL": f"postgres://u:%{_C}zz%@h/x"}, ["DB_URL (password)"]),
    "URL that is not UTF-8": ({"DB_URL": f"postgres://u:{_C}%ff@h/x"}, ["DB_URL (password)"]),
    "URL with a blank": ({"DB_URL": f"postgres://u:{_C} {_C}@h/x"}, ["DB_URL"]),
    "URL without host": ({"DB_URL": f"postgres://{_C}@/x"}, ["DB_URL (host)"]),
    "URL with a bad port": ({"DB_URL": f"postgres://u@h:{_C}/x"}, ["DB_URL (port)"]),
    "URL with an empty port": ({"DB_URL": f"postgres://{_C}@h:/x"}, ["DB_URL (port)"]),
    "URL with a bare IPv6": ({"DB_URL": f"postgres://{_C}@::1/x"}, ["DB_URL (host)"]),
    "URL with hosts twice": ({"DB_URL": f"postgres://{_C}/x?host=h2"}, ["DB_URL (host)"]),
    "URL with too few ports": ({"DB_URL": f"postgres:///x?host={_C},b,c&port=1,2"}, ["DB_URL (port)"]),
    "URL with two databases": ({"DB_URL": f"postgres://h/{_C}/x"}, ["DB_URL (database)"]),
    "URL with a password but no user": ({"DB_URL": f"postgres://:{_C}@h/x"}, ["DB_URL (user)"]),
    "URL with an option twice": ({"DB_URL": f"postgres://h/x?a={_C}&a=2"}, ["DB_URL (options)"]),
    "URL with an option without value": ({"DB_URL": f"postgres://h/x?{_C}"}, ["DB_URL (options)"]),
    "URL with an unknown TLS mode": ({"DB_URL": f"postgres://h/x?sslmode={_C}"}, ["DB_URL (sslmode)"]),
    "URL with a missing TLS authority": ({"DB_URL": f"mysql://h/x?ssl-ca=/{_C}"}, ["DB_URL (ssl-ca)"]),
    "SQLite with two slashes": ({"DB_URL": f"sqlite://{_C}.db"}, ["DB_URL (path)"]),
    "SQLite without path": ({"DB_URL": "sqlite:///"}, ["DB_URL (path)"]),
    "URL by its alias": ({"DATABASE_URL": _C}, ["DATABASE_URL"]),
    "replica is no URL": ({"DB_URL": "postgres://h/x", "DB_REPLICAS": _C}, ["DB_REPLICAS[0]"]),
    "second replica is of another kind": (
        {"DB_URL": "postgres://h/x", "DB_REPLICAS": f"postgres://{_C}/x,mysql://{_C}/x"},
        ["DB_REPLICAS[1]"],
    ),
    # --- fields against each other ---
    "URL said twice": ({"DB_URL": f"postgres://{_C}/x", "DATABASE_URL": "postgres://b/x"}, ["DB_URL", "DATABASE_URL"]),
    "engine against URL": ({"DB_ENGINE": "mariadb", "DB_URL": f"postgres://{_C}/x"}, ["DB_ENGINE", "DB_URL"]),
    "host against URL": ({"DB_HOST": _C, "DB_URL": "postgres://h/x"}, ["DB_HOST", "DB_URL"]),
    "port against URL": ({"DB_PORT": "5433", "DB_URL": f"postgres://{_C}/x"}, ["DB_PORT", "DB_URL"]),
    "password against URL": ({"DB_PASSWORD": _C, "DB_URL": f"postgres://u:{_C}2@h/x"}, ["DB_PASSWORD", "DB_URL"]),
    "TLS against URL": ({"DB_SSL_MODE": "disable", "DB_URL": "postgres://h/x?sslmode=require"}, ["DB_SSL_MODE"]),
    "server fields for SQLite": ({"DB_ENGINE": "sqlite", "DB_HOST": _C, "DB_USER": _C}, ["DB_HOST", "DB_USER"]),
    "port twice": ({"DB_HOST": f"{_C}:1", "DB_PORT": "2"}, ["DB_PORT", "DB_HOST"]),
    # --- names ---
    "misspelt field": ({"DB_POOLSIZE": "5"}, ["DB_POOLSIZE", "DB_POOL_SIZE"]),
    "misspelt nested field": ({"DB_RETRY__ATEMPTS": "5"}, ["DB_RETRY__ATEMPTS", "DB_RETRY__ATTEMPTS"]),
    "unknown field": ({"DB_WEATHER": _C}, ["DB_WEATHER"]),
    "field below a plain one": ({"DB_HOST__NAME": _C}, ["DB_HOST__NAME"]),
    "environment of one database": ({"DB_ENVIRONMENT": _C}, ["DB_ENVIRONMENT", "PREFIQ_ENV"]),
    "singular for plural": ({"DATABASE__URL": f"postgres://{_C}/x"}, ["DATABASE__URL"]),
    "one underscore for two": ({"DATABASES__X_URL": f"postgres://{_C}/x"}, ["DATABASES__X_URL"]),
    "one underscore everywhere": ({"DATABASES_X_URL": f"postgres://{_C}/x"}, ["DATABASES_X_URL", "DATABASES__X__URL"]),
    "named database with a misspelt field": (
        {"DATABASES__X__URL": f"postgres://{_C}/x", "DATABASES__X__POLSIZE": "1"},
        ["DATABASES__X__POLSIZE", "DATABASES__X__POOL_SIZE"],
    ),
    "named database that is nowhere": ({"DATABASES__X__POOL_SIZE": "2"}, ["DATABASES__X__POOL_SIZE"]),
    "named database with a bad field": (
        {"DATABASES__X__URL": f"postgres://{_C}/x", "DATABASES__X__MODE": _C},
        ["DATABASES__X__MODE"],
    ),
    "main said by both its names": (
        {"DB_HOST": _C, "DATABASES__MAIN__HOST": "h"},
        ["DB_HOST", "DATABASES__MAIN__HOST"],
    ),
    # --- files and environment ---
    "secret file missing": ({"DB_PASSWORD_FILE": f"/{_C}/password"}, ["DB_PASSWORD_FILE"]),
    "URL file missing": ({"DB_URL_FILE": f"/{_C}/url"}, ["DB_URL_FILE"]),
    "secret file empty": ({"DB_PASSWORD_FILE": "/dev/null"}, ["DB_PASSWORD_FILE"]),
    "secret and its file": ({"DB_PASSWORD": _C, "DB_PASSWORD_FILE": __file__}, ["DB_PASSWORD", "DB_PASSWORD_FILE"]),
    "file for a path": ({"DB_SSL_CA_FILE": f"/{_C}"}, ["DB_SSL_CA_FILE"]),
    "environment is a path": ({"PREFIQ_ENV": f"../{_C}"}, ["PREFIQ_ENV"]),
    "settings directory missing": ({"PREFIQ_SETTINGS_DIR": f"/{_C}"}, ["PREFIQ_SETTINGS_DIR"]),
    # --- all at once ---
    "many problems": (
        {
            "DB_URL": f"postgres://u:{_C}@{_C}@h:{_C}/x",
            "DB_MODE": _C,
            "DB_POOL_SIZE": _C,
            "DB_RETRY__ATTEMPTS": _C,
            "DB_POOLSIZE": _C,
            "DATABASES__X__ENGINE": _C,
            "DB_PASSWORD_FILE": f"/{_C}",
        },
        [
            "DB_URL",
            "DB_MODE",
            "DB_POOL_SIZE",
            "DB_RETRY__ATTEMPTS",
            "DB_POOLSIZE",
            "DATABASES__X__ENGINE",
            "DB_PASSWORD_FILE",
        ],
    ),
}
