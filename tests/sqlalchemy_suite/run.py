"""Runs the suite in a process of its own: SQLAlchemy's plugin takes a whole pytest for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url

import prefiq_db

FOLDER: Final = Path(__file__).parent
URL_VARIABLE: Final = "PREFIQ_DIALECT_SUITE_URL"
SCHEMAS_VARIABLE: Final = "PREFIQ_DIALECT_SUITE_SCHEMAS"
EVERY_VARIABLE: Final = "PREFIQ_DIALECT_SUITE_EVERY"
_OURS: Final = {"sync": "prefiq", "async": "prefiq_async"}
_PLAIN: Final = {
    ("sqlite", "sync"): "pysqlite",
    ("sqlite", "async"): "aiosqlite",
    ("postgresql", "sync"): "psycopg",
    ("postgresql", "async"): "psycopg_async",
    ("mariadb", "sync"): "pymysql",
    ("mariadb", "async"): "asyncmy",
}


def run_suite(
    url: str,
    world: str,
    folder: Path,
    *arguments: str,
    schemas: Sequence[str] = ("test_schema", "test_schema_2"),
    plain: bool = False,
    plugins: Sequence[str] = (),
    every: int = 1,
) -> subprocess.CompletedProcess[str]:
    """Run the suite on an empty database, in *folder*, with further *arguments* for its pytest.

    *schemas* are there already; SQLite makes its own. *plain*: on SQLAlchemy's dialect, and not on ours. *every*: of a
    test with many parameters run every how manieth.
    """
    wanted = make_url(url)
    if wanted.get_backend_name() == "sqlite":
        wanted = wanted.set(database="main.db")  # SQLAlchemy's plugin makes another name of it
    driver = _driver(wanted, world, plain)
    wanted = wanted.set(drivername=f"{wanted.get_backend_name()}+{driver}")
    loaded = ("sqlalchemy.testing.plugin.pytestplugin", "tests.sqlalchemy_suite.plugin", *plugins)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(FOLDER / "setup.cfg")),
            *(f"--rootdir={FOLDER}", f"--confcutdir={FOLDER}"),
            *(word for plugin in loaded for word in ("-p", plugin)),
            *(*arguments, str(FOLDER / "suite_all.py")),
        ],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(FOLDER.parents[1]), str(Path(prefiq_db.__file__).parents[1])]),
            URL_VARIABLE: wanted.render_as_string(hide_password=False),
            SCHEMAS_VARIABLE: ",".join(schemas),
            EVERY_VARIABLE: str(every),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def plain_url(url: URL) -> URL:
    """Return the URL of SQLAlchemy's own dialect for a URL of ours."""
    world = "async" if url.get_dialect().is_async else "sync"
    return url.set(drivername=f"{url.get_backend_name()}+{_driver(url, world, plain=True)}")


def _driver(url: URL, world: str, plain: bool) -> str:
    return _PLAIN[url.get_backend_name(), world] if plain else _OURS[world]
