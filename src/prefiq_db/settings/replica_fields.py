"""The field ``replicas``: what one entry accepts, and where the replicas are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Final, Protocol

from pydantic import PlainSerializer, PlainValidator, SecretStr
from pydantic_core import PydanticCustomError

from prefiq_db.config import SESSION_ATTRS, Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.masking import Secret
from prefiq_db.settings.field_types import check_host, check_port, check_secret, check_text, drop_unset, from_json
from prefiq_db.settings.problems import (
    Complaint,
    Names,
    collect,
    describe_unknown_key,
    field_error,
    field_errors,
    read_complaints,
    show_key,
)
from prefiq_db.settings.tls_options import lift_tls
from prefiq_db.settings.url_options import find_option_problems
from prefiq_db.urls import parse_url, split_hosts

_NODE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}", re.ASCII)
_MOST_WEIGHT: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of the settings: a URL, or its separate fields; what it doesn't say is the primary's.

    Attributes:
        url: where it is, of the same kind of database as the primary; several hosts in it are one replica with spares.
        host: instead of *url*; a comma means the same.
        port: of a host without one; default: the primary's.
        user: default: the primary's.
        password: default: the primary's; never shown.
        name: what logs, metrics and errors call it; ``""``: ``replica-1`` and so on, by its place in the list.
        weight: its share of the reads, compared to the others'; above 0, at most 1000, default 1.
    """

    url: Secret | None = field(default=None)
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: Secret | None = field(default=None)
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaNode:
    """Where a replica is, completed from the primary's settings."""

    name: str
    weight: float
    target: Target


def _weight(value: object) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not 0 < number <= _MOST_WEIGHT:
        raise field_error(f"a number above 0, at most {_MOST_WEIGHT:g}", "1 is a usual share, 2 twice as many reads")
    return number


def _node_name(value: object) -> str:
    if not isinstance(value, str) or _NODE_NAME.fullmatch(value) is None or value == "primary":
        raise field_error(
            "letters, digits and _ . - of ASCII, at most 63, not the word primary", "name it as logs should"
        )
    return value


_PARTS: Final[Mapping[str, Callable[[object], Any]]] = {
    "url": check_secret,
    "host": check_host,
    "port": check_port,
    "user": check_text,
    "password": check_secret,
    "name": _node_name,
    "weight": _weight,
}


def _replicas(value: object) -> tuple[Replica, ...]:
    """Accept a list of URLs or mappings, such a list as JSON, or URLs separated by commas or blanks."""
    if isinstance(value, str) and value.startswith("["):
        value = from_json(value)
    elif isinstance(value, str):  # a URL may contain commas itself
        value = re.split(r"[\s,]+(?=[A-Za-z][\w+]*://)", value)
    kinds = (str, Secret, SecretStr, Mapping, Replica)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, kinds) for item in value):
        raise field_error(
            "a list of URLs, or of mappings of " + ", ".join(_PARTS), "write URLs with commas between, or a JSON list"
        )
    found: list[Complaint] = []
    made = [_replica(item, partial(_where, "", number), found) for number, item in enumerate(value)]
    if found:
        raise field_errors(found)
    return tuple(each for each in made if each is not None)


def _where(field: str, number: int, part: str) -> str:
    """Return the name of a part of one entry of *field*, for messages: ``DB_REPLICAS (2: weight)``."""
    return f"{field} ({number + 1}: {part})".lstrip()


def _replica(item: Any, where: Names, found: list[Complaint]) -> Replica | None:
    if isinstance(item, Replica):
        item = {key: value for key, value in asdict(item).items() if value != ""}
    given = drop_unset(item) if isinstance(item, Mapping) else {"url": item}
    checked: dict[str, Any] = {}
    bad = len(found)
    for key, value in given.items():
        if key not in _PARTS:
            found.append((where(show_key(key)), *describe_unknown_key(key, _PARTS)))
            continue
        try:
            checked[key] = _PARTS[key](value)
        except PydanticCustomError as error:
            found.extend((where(key), expected, fix) for _, expected, fix in read_complaints(error.context))
    if "url" in checked:
        problems: list[Problem] = []
        collect(problems, parse_url, checked["url"].reveal(), where=where("url"))
        found.extend((each.where, each.expected, each.fix) for each in problems)
    if len(found) == bad and not {"url", "host", "port"} & checked.keys():
        found.append((where("host"), "a url, a host or a port", "say where the replica is"))
    return Replica(**checked) if len(found) == bad else None


