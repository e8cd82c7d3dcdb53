"""The page of each database tells what is set on a session: the server says the same, and nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import Database
from prefiq_db.dialects.sqlite_connection import SqliteConnection
from prefiq_db.products import PRODUCTS
from tests.conftest import Backend
from tests.docs.pages import ROOT

PAGES = ROOT / "docs" / "databases"
ASK = {"sqlite": "pragma {}", "postgresql": "show {}", "mariadb": "select @@session.{}"}
_ROW = re.compile(r"^\| `(?P<setting>\w+)` \| `(?P<value>[^`]+)` \|(?P<origin>[^|]*)\|", re.M)
_OTHER = re.compile(r"`(\w+)` makes it `(\w+)`")


def told(name: str) -> dict[str, str]:
    """Return the settings on a page with their values."""
    return {row["setting"]: row["value"] for row in _ROW.finditer((PAGES / f"{name}.md").read_text("utf-8"))}


def told_with_read_only(name: str) -> dict[str, str]:
    """Return what a page says that the setting ``read_only`` changes."""
    rows = _ROW.finditer((PAGES / f"{name}.md").read_text("utf-8"))
    found = {row["setting"]: _OTHER.search(row["origin"]) for row in rows}
    return {setting: other[2] for setting, other in found.items() if other is not None and other[1] == "read_only"}


def as_words(value: Any) -> set[str]:
    return set(str(value).split(","))  # the server sorts the modes of sql_mode


@pytest.fixture
def db(backend: Backend) -> Any:
    with Database(backend.url) as made:
        made.execute("create table item (id integer)")  # or SQLite's file would not be there for a reader
        yield made


def test_the_server_says_what_the_page_says(backend: Backend, db: Database) -> None:
    assert len(told(backend.name)) >= 4
    for setting, value in told(backend.name).items():
        assert as_words(db.fetch_value(ASK[backend.name].format(setting))) == as_words(value), setting


def test_with_read_only_too(backend: Backend, db: Database) -> None:
    assert len(told_with_read_only(backend.name)) == 1
    with Database(backend.url, read_only=True) as reader:
        for setting, value in told_with_read_only(backend.name).items():
            assert str(reader.fetch_value(ASK[backend.name].format(setting))) == value


def test_nothing_that_is_set_is_left_out(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the connector sends at login, or as its first statement, is in the table."""
    sent: list[str] = []

    class Recording(SqliteConnection):
        def execute(self, sql: str, *args: Any) -> Any:
            sent.append(sql)
            return super().execute(sql, *args)

    monkeypatch.setattr("prefiq_db.dialects.sqlite_connection.SqliteConnection", Recording)
    names: set[str] = set()
    for read_only in (False, True):
        with Database(backend.url, read_only=read_only) as made, made.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            if backend.name == "postgresql":
                names |= set(re.findall(r"-c (\w+)=", driver.info.get_parameters()["options"]))
            elif backend.name == "mariadb":
                # Each server skips the other's comment: M! is MariaDB's.
                init = re.sub(r"/\*!\d+.*?\*/", "", driver.init_command)
                names |= set(re.findall(r"(\w+) = ", init))
            else:
                names |= set(re.findall(r"PRAGMA (\w+) =", " ".join(sent)))
    assert names
    assert names <= told(backend.name).keys()


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_the_page_names_the_drivers(name: str) -> None:
    (line,) = re.findall(r"^\| drivers \| (.+) \|$", (PAGES / f"{name}.md").read_text("utf-8"), re.M)
    product = next(each for each in PRODUCTS.values() if each.dialect == name)
    for driver in (product.sync_driver, product.async_driver):
        assert driver is not None
        assert driver.module in line.lower()
    assert not product.extra or f"prefiq-db[{product.extra}]" in line
