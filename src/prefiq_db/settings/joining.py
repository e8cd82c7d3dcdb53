"""Merge the layers: the settings of a database that several of them describe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticCustomError

from prefiq_db.config import Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.masking import Secret
from prefiq_db.products import DEFAULT_SERVER, PRODUCTS, EngineName, product_named
from prefiq_db.settings.database_settings import DatabaseSettings, build_settings
from prefiq_db.settings.field_types import check_port, check_secret, check_text
from prefiq_db.settings.layers import Entry, FieldPath, Layer
from prefiq_db.settings.problems import collect
from prefiq_db.settings.target import SERVER_FIELDS, TARGET_FIELDS
from prefiq_db.urls import format_url, parse_url, split_hosts


def join_databases(
    layers: list[Layer], environment: str, sources: dict[str, str], problems: list[Problem]
) -> dict[str, DatabaseSettings]:
    """Return every database that a layer mentions, and ``main``; fill *sources* with the layer that set each field."""
    names = dict.fromkeys(["main", *(name for layer in layers for name in layer.databases)])
    built: dict[str, DatabaseSettings] = {}
    for name in names:
        entries: dict[FieldPath, Entry] = {}
        for layer in layers:
            entries = _overlay(entries, layer.databases.get(name, {}))
        sources |= {".".join(("databases", name, *path)): entry.layer for path, entry in entries.items()}
        settings = collect(problems, _build_database, name, entries, environment)
        if settings is not None:
            built[name] = settings
    return built


def _build_database(name: str, entries: Mapping[FieldPath, Entry], environment: str) -> DatabaseSettings:
    def name_field(path: str) -> str:
        parts = tuple(path.split("."))
        entry = entries.get(parts) or entries.get(parts[:1])
        stem = "DB_" if name == "main" else f"DATABASES__{name.upper()}__"
        return entry.where if entry else stem + "__".join(parts).upper()

    values: dict[str, Any] = {"environment": environment}
    for path, entry in entries.items():
        if len(path) == 1:
            values[path[0]] = entry.value
        elif ("retry",) not in entries:
            values.setdefault(path[0], {})[path[1]] = entry.value
    if name != "main" and not any(path[0] in ("engine", "url", "host", "name") for path in entries):
        # Without this, a misspelt name would quietly become another database: app.db.
        where = next((entry.where for entry in entries.values()), name_field("url"))
        fix = f"set {name_field('url')}, or check the name of the database"
        raise SettingsError([Problem(where, f"the database {name} to say where it is", fix)])
    return build_settings(values, name_field)


def _overlay(old: dict[FieldPath, Entry], new: dict[FieldPath, Entry]) -> dict[FieldPath, Entry]:
    """Merge one layer over the earlier ones.

    A URL is shorthand for its parts. In a later layer, a URL replaces all parts of earlier layers, except a password
    that is set by itself in its layer, if the URL has none; a part replaces that part of an earlier URL; another engine
    drops the earlier layers' place, which was another server's. A host without a port keeps the port that an earlier
    layer set, whether in a URL, beside a host or separately.
    """
    changed = {path[0] for path in new} & TARGET_FIELDS
    kept = dict(old)
    if "url" in changed:
        keep_password = _password_stands_alone(old) and not _has_password(new[("url",)])
        kept = _drop_target(old, keep=("password",) if keep_password else ())
    elif changed and _is_of_another_engine(old, new, changed):
        kept = _drop_target(old)
    elif changed and ("url",) in old:
        kept[("url",)] = _replace_parts(old[("url",)], new)
    elif changed and ("host",) in old:
        kept |= _keep_ports(old[("host",)], old, new)
    if ("retry",) in new:
        kept = {path: entry for path, entry in kept.items() if path[0] != "retry"}
    return {**kept, **new}


def _is_of_another_engine(
    old: Mapping[FieldPath, Entry], new: Mapping[FieldPath, Entry], changed: Collection[str]
) -> bool:
    engine = _find_engine(old)
    if engine is None:
        return False
    to_server = PRODUCTS[engine].is_file and not set(SERVER_FIELDS).isdisjoint(changed)
    later = _find_engine(new) or (DEFAULT_SERVER.engine if to_server else engine)
    return later != engine


def _keep_ports(host: Entry, old: Mapping[FieldPath, Entry], new: Mapping[FieldPath, Entry]) -> dict[FieldPath, Entry]:
    """Return an earlier layer's ports (``host: db1:5433``) that stay if a later one sets a part of the target."""
    named = collect([], split_hosts, host.value, where="") if isinstance(host.value, str) else None
    ports = {port for _, port in named or ()}
    if named is None or ports == {None}:
        return {}
    if ("host",) not in new:
        if ("port",) not in new:
            return {}
        # The later layer's port applies to all hosts.
        return {("host",): replace(host, value=",".join(f"[{name}]" if ":" in name else name for name, _ in named))}
    kept = len(ports) == 1 and ("port",) not in new and ("port",) not in old
    return {("port",): replace(host, value=ports.pop())} if kept and not _names_ports(new[("host",)].value) else {}


