"""Who is told the password: a server that asks for it where others can listen is not, on any driver."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import DatabaseSettings, ErrorKind, RetryPolicy
from prefiq_db.connectors import connector_for
from prefiq_db.drivers.challenges import challenges_only
from prefiq_db.errors import AuthenticationError, ConnectFailedError, PrefiqDbError, UnsupportedError
from prefiq_db.testing.certificates import make_certificate
from tests.conftest import Backend
from tests.twins.harness import make_database

_PASSWORD = "correct-horse-battery"
_ONCE = RetryPolicy(attempts=1)


# --- rogues: just enough of each protocol to ask for the password --------------------------------


class Rogue:
    """A server that anybody could put in the way: it asks by one method, and remembers what it is told."""

    def __init__(self, asks: Callable[[Rogue], None], tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.heard: list[bytes] = []
        self._asks = asks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self.peer, _ = self._listener.accept()
            except OSError:
                return
            self.peer.settimeout(10)
            with suppress(OSError, EOFError, ValueError):  # whoever isn't told goes away
                self._asks(self)
            self.peer.close()

    def close(self) -> None:
        with suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = self.peer.recv(count - len(found))
            if not piece:
                raise EOFError
            found += piece
        self.heard.append(found)
        return found

    @property
    def knows(self) -> bool:
        """Whether it was told the password, in clear or by its own key."""
        return any(_PASSWORD.encode() in said or _PASSWORD.encode() == _decrypted(said) for said in self.heard)


_SALT = b"abcdefghijklmnopqrst"
_KEYS: list[Any] = []


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not _KEYS:
        _KEYS.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return _KEYS[0]


def _decrypted(said: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    if len(said) != 256:
        return b""
    way = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
    plain = _key().decrypt(said, way)
    return bytes(byte ^ _SALT[at % len(_SALT)] for at, byte in enumerate(plain)).rstrip(b"\0")


# MariaDB and MySQL ------------------------------------------------------------------------------

_LONG_PASSWORD, _WITH_DB, _PROTOCOL_41, _SSL, _SECURE, _PLUGIN = 0x1, 0x8, 0x200, 0x800, 0x8000, 0x80000


class _MySql:
    def __init__(self, rogue: Rogue, plugin: bytes) -> None:
        self.rogue = rogue
        self.number = 0
        able = _LONG_PASSWORD | _WITH_DB | _PROTOCOL_41 | _SECURE | _PLUGIN | (_SSL if rogue.tls else 0)
        self.say(
            b"\x0a8.0.40\0" + struct.pack("<I", 7) + _SALT[:8] + b"\0" + struct.pack("<H", able & 0xFFFF) + b"\x2d"
            b"\x02\x00" + struct.pack("<HB", able >> 16, 21) + bytes(10) + _SALT[8:] + b"\0" + plugin + b"\0"
        )
        self.hear()
        if rogue.tls is not None:
            rogue.peer = rogue.tls.wrap_socket(rogue.peer, server_side=True)
            self.hear()

    def say(self, packet: bytes) -> None:
        self.rogue.peer.sendall(struct.pack("<I", len(packet))[:3] + bytes([self.number]) + packet)

    def hear(self) -> bytes:
        head = self.rogue.read(4)
        self.number = head[3] + 1
        return self.rogue.read(int.from_bytes(head[:3], "little"))

    def switch(self, plugin: bytes, data: bytes) -> bytes:
        self.say(b"\xfe" + plugin + b"\0" + data)
        return self.hear()


def _public_key() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key: bytes = _key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key


def _clear(rogue: Rogue) -> None:
    _MySql(rogue, b"mysql_native_password").switch(b"mysql_clear_password", b"")


def _dialog(rogue: Rogue) -> None:
    _MySql(rogue, b"mysql_native_password").switch(b"dialog", b"\x04Password: ")


def _sha256(rogue: Rogue) -> None:
    talk = _MySql(rogue, b"sha256_password")
    talk.say(b"\x01" + _public_key())
    talk.hear()


def _sha256_later(rogue: Rogue) -> None:
    talk = _MySql(rogue, b"mysql_native_password")
    talk.switch(b"sha256_password", _SALT + b"\0")
    talk.say(b"\x01" + _public_key())
    talk.hear()


def _caching_sha2(rogue: Rogue) -> None:
    talk = _MySql(rogue, b"caching_sha2_password")
    talk.say(b"\x01\x04")  # "the hash isn't enough"
    talk.hear()
    talk.say(b"\x01" + _public_key())
    talk.hear()


# PostgreSQL -------------------------------------------------------------------------------------


def _cleartext(rogue: Rogue) -> None:
    while True:
        startup = rogue.read(int.from_bytes(rogue.read(4)) - 4)
        if startup[:4] not in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):  # SSL? GSS?
            break
        rogue.peer.sendall(b"N")
    rogue.peer.sendall(b"R" + struct.pack(">II", 8, 3))
    rogue.read(1)
    rogue.read(int.from_bytes(rogue.read(4)) - 4)


_ROGUES = [
    pytest.param("postgresql", _cleartext, id="postgresql-password", marks=pytest.mark.postgresql),
    *(
        pytest.param("mariadb", asks, id=f"mariadb-{name}", marks=pytest.mark.mariadb)
        for name, asks in {
            "mysql_clear_password": _clear,
            "dialog": _dialog,
            "sha256_password": _sha256,
            "sha256_password-later": _sha256_later,
            "caching_sha2_password": _caching_sha2,
        }.items()
    ),
]


@pytest.fixture
def make_rogue() -> Iterator[Callable[..., Rogue]]:
    made: list[Rogue] = []

    def make(asks: Callable[[Rogue], None], tls: ssl.SSLContext | None = None) -> Rogue:
        made.append(Rogue(asks, tls))
        return made[-1]

    yield make
    for rogue in made:
        rogue.close()


async def _error_of_connecting(world: str, kind: str, rogue: Rogue, **fields: Any) -> PrefiqDbError:
    url = f"{kind}://app:{_PASSWORD}@127.0.0.1:{rogue.port}/shop"
    db = make_database(world, url, retry=_ONCE, **fields)
    try:
        with pytest.raises(PrefiqDbError) as caught:
            await db.open()
    finally:
        await db.close()
    return caught.value


@pytest.mark.parametrize("mode", ["prefer", "disable"])
@pytest.mark.parametrize(("kind", "asks"), _ROGUES)
async def test_who_asks_for_the_password_is_not_told(
    world: str, kind: str, asks: Callable[[Rogue], None], mode: str, make_rogue: Callable[..., Rogue]
) -> None:
    """Over TCP without TLS only challenges are answered: one error, on every driver, and it says what to do."""
    rogue = make_rogue(asks)
    error = await _error_of_connecting(world, kind, rogue, ssl_mode=mode)
    rogue.close()
    assert rogue.heard
    assert not rogue.knows
    assert type(error) is AuthenticationError
    assert error.kind is ErrorKind.AUTHENTICATION
    assert not error.is_transient
    assert "asks for the password itself" in str(error)
    assert "allow_cleartext_password" in str(error)


@pytest.mark.parametrize(("kind", "asks"), _ROGUES)
async def test_control_a_setting_lets_the_password_out(
    world: str, kind: str, asks: Callable[[Rogue], None], make_rogue: Callable[..., Rogue]
) -> None:
    """With ``allow_cleartext_password`` each of these servers gets it: they ask well enough."""
    rogue = make_rogue(asks)
    error = await _error_of_connecting(world, kind, rogue, ssl_mode="prefer", allow_cleartext_password=True)
    rogue.close()
    assert rogue.knows
    assert isinstance(error, ConnectFailedError)  # the rogue hangs up when it knows


@pytest.mark.mariadb
@pytest.mark.parametrize("asks", [_clear, _dialog, _caching_sha2])
async def test_under_tls_the_password_may_be_asked_for(
    world: str, asks: Callable[[Rogue], None], make_rogue: Callable[..., Rogue], tmp_path: Path
) -> None:
    """LDAP and PAM need it: nobody can listen, and who answers is what ``verify-full`` is for."""
    made = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    rogue = make_rogue(asks, context)
    await _error_of_connecting(world, "mariadb", rogue, ssl_mode="verify-full", ssl_ca=str(made.certificate))
    rogue.close()
    assert rogue.knows


# --- what is said about it -----------------------------------------------------------------------


async def test_prefer_says_once_that_it_fell_back(
    world: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for a database, whatever its pool opens, with the place and nothing secret; ``disable`` says nothing."""
    caplog.set_level(logging.INFO, "prefiq_db.connectors")
    for mode in ("prefer", "disable"):
        db = make_database(world, backend.url, ssl_mode=mode, pool_size=3)
        await db.open()
        await db.close()
    said = [record for record in caplog.records if record.name == "prefiq_db.connectors"]
    if backend.server is None:
        assert not said
        return
    assert len(said) == 1
    assert said[0].levelno == logging.INFO  # to a server on this machine nobody listens
    assert f"127.0.0.1:{backend.server.port} offers no TLS" in said[0].getMessage()


def test_a_fallback_on_a_network_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The level depends on whether anybody can listen."""
    settings = DatabaseSettings.from_url("postgres://app@db.internal/shop")
    connector = connector_for(settings, settings.target, False)
    connector.tell_what_is_in_clear(settings.target.hosts[0], False)  # type: ignore[attr-defined]
    connector.tell_what_is_in_clear(settings.target.hosts[0], False)  # type: ignore[attr-defined]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_old_libpq_is_refused_where_it_could_tell_the_password() -> None:
    """What can't be told to keep it is no reason to send it; the user's own list of methods is his."""
    assert challenges_only(None, 160_000, has_password=True) == "!password"
    assert challenges_only("!md5", 160_000, has_password=True) == "!password,!md5"
    assert challenges_only("scram-sha-256", 160_000, has_password=True) == "scram-sha-256"
    assert challenges_only(None, 150_012, has_password=False) is None
    with pytest.raises(UnsupportedError, match="libpq 15 sends the password"):
        challenges_only(None, 150_012, has_password=True)
