"""Servers by a socket in the file system: by URL and by fields, with every driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from prefiq_db import DatabaseSettings
from prefiq_db.errors import ConnectFailedError
from prefiq_db.testing import DatabaseServer
from tests.twins.harness import make_database

pytestmark = [pytest.mark.postgresql, pytest.mark.mariadb]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with colons in its name, as Cloud SQL's have; short, because a socket's path must be."""
    made = Path(tempfile.mkdtemp(prefix="pq:region:inst-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def postgresql(folder: Path, new_postgresql_server: Callable[..., DatabaseServer]) -> DatabaseServer:
    return new_postgresql_server(settings={"unix_socket_directories": str(folder)})


@pytest.fixture
def mariadb(folder: Path, new_mariadb_server: Callable[..., DatabaseServer]) -> DatabaseServer:
    return new_mariadb_server(settings={"socket": str(folder / "my.sock")})


async def _is_reached(world: str, sql: str, **fields: Any) -> Any:
    place: Any = fields["url"] if "url" in fields else DatabaseSettings(**fields)
    db = make_database(world, place)
    try:
        return await db.fetch_value(sql)
    finally:
        await db.close()


async def test_postgresqls_socket_directory(world: str, postgresql: DatabaseServer, folder: Path) -> None:
    url = sa.make_url(postgresql.url())
    login, name, encoded = f"{url.username}:{url.password}", url.database, quote(str(folder), safe="")
    through = "select inet_server_addr() is null"
    for text in (
        f"postgres://{login}@/{name}?host={folder}&port={url.port}",
        f"postgres://{login}@/{name}?host={folder}:{url.port}",
        f"postgres://{login}@{encoded}:{url.port}/{name}",
        f"postgres:///{name}?host={encoded}&port={url.port}&user={url.username}&password={url.password}",
    ):
        assert await _is_reached(world, through, url=text) is True
    fields = {"engine": "postgres", "user": url.username, "password": url.password, "name": name}
    assert await _is_reached(world, through, **fields, host=str(folder), port=url.port) is True
    assert await _is_reached(world, through, **fields, host=f"{folder}:{url.port}") is True
    # Of several hosts one may be a socket, and the control: by TCP the server does know an address.
    both = {"host": f"{folder},{url.host}", "port": url.port}
    assert await _is_reached(world, through, **fields, **both) is True
    assert await _is_reached(world, through, **fields, host=url.host, port=url.port) is False


async def test_mariadbs_socket(world: str, mariadb: DatabaseServer, folder: Path) -> None:
    url, path = sa.make_url(mariadb.url()), folder / "my.sock"
    login, name = f"{url.username}:{url.password}", url.database
    through = "select substring_index(user(), '@', -1)"
    for text in (
        f"mariadb://{login}@localhost/{name}?unix_socket={path}",
        f"mariadb://{login}@localhost:3306/{name}?unix_socket={path}",
        f"mariadb://{login}@/{name}?unix_socket={path}",
        f"mysql+pymysql://{login}@/{name}?host={path}",
        f"mariadb://{login}@{quote(str(path), safe='')}/{name}",
    ):
        assert await _is_reached(world, through, url=text) == "localhost"
    fields = {"engine": "mariadb", "user": url.username, "password": url.password, "name": name}
    assert await _is_reached(world, through, **fields, host=str(path)) == "localhost"
    assert await _is_reached(world, through, **fields, host=f"{path},{url.host}", port=url.port) == "localhost"
    # The next host is tried, and the control: by TCP the user comes from an address.
    gone = f"{path}-gone,{url.host}"
    assert await _is_reached(world, through, **fields, host=gone, port=url.port) == "127.0.0.1"
    assert await _is_reached(world, through, **fields, host=url.host, port=url.port) == "127.0.0.1"
    with pytest.raises(ConnectFailedError):
        await _is_reached(world, through, **fields, host=f"{path}-gone", retry={"attempts": 1})