def _shown(replicas: tuple[Replica, ...]) -> list[dict[str, Any]]:
    """Return *replicas* for a dump; secrets show as ``***``."""
    return [
        {key: str(value) if isinstance(value, Secret) else value for key, value in asdict(each).items()}
        for each in replicas
    ]


Replicas = Annotated[
    tuple[Replica, ...], PlainValidator(_replicas), PlainSerializer(_shown, return_type=list[dict[str, Any]])
]


class Replicating(Protocol):
    """The settings that say which replicas there are."""

    @property
    def replicas(self) -> tuple[Replica, ...]: ...


def find_replicas(settings: Replicating, main: Target, names: Names) -> tuple[ReplicaNode, ...]:
    """Return where the replicas of *main* are.

    Raises:
        SettingsError: with every problem; *names* gives the fields' names.
    """
    problems: list[Problem] = []
    if settings.replicas and (main.product.is_file or main.product.keeps_documents):
        what = "SQLite has no server" if main.product.is_file else "the driver finds MongoDB's members itself"
        raise SettingsError([Problem(names("replicas"), f"nothing, since {what}", "remove it")])
    if settings.replicas and main.flavor:
        fix = "remove it; if the server is MariaDB, say mariadb in place of mysql"
        raise SettingsError([Problem(names("replicas"), "nothing: replicas of MySQL are not supported", fix)])
    made: list[ReplicaNode] = []
    for number, each in enumerate(settings.replicas):
        where = partial(_where, names("replicas"), number)
        target = collect(problems, _target_of, each, main, where)
        if target is not None:
            made.append(ReplicaNode(each.name or f"replica-{number + 1}", each.weight, target))
    if len({each.name for each in made}) < len(made):
        problems.append(Problem(names("replicas"), "different names", "give each replica a name of its own"))
    if problems:
        raise SettingsError(problems)
    return tuple(made)


def _target_of(replica: Replica, main: Target, names: Names) -> Target:
    problems: list[Problem] = []
    if replica.url is None:
        port = replica.port or (main.hosts[0].port if main.hosts else main.product.default_port)
        hosts = split_hosts(replica.host or "127.0.0.1", where=names("host"))
        if replica.port is not None and any(own not in (None, replica.port) for _, own in hosts):
            problems.append(Problem(names("port"), f"the port of {names('host')}", "say the port in one place only"))
        target = replace(
            main, hosts=tuple(Host(host, own or port) for host, own in hosts), options={}, secret_options={}
        )
    else:
        target, tls = lift_tls(parse_url(replica.url.reveal(), where=names("url")))
        if target.engine != main.engine:
            problems.append(Problem(names("url"), "a URL of the same kind of database as the primary's", "check it"))
        problems += find_option_problems(target, names("url"), names)
        if tls:
            problems.append(Problem(names("url"), "no TLS options, since those of the primary hold", "remove them"))
        for key in ("host", "port"):
            if getattr(replica, key) is not None:
                problems.append(Problem(names(key), f"nothing, since {names('url')} says it", "say it once"))
        if target.database not in ("", main.database):
            problems.append(
                Problem(names("url"), "the primary's database, or none: a replica has the same ones", "remove the name")
            )
    if problems:
        raise SettingsError(problems)
    options = {key: value for key, value in main.options.items() if key != SESSION_ATTRS}
    user = replica.user or (target.user if replica.url is not None else None) or main.user
    own = replica.password or (target.password if replica.url is not None else None)
    password = own or (main.password if user == main.user else None)
    return replace(
        target,
        user=user,
        password=password,
        database=main.database,
        options={**options, **target.options},
        secret_options={**main.secret_options, **target.secret_options},
        flavor=main.flavor,
    )
