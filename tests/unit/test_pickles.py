"""Pickles that cross releases: a job queue keeps them, and during a deployment old and new processes share them."""

from __future__ import annotations

import base64
import copy
import pickle
import pickletools

from sqlalchemy import exc

from prefiq_db import Database, DatabaseSettings
from prefiq_db.errors import ErrorKind, StatementSyntaxError

# Written by an earlier release, whose modules had other names: an error of the engine, and settings.
_OLD_ERROR = """
gASV1wEAAAAAAACMF3ByZWZpcV9kYi5kaWFsZWN0cy5ib3RolIwIX3JlYnVpbGSUk5QojBBwcmVmaXFfZGIuZXJyb3JzlIwUU3RhdGVtZW50U3
ludGF4RXJyb3KUk5SMDnNxbGFsY2hlbXkuZXhjlIwQT3BlcmF0aW9uYWxFcnJvcpSTlIxaZGF0YWJhc2UgJ21haW4nOiB0aGUgc3RhdGVtZW50
IGlzIG5vdCB2YWxpZCBTUUwgaGVyZSAoY29kZSAxKTogc2VlIC5vcmlnaW5hbCBmb3IgdGhlIHBsYWNllIWUfZQojAlzdGF0ZW1lbnSUjAdzZW
xlYyA/lIwHaXNtdWx0aZSJjA9oaWRlX3BhcmFtZXRlcnOUiIwWY29ubmVjdGlvbl9pbnZhbGlkYXRlZJSJjAZkZXRhaWyUXZSMDmNsYXNzaWZp
Y2F0aW9ulGgDjApFcnJvckNsYXNzlJOUKYGUXZQoaAOMCUVycm9yS2luZJSTlIwGc3ludGF4lIWUUpSJiYmJZWKMBGtpbmSUaByMBGNvZGWUSw
GMCGRhdGFiYXNllIwEbWFpbpSMCmNvbnN0cmFpbnSUTowFdGFibGWUTowGY29sdW1ulE6MCHN1Yl9raW5klE51dJRSlC4=
"""
_OLD_SETTINGS = """
gASVjQMAAAAAAACMG3ByZWZpcV9kYi5zZXR0aW5ncy5kYXRhYmFzZZSMEERhdGFiYXNlU2V0dGluZ3OUk5QpgZR9lCiMCF9fZGljdF9flH2UKI
wGZW5naW5llIwGc3FsaXRllIwEbW9kZZSMBHN5bmOUjAN1cmyUjBFwcmVmaXFfZGIubWFza2luZ5SMD19waWNrbGVkX3NlY3JldJSTlClSlIwE
aG9zdJROjARwb3J0lE6MBHVzZXKUTowIcGFzc3dvcmSUTowEbmFtZZROjAhyZXBsaWNhc5QpjAlwb29sX3NpemWUSwWMDG1heF9vdmVyZmxvd5
RLBYwUcG9vbF90aW1lb3V0X3NlY29uZHOUR0AUAAAAAAAAjBRwb29sX21heF9hZ2Vfc2Vjb25kc5RHQJwgAAAAAACMF3BpbmdfYWZ0ZXJfaWRs
ZV9zZWNvbmRzlEdAPgAAAAAAAIwXY29ubmVjdF90aW1lb3V0X3NlY29uZHOUR0AUAAAAAAAAjBlzdGF0ZW1lbnRfdGltZW91dF9zZWNvbmRzlE
dAPgAAAAAAAIwUbG9ja190aW1lb3V0X3NlY29uZHOUR0AkAAAAAAAAjAVyZXRyeZSMEHByZWZpcV9kYi5jb25maWeUjAtSZXRyeVBvbGljeZST
lCmBlF2UKEsERz+pmZmZmZmaR0AAAAAAAAAAR0AuAAAAAAAAZWKMDHJldHJ5X2J1ZGdldJRLZIwSc2xvd19xdWVyeV9zZWNvbmRzlEc/4AAAAA
AAAIwUZXhwbGFpbl9zbG93X3F1ZXJpZXOUiYwMc3FsX2NvbW1lbnRzlImMEmxlYWtfYWZ0ZXJfc2Vjb25kc5RHQE4AAAAAAACMCHNzbF9tb2Rl
lIwGcHJlZmVylIwGc3NsX2NhlE6MCHNzbF9jZXJ0lE6MB3NzbF9rZXmUTowYYWxsb3dfY2xlYXJ0ZXh0X3Bhc3N3b3JklImMCXJlYWRfb25seZ
SJjARtYXNrlIiMCXBnYm91bmNlcpSJjBBhcHBsaWNhdGlvbl9uYW1llIwJcHJlZmlxX2RilIwLZW52aXJvbm1lbnSUjApwcm9kdWN0aW9ulHWM
El9fcHlkYW50aWNfZXh0cmFfX5ROjBdfX3B5ZGFudGljX2ZpZWxkc19zZXRfX5SPlChoC5CMFF9fcHlkYW50aWNfcHJpdmF0ZV9flH2UjAdfZm
xhdm9ylIwAlHN1Yi4=
"""


class OwnSettings(DatabaseSettings):
    extra: int = 3


def _syntax_error() -> BaseException:
    with Database("sqlite://") as db, db.engine.connect() as connection:
        try:
            connection.exec_driver_sql("selec 1")
        except StatementSyntaxError as error:
            return error
    raise AssertionError("expected an error")


def _names(pickled: bytes) -> set[str]:
    """Return the texts of a pickle; the names of modules are among them."""
    return {value for _, value, _ in pickletools.genops(pickled) if isinstance(value, str)}


def test_pickles_of_earlier_releases_are_read() -> None:
    error = pickle.loads(base64.b64decode(_OLD_ERROR))
    assert isinstance(error, StatementSyntaxError)
    assert isinstance(error, exc.OperationalError)
    assert (error.kind, error.code, error.database) == (ErrorKind.SYNTAX, 1, "main")
    settings = pickle.loads(base64.b64decode(_OLD_SETTINGS))
    assert type(settings) is DatabaseSettings
    assert (settings.engine, settings.pool_size) == ("sqlite", 5)


def test_an_error_names_the_place_that_earlier_releases_know() -> None:
    pickled = pickle.dumps(_syntax_error())
    assert {"prefiq_db.dialects.both", "_rebuild"} < _names(pickled)
    assert not any(name.startswith("prefiq_db.translation") for name in _names(pickled))
    assert isinstance(pickle.loads(pickled), StatementSyntaxError)


def test_settings_name_the_package_and_not_its_files() -> None:
    settings = DatabaseSettings(name="app.db", pool_size=7)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.dumps(settings, protocol)
        modules = {name.split(" ")[0] for name in _names(pickled)}
        assert {name for name in modules if name.startswith("prefiq_db.settings")} == {"prefiq_db.settings"}
        loaded = pickle.loads(pickled)
        assert (type(loaded), loaded.pool_size, loaded.target) == (DatabaseSettings, 7, settings.target)
    own = pickle.loads(pickle.dumps(OwnSettings(url="sqlite://", extra=4)))
    assert (type(own), own.extra) == (OwnSettings, 4)
    assert copy.deepcopy(settings) == copy.copy(settings) == settings
