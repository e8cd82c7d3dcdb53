"""Where a database is: worked out of its URL, its split fields and the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from prefiq_db.config import EngineName, Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.settings.problems import Names
from prefiq_db.settings.tls import lift_tls
from prefiq_db.urls import STANDARD_PORTS, parse_url, split_hosts

if TYPE_CHECKING:
    from prefiq_db.settings.database import DatabaseSettings

PLACE: Final = frozenset({"engine", "url", "host", "port", "user", "password", "name"})
SERVER_ONLY: Final = ("host", "port", "user", "password")
_DEFAULT_USER: Final[Mapping[EngineName, str | None]] = {"postgres": "postgres", "mariadb": "root", "mongodb": None}
_DEFAULT_NAME: Final[Mapping[EngineName, str]] = {
    "sqlite": "app.db",
    "postgres": "postgres",
    "mariadb": "test",
    "mongodb": "test",
}


def place(settings: DatabaseSettings, flavor: str, names: Names) -> Target:
    """Return where the database of *settings* is.

    Raises:
        SettingsError: where its fields contradict each other or its URL, told by *names*.
    """
    given = settings.model_fields_set
    if settings.url is not None:
        target = lift_tls(parse_url(settings.url.reveal(), where=names("url")))[0]
        problems = list(_disagreements(settings, target, names))
        target = completed(target, Target(target.engine, (), settings.user, settings.password, settings.name or ""))
    else:
        split = any(name in given for name in SERVER_ONLY)
        engine: EngineName = settings.engine if "engine" in given else "mariadb" if split else "sqlite"
        target, problems = _from_fields(settings, engine, flavor, names)
    if target.engine == "sqlite":
        problems += [
            Problem(names(name), "nothing, since SQLite has no server", "remove it, or choose another engine")
            for name in SERVER_ONLY
            if name in given
        ]
    if problems:
        raise SettingsError(problems)
    return target


def _from_fields(
    settings: DatabaseSettings, engine: EngineName, flavor: str, names: Names
) -> tuple[Target, list[Problem]]:
    name = settings.name or _DEFAULT_NAME[engine]
    if engine == "sqlite":
        return Target("sqlite", database=name), []
    problems: list[Problem] = []
    hosts = split_hosts(settings.host or "127.0.0.1", where=names("host"))
    if settings.port is not None and any(port not in (None, settings.port) for _, port in hosts):
        problems.append(Problem(names("port"), f"the port of {names('host')}", "say the port in one place only"))
    standard = settings.port or STANDARD_PORTS[engine]
    target = Target(
        engine,
        hosts=tuple(Host(host, port or standard) for host, port in hosts),
        user=settings.user or _DEFAULT_USER[engine],
        password=settings.password,
        database=name,
        flavor=flavor,
    )
    return target, problems


def _disagreements(settings: DatabaseSettings, target: Target, names: Names) -> Iterator[Problem]:
    """Tell where a field says something else than the URL; what the URL leaves out may be said apart."""
    url = names("url")
    hosts = split_hosts(settings.host, where=names("host")) if settings.host else ()
    same = {
        "engine": "engine" not in settings.model_fields_set or settings.engine == target.engine,
        "host": settings.host is None or _same_hosts(hosts, target.hosts),
        "port": settings.port is None or all(host.port == settings.port for host in target.hosts),
        "user": settings.user is None or target.user in (None, settings.user),
        "password": settings.password is None or target.password in (None, settings.password),
        "name": settings.name is None or target.database in ("", settings.name),
    }
    for name, agrees in same.items():
        if not agrees and not (target.engine == "sqlite" and name in SERVER_ONLY):
            what = "the database that the scheme names" if name == "engine" else "the same, or nothing"
            yield Problem(names(name), f"{what}, since {url} says it too", "say it in one place only")


def _same_hosts(split: tuple[tuple[str, int | None], ...], hosts: tuple[Host, ...]) -> bool:
    return len(split) == len(hosts) and all(
        name == host.host and port in (None, host.port) for (name, port), host in zip(split, hosts, strict=True)
    )


def completed(target: Target, other: Target) -> Target:
    """Return *target* with what it leaves out (user, password, name) taken from *other*."""
    if target.engine == "sqlite":
        return target
    user = target.user or other.user
    password = target.password or (other.password if user == other.user or other.user is None else None)
    return replace(target, user=user, password=password, database=target.database or other.database)
