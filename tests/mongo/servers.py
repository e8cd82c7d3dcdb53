"""Find a MongoDB server for the tests: by URL, on PATH, or a stand-in, which is not MongoDB.

``PREFIQ_TEST_MONGODB_URL`` names a server that may create databases. Without it, a ``mongod`` on PATH is started as a
replica set of one. Without that, the stand-in runs in a Python of its own: the one that ``MONGOECO_PYTHON`` names, or
that ``scripts/install-mongodb-stand-in`` has made. Reports name what was used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from prefiq_db.testing.machine import free_port
from prefiq_db.testing.processes import wait_until

_START_SECONDS = 60.0
_STAND_IN = Path(__file__).with_name("stand_in.py")
_PREFIX = "prefiq_test_"
#: Where scripts/install-mongodb-stand-in puts the stand-in.
_USUAL_PYTHON = Path(__file__).resolve().parents[2] / ".mongoeco" / "bin" / "python"


class NoMongoError(Exception):
    """There is no server; the message says where we looked."""


@dataclass
class MongoServer:
    """A server: ``with find_server(folder) as server``.

    Attributes:
        source: ``url``, ``local`` or ``stand-in``.
        version: the server's.
        is_real: it is MongoDB.
    """

    source: str
    folder: Path
    base: str = ""
    command: list[str] = field(default_factory=list)
    version: str = ""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    made: list[str] = field(default_factory=list)

    name = "mongodb"

    @property
    def is_real(self) -> bool:
        return self.source != "stand-in"

    def __enter__(self) -> MongoServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start a private server, on its port of before if it had one; wait until it answers."""
        if self.command:
            self.port = self.port or free_port()
            self.base = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
            command = [part.format(port=self.port, folder=self.folder) for part in self.command]
            log = (self.folder / "mongodb.log").open("ab")
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            log.close()
        if not wait_until(self._answers, timeout_seconds=_START_SECONDS, poll_seconds=0.05):
            self.close()
            raise NoMongoError(f"the {self.source} server did not answer within {_START_SECONDS:g} s")
        if self.source == "local":
            self._initiate()

    def _answers(self) -> bool:
        try:
            client: MongoClient[dict[str, Any]] = MongoClient(self.base, serverSelectionTimeoutMS=500)
            with client:
                self.version = str(client.admin.command("buildInfo")["version"])
        except PyMongoError:
            return False
        return True

    def _initiate(self) -> None:
        """Make a replica set of one, and wait until it takes writes."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.base)
        with client:
            try:
                members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            except PyMongoError:
                pass  # it is one already, after a restart
            deadline = time.monotonic() + _START_SECONDS
            while not client.admin.command("hello").get("isWritablePrimary"):
                if time.monotonic() > deadline:
                    raise NoMongoError("the local server did not become a primary")
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill a private server; its data is lost if it keeps it in memory."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Drop what was made, and stop a private server."""
        if not self.command and self.made:
            client: MongoClient[dict[str, Any]] = MongoClient(self.base)
            with client:
                for name in self.made:
                    client.drop_database(name)
            self.made.clear()
        self.kill()

    def create_database(self) -> str:
        """Return the name of an empty database."""
        self.made.append(f"{_PREFIX}{secrets.token_hex(4)}")
        return self.made[-1]

    def url(self, database: str) -> str:
        """Return the URL of *database*."""
        parts = urlsplit(self.base)
        options = f"{parts.query}&authSource=admin" if parts.username else parts.query
        return parts._replace(path=f"/{database}", query=options).geturl()


def find_server(folder: Path) -> MongoServer:
    """Return a server that isn't started yet.

    Raises:
        NoMongoError: there is none.
    """
    url = os.environ.get("PREFIQ_TEST_MONGODB_URL", "").strip()
    if url:
        return MongoServer("url", folder, base=url)
    if program := shutil.which("mongod"):
        command = [program, "--dbpath", "{folder}", "--port", "{port}", "--bind_ip", "127.0.0.1", "--replSet", "rs0"]
        return MongoServer("local", folder, command=command)
    python = os.environ.get("MONGOECO_PYTHON") or (str(_USUAL_PYTHON) if _USUAL_PYTHON.exists() else "")
    if python:
        return MongoServer("stand-in", folder, command=[python, str(_STAND_IN), "{port}"])
    raise NoMongoError(
        "no MongoDB server for the tests. Looked for: PREFIQ_TEST_MONGODB_URL, mongod on PATH, MONGOECO_PYTHON and "
        ".mongoeco; scripts/install-mongodb-stand-in makes the last, a stand-in that needs Python 3.13"
    )