def _names_ports(host: object) -> bool:
    hosts = collect([], split_hosts, host, where="") if isinstance(host, str) else None
    return hosts is not None and any(port is not None for _, port in hosts)


def _drop_target(entries: Mapping[FieldPath, Entry], keep: Collection[str] = ()) -> dict[FieldPath, Entry]:
    return {path: entry for path, entry in entries.items() if path[0] not in TARGET_FIELDS or path[0] in keep}


def _password_stands_alone(entries: Mapping[FieldPath, Entry]) -> bool:
    password = entries.get(("password",))
    beside = [path for path, entry in entries.items() if password and entry.layer == password.layer]
    return password is not None and not any(path[0] in TARGET_FIELDS - {"password"} for path in beside)


def _parse_url_of(entry: Entry) -> Target | None:
    text = entry.value.reveal() if isinstance(entry.value, Secret) else entry.value
    return collect([], parse_url, text, where="") if isinstance(text, str) else None


def _has_password(entry: Entry) -> bool:
    target = _parse_url_of(entry)
    return target is not None and target.password is not None


def _find_engine(entries: Mapping[FieldPath, Entry]) -> EngineName | None:
    if ("engine",) in entries:
        product = product_named(str(entries[("engine",)].value))
        return product.engine if product else None
    target = _parse_url_of(entries[("url",)]) if ("url",) in entries else None
    return target.engine if target else None


def _replace_parts(url: Entry, new: Mapping[FieldPath, Entry]) -> Entry:
    """Return the earlier URL with the parts that a later layer sets; unchanged when one of them is invalid."""
    target = _parse_url_of(url)
    said = {path[0]: entry.value for path, entry in new.items() if path[0] in TARGET_FIELDS}
    if target is None:
        return url
    try:
        port = check_port(said["port"]) if "port" in said else None
        hosts: Sequence[tuple[str, int | None]] = [(host.host, host.port) for host in target.hosts]
        if "host" in said:
            hosts = _reuse_ports(split_hosts(check_text(said["host"]), where=""), target.hosts, port)
        target = replace(
            target,
            hosts=tuple(Host(name, port or own or target.product.default_port) for name, own in hosts),
            user=check_text(said["user"]) if "user" in said else target.user,
            password=check_secret(said["password"]) if "password" in said else target.password,
            database=check_text(said["name"]) if "name" in said else target.database,
        )
    except (PydanticCustomError, SettingsError):
        return url
    return replace(url, value=Secret(format_url(target)))


def _reuse_ports(
    named: Sequence[tuple[str, int | None]], earlier: Sequence[Host], port: int | None
) -> Sequence[tuple[str, int | None]]:
    """Return the new hosts; those without a port get the *earlier* hosts' ports, unless *port* is set for all.

    Raises:
        SettingsError: it is not clear which port belongs to which host.
    """
    ports = [host.port for host in earlier]
    if port is not None or all(own is not None for _, own in named) or not ports:
        return named
    if len(set(ports)) == 1:
        ports = ports[:1] * len(named)
    if len(ports) != len(named):
        raise SettingsError([])  # the caller then keeps the URL, and a later check reports that the two disagree
    return [(name, own or before) for (name, own), before in zip(named, ports, strict=True)]
