"""What no connection could be made for says where to and why, on every driver, and never with whom."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import PrefiqDbError
from prefiq_db.errors import AuthenticationError, ConnectFailedError
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.certificates import make_certificate
from tests.twins.harness import make_database

USER, PASSWORD = "canaryuser", "canarypassword"
SCHEMES = ("postgresql", "mariadb")


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in SCHEMES])
def scheme(request: pytest.FixtureRequest) -> str:
    """Whose driver connects; there need be no server."""
    return str(request.param)


@contextmanager
def _listening(answer: Callable[[socket.socket], None] | None) -> Iterator[int]:
    """Give a port that is taken and silent (``None``), or one where *answer* does something with each caller."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        if answer is not None:

            def serve() -> None:
                while True:
                    try:
                        caller, _ = listener.accept()
                    except OSError:
                        return
                    answer(caller)

            threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


async def _refused(world: str, url: str, *, limit: float | None = None, **fields: Any) -> PrefiqDbError:
    """Return what a verb raises, which names neither user nor password."""
    db = make_database(world, url, **{"retry": {"attempts": 1}, **fields})
    try:
        with pytest.raises(PrefiqDbError) as caught:
            await (db.using(timeout=limit) if limit else db).fetch_value("select 1")
    finally:
        await db.close()
    return _nameless(caught.value)


def _nameless(error: PrefiqDbError) -> PrefiqDbError:
    shown = f"{error} {error!r} {error.__dict__ | {'orig': None}} {pickle.dumps(error).decode('latin-1')}"
    assert USER not in shown
    assert PASSWORD not in shown
    return error


async def test_refused(world: str, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening
        place = f"127.0.0.1:{unused.getsockname()[1]}"
        url = f"{scheme}://{USER}:{PASSWORD}@{place}/shop"
        error = await _refused(world, url)
        db = make_database(world, url, retry={"attempts": 1})
        with pytest.raises(PrefiqDbError) as caught:
            async with db.session() as session:
                await session.execute(sa.text("select 1"))
        await db.close()
    of_session = _nameless(caught.value)
    for each in (error, of_session):
        assert isinstance(each, ConnectFailedError)
        assert f"at {place}: the connection was refused" in str(each)


async def test_a_name_that_nobody_knows(world: str, scheme: str) -> None:
    error = await _refused(world, f"{scheme}://{USER}:{PASSWORD}@no-such-host.invalid:5555/shop")
    assert isinstance(error, ConnectFailedError)
    assert "at no-such-host.invalid:5555: the host's name was not found" in str(error)


async def test_a_silent_server_and_whose_limit_it_was(world: str, scheme: str) -> None:
    """The settings' own limit, or the caller's ``timeout=``."""
    with _listening(None) as port:
        url = f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/shop"
        of_settings = await _refused(world, url, connect_timeout_seconds=0.2)
        own = await _refused(world, url, limit=0.2, connect_timeout_seconds=0.5)
    for error in (of_settings, own):
        assert isinstance(error, ConnectFailedError)
        assert f"at 127.0.0.1:{port}: no connection came about within the" in str(error)
    assert "s of connect_timeout_seconds" in str(of_settings)
    assert "s of your own timeout=" in str(own)


async def test_something_else_listens_there(world: str, scheme: str) -> None:
    with _listening(lambda caller: caller.close()) as port:
        error = await _refused(world, f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{port}/shop")
    assert isinstance(error, ConnectFailedError)
    assert f"at 127.0.0.1:{port}: the connection was taken and closed at once" in str(error)


async def test_a_socket_that_is_not_there(world: str, scheme: str) -> None:
    place = "/nowhere/of.sock"
    option = {"postgresql": "host", "mariadb": "unix_socket"}[scheme]
    error = await _refused(world, f"{scheme}://{USER}:{PASSWORD}@/shop?{option}={place}")
    assert f"at {place}: there is no socket at that path" in str(error)


async def test_several_hosts_are_all_named(world: str, scheme: str) -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
        error = await _refused(world, f"{scheme}://{USER}:{PASSWORD}@{','.join(places)}/shop")
    assert f"at {places[0]}, {places[1]}: the connection was refused" in str(error)


@pytest.mark.parametrize("kind", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in SCHEMES])
async def test_tls_and_login(kind: str, world: str, request: pytest.FixtureRequest) -> None:
    """A server that offers no TLS, and one that lets nobody of that name in."""
    server: DatabaseServer = request.getfixturevalue(f"{kind}_server")
    url = f"{kind}://{USER}:{PASSWORD}@{server.host}:{server.port}/shop"
    error = await _refused(world, url)
    assert isinstance(error, AuthenticationError)
    assert f"at {server.host}:{server.port}: the server refused user or password" in str(error)
    error = await _refused(world, url, ssl_mode="require")
    assert isinstance(error, ConnectFailedError)
    assert f"at {server.host}:{server.port}: TLS failed, for the server does not offer it" in str(error)


async def test_a_certificate_of_nobody_we_know(
    new_postgresql_server: Callable[..., DatabaseServer], tmp_path: Path
) -> None:
    """The server's chain doesn't lead to ``ssl_ca``."""
    server = new_postgresql_server(tls=True)
    other = make_certificate(tmp_path).certificate
    url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/shop"
    for world in ("sync", "async"):  # the sync one blocks the loop, in which nothing else waits
        error = await _refused(world, url, ssl_mode="verify-full", ssl_ca=other)
        assert isinstance(error, ConnectFailedError)
        assert "TLS failed, for the server's certificate is not trusted" in str(error)


@pytest.mark.sqlite
async def test_a_file_of_sqlite(world: str, tmp_path: Path) -> None:
    """Its folder is missing, it is a folder, or it isn't there and may only be read."""
    (tmp_path / "folder.db").mkdir()
    for path, words, fields in (
        (tmp_path / "missing" / "app.db", "the folder of the file is missing", {}),
        (tmp_path / "folder.db", "the path is a folder", {}),
        (tmp_path / "gone.db", "the file is missing", {"read_only": True}),
    ):
        error = await _refused(world, f"sqlite:///{path}", **fields)
        assert isinstance(error, ConnectFailedError)
        assert f"at {path}: {words}" in str(error)
