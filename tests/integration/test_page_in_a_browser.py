"""The page ``/db`` works in a real browser: it fills itself with data, in light and in dark."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from prefiq_db import Database
from prefiq_db.errors import UniqueViolationError
from prefiq_db.integrations.wsgi import HealthApp

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def browser(tmp_path: Path) -> Callable[..., bytes]:
    """Run headless Chromium on a page and return what it prints."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium fonts-dejavu-core")

    def run(*arguments: str) -> bytes:
        return subprocess.run(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                "--virtual-time-budget=4000",
                f"--user-data-dir={tmp_path / 'profile'}",
                *arguments,
            ],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout

    return run


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The URL of a page about a database in which something happens."""
    with Database(f"sqlite:///{tmp_path / 'shop.db'}", name="shop") as db:
        db.execute("create table customer (name varchar(40) primary key)")
        db.execute(f'create table "{_HOSTILE}" (id integer)')
        db.fetch_all(f'select id from "{_HOSTILE}"')
        db.execute("insert into customer (name) values (:name)", {"name": "Ada"})
        with pytest.raises(UniqueViolationError):
            db.execute("insert into customer (name) values (:name)", {"name": "Ada"})
        with (
            db.transaction() as tx,
            make_server("127.0.0.1", 0, HealthApp(db, page=True), handler_class=_Quiet) as server,
        ):
            tx.fetch_all("select name from customer")
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/db"
            server.shutdown()
            thread.join()


def test_the_page_fills_itself_and_reads_nothing_as_html(browser: Callable[..., bytes], page: str) -> None:
    shown = browser("--dump-dom", page).decode()
    body = shown.split("<main")[1].split("</main>")[0]
    assert "<title>Databases: pass</title>" in shown
    assert '<div id="trouble" role="status"></div>' in shown  # no fetch failed
    for text in ("<h2>shop</h2>", "1 in use", "INSERT customer", "unique", "test_page_in_a_browser.py:", "answered in"):
        assert text in body
    assert "&lt;img src=x" in body  # the name of a table
    assert "<img" not in body
    assert "Ada" not in shown


@pytest.mark.parametrize(("scheme", "is_dark"), [("1", False), ("0", True)], ids=["light", "dark"])
def test_the_page_is_drawn_in_light_and_in_dark(
    browser: Callable[..., bytes], page: str, tmp_path: Path, scheme: str, is_dark: bool
) -> None:
    picture = tmp_path / "page.png"
    browser(f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,500", f"--screenshot={picture}", page)
    shades = grey_levels(picture.read_bytes())
    background = max(set(shades), key=shades.count)
    assert (background < 60) if is_dark else (background > 200)
    assert len(set(shades)) > 20, "there is something on it"
    text = min(shades) if not is_dark else max(shades)
    assert abs(text - background) > 150, "text stands out from the background"


def grey_levels(png: bytes) -> list[int]:
    """Return the green channel of a picture: enough to tell dark from light."""
    width, _, depth, kind = struct.unpack(">IIBB", png[16:26])
    channels = {2: 3, 6: 4}[kind]
    assert depth == 8
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    raw, stride = zlib.decompress(data), width * channels
    before, levels = bytearray(stride), []
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], row, before, channels)
        levels += row[1::channels]
        before = row
    return levels


def _unfilter(kind: int, row: bytearray, above: bytearray, step: int) -> None:
    for at in range(len(row)):
        left = row[at - step] if at >= step else 0
        up, corner = above[at], above[at - step] if at >= step else 0
        if kind == 4:
            guess = left + up - corner
            nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
        else:
            nearest = (0, left, up, (left + up) // 2)[kind]
        row[at] = (row[at] + nearest) & 255
