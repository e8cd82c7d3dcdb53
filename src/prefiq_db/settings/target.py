"""Find out where a database is, from its URL, its separate fields and the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Protocol

from prefiq_db.config import Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.masking import Secret
from prefiq_db.products import DEFAULT_FILE, DEFAULT_SERVER, PRODUCTS, EngineName, Product
from prefiq_db.settings.problems import Names
from prefiq_db.settings.tls_options import lift_tls
from prefiq_db.urls import parse_url, split_hosts

TARGET_FIELDS: Final = frozenset({"engine", "url", "host", "port", "user", "password", "name"})
SERVER_FIELDS: Final = ("host", "port", "user", "password")


class TargetFields(Protocol):
    """The settings that say where a database is."""

    @property
    def model_fields_set(self) -> set[str]: ...

    engine: EngineName
    url: Secret | None
    host: str | None
    port: int | None
    user: str | None
    password: Secret | None
    name: str | None


def find_target(settings: TargetFields, flavor: str, names: Names) -> Target:
    """Return where the database of *settings* is.

    Raises:
        SettingsError: its fields contradict each other or its URL; the message names them by *names*.
    """
    given = settings.model_fields_set
    if settings.url is not None:
        target = lift_tls(parse_url(settings.url.reveal(), where=names("url")))[0]
        problems = list(_find_contradictions(settings, target, names))
        target = complete(target, Target(target.engine, (), settings.user, settings.password, settings.name or ""))
    else:
        target, problems = _read_fields(settings, _choose_product(settings, flavor), names)
    if target.product.is_file:
        problems += [
            Problem(names(name), "nothing, since SQLite has no server", "remove it, or choose another engine")
            for name in SERVER_FIELDS
            if name in given
        ]
    if problems:
        raise SettingsError(problems)
    return target


def _choose_product(settings: TargetFields, flavor: str) -> Product:
    """Return the product that the fields name or imply."""
    given = settings.model_fields_set
    if "engine" in given:
        return PRODUCTS[flavor or settings.engine]
    return DEFAULT_FILE if given.isdisjoint(SERVER_FIELDS) else DEFAULT_SERVER


def _read_fields(settings: TargetFields, product: Product, names: Names) -> tuple[Target, list[Problem]]:
    name = settings.name or product.default_database
    if product.is_file:
        return Target(product.engine, database=name), []
    problems: list[Problem] = []
    hosts = split_hosts(settings.host or "127.0.0.1", where=names("host"))
    if settings.port is not None and any(port not in (None, settings.port) for _, port in hosts):
        problems.append(Problem(names("port"), f"the port of {names('host')}", "say the port in one place only"))
    default_port = settings.port or product.default_port
    target = Target(
        product.engine,
        hosts=tuple(Host(host, port or default_port) for host, port in hosts),
        user=settings.user or product.default_user,
        password=settings.password,
        database=name,
        flavor=product.flavor,
    )
    return target, problems


def _find_contradictions(settings: TargetFields, target: Target, names: Names) -> Iterator[Problem]:
    """Yield a problem for each field that contradicts the URL. A field may add what the URL leaves out."""
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
        if not agrees and not (target.product.is_file and name in SERVER_FIELDS):
            what = "the database that the scheme names" if name == "engine" else "the same, or nothing"
            yield Problem(names(name), f"{what}, since {url} says it too", "say it in one place only")


def _same_hosts(split: tuple[tuple[str, int | None], ...], hosts: tuple[Host, ...]) -> bool:
    return len(split) == len(hosts) and all(
        name == host.host and port in (None, host.port) for (name, port), host in zip(split, hosts, strict=True)
    )


def complete(target: Target, other: Target) -> Target:
    """Return *target* with its missing parts (user, password, name) taken from *other*."""
    if target.product.is_file:
        return target
    user = target.user or other.user
    password = target.password or (other.password if user == other.user or other.user is None else None)
    return replace(target, user=user, password=password, database=target.database or other.database)
