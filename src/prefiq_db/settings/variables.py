"""The layers that are variables: ``.env`` and the environment."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream
from pydantic import BaseModel

from prefiq_db.errors import Problem, SettingsError
from prefiq_db.settings.field_types import RETRY_FIELDS, drop_unset
from prefiq_db.settings.layers import (
    LOADED,
    SAYS_WHERE,
    Entry,
    FieldPath,
    Layer,
    is_name,
    put,
    read_secret,
    read_text,
    unknown_field,
)
from prefiq_db.settings.namespace_variables import NamespaceVariables
from prefiq_db.settings.problems import collect, guess_key

_FROM_FILE: Final = frozenset({"url", "host", "user", "password", "name", "replicas", "application_name"})
_URL_ALIASES: Final = {"DATABASE_URL": "DB_URL", "DATABASE_URL_FILE": "DB_URL_FILE"}
_PATHS: Final = frozenset({*((name,) for name in LOADED), *(("retry", name) for name in RETRY_FIELDS)})

# The variables that Kubernetes sets in every pod for a service: for "db-postgresql" the stem is DB_POSTGRESQL.
_LINK_ENDS: Final = r"SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
_SERVICE_LINK: Final = re.compile(rf"DATABASES_PORT|(DB|DATABASES)_({_LINK_ENDS})")
_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://[^\s]+")


def read_dotenv(path: Path, namespaces: Collection[str], problems: list[Problem]) -> dict[str, str]:
    """Return the variables of a ``.env`` file; ``${NAME}`` stays unchanged, because a password may contain it.

    A duplicate name of ours must have the same value; of other programs' duplicates the last counts, as usual.
    """
    found: dict[str, tuple[str, int]] = {}
    if not path.is_file():
        return {}
    for binding in parse_stream(StringIO(read_text(path, path.name, problems))):
        line = binding.original.line
        where = f"{path.name} (line {line})"
        if binding.error or (binding.key is not None and (binding.value is None or not _is_variable(binding.key))):
            problems.append(Problem(where, "NAME=value", "quote values that hold quotes, # or line breaks"))
        elif binding.key is not None:
            value, earlier = found.get(binding.key, (binding.value, 0))
            if value != binding.value and _is_ours(binding.key, namespaces):
                expected = f"the same {binding.key} as in line {earlier}, or nothing"
                problems.append(Problem(where, expected, "say it in one place only"))
            found[binding.key] = (binding.value or "", line)
    return {name: value for name, (value, _) in found.items()}


def _is_variable(name: str) -> bool:
    # Text that can't be a name may be a value, as in the line DB_URL:postgres://...
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) is not None


def _is_ours(name: str, namespaces: Collection[str]) -> bool:
    upper = name.upper()
    begins = ("DB_", "DATABASES_", "DATABASE__", "PREFIQ_", *(f"{each.upper()}_" for each in namespaces))
    return upper.startswith(begins) or upper in _URL_ALIASES


def variables_layer(
    layer: str, raw: Mapping[str, str], namespaces: Mapping[str, type[BaseModel]], problems: list[Problem]
) -> Layer:
    """Return the layer of these variables; an unknown one with our prefix is a problem, unless Kubernetes set it."""
    variables = drop_unset(raw)
    prefix = "" if layer == "environment" else f"{layer}:"
    databases: dict[str, dict[FieldPath, Entry]] = {}
    stems = tuple(f"{name.upper()}_" for name in namespaces)
    variables, links = _drop_links(variables)
    for name, value in variables.items():
        where = prefix + name
        upper = name.upper()
        ours = upper.startswith(("DB_", "DATABASES_", "DATABASE__")) or upper in _URL_ALIASES
        theirs = not upper.startswith("DATABASES__") and upper.startswith(stems)
        if not ours or theirs or _SERVICE_LINK.fullmatch(upper) or (links and links.fullmatch(upper)):
            continue
        if not _is_variable(name):
            problems.append(Problem(f"{prefix}(a variable)", "NAME=value", "check a name that begins like ours"))
            continue
        found = collect(problems, _variable_path, upper, where)
        if found is not None:
            database, path, from_file = found
            content = read_secret(value, where, problems) if from_file else value
            if content is not None:
                put(databases.setdefault(database, {}), path, Entry(content, where, layer), problems)
    own = NamespaceVariables(prefix, variables, problems)
    sections = {name: own.read(name, model) for name, model in namespaces.items()}
    return Layer(layer, databases, sections, own.locate, _find_emptied(prefix, raw))


def _find_emptied(prefix: str, raw: Mapping[str, str]) -> dict[str, list[str]]:
    """Return, by database, the empty variables that would say where it is."""
    found: dict[str, list[str]] = {}
    for name, value in raw.items():
        upper = name.upper()
        if value.strip() or not (upper.startswith(("DB_", "DATABASES__")) or upper in _URL_ALIASES):
            continue
        said = collect([], _variable_path, upper, name)
        if said is not None and said[1][0] in SAYS_WHERE:
            found.setdefault(said[0], []).append(prefix + name)
    return found


def _drop_links(variables: Mapping[str, str]) -> tuple[dict[str, str], re.Pattern[str] | None]:
    """Return the variables without the URLs of Kubernetes' service links, and a pattern of the links' other names.

    A link is recognised by two variables that always exist; a single one may be a misspelt name of ours.
    """
    names = {name.upper() for name in variables}
    hosts = (name.removesuffix("_SERVICE_HOST") for name in names if name.endswith("_SERVICE_HOST"))
    linked = {stem for stem in hosts if f"{stem}_SERVICE_PORT" in names}
    if not linked:
        return dict(variables), None
    urls = {f"{stem}_PORT" for stem in linked}
    rest = {key: value for key, value in variables.items() if not (key.upper() in urls and _LINK_URL.fullmatch(value))}
    return rest, re.compile(f"({'|'.join(map(re.escape, linked))})_({_LINK_ENDS})")


def _variable_path(name: str, where: str) -> tuple[str, FieldPath, bool]:
    """Return which database and field a variable sets, and whether it names a file with the value.

    Raises:
        SettingsError: it has our prefix but is unknown: most likely misspelt.
    """
    database, rest = "main", _URL_ALIASES.get(name, name).removeprefix("DB_")
    if name.startswith("DATABASE__"):
        raise SettingsError([Problem(where, "DB_<FIELD> or DATABASES__<NAME>__<FIELD>", "write DB_ for DATABASE__")])
    if name.startswith("DATABASES_") and not name.startswith("DATABASES__"):
        fix = f"write two underscores between the parts: {_suggest_two_underscores(name)}"
        raise SettingsError([Problem(where, "DATABASES__<NAME>__<FIELD>", fix)])
    if name.startswith("DATABASES__"):
        database, _, rest = name.removeprefix("DATABASES__").lower().partition("__")
        if not rest or not is_name(database):
            raise SettingsError([Problem(where, "DATABASES__<NAME>__<FIELD>", "put two underscores between the parts")])
    first, *below = path = tuple(rest.lower().split("__"))
    if path in _PATHS:
        return database, path, False
    field_name = first.removesuffix("_file")
    if not below and field_name in _FROM_FILE:
        return database, (field_name,), True
    stem = where[: len(where) - len(rest)]
    raise SettingsError([Problem(where, *_judge_unknown_variable(stem, path))])


def _suggest_two_underscores(name: str) -> str:
    """Return the likely meaning of a name such as ``DATABASES_X_POOL_SIZE``."""
    rest = name.removeprefix("DATABASES_")
    files = {f"{field}_file" for field in _FROM_FILE}
    for known in sorted({"__".join(path) for path in _PATHS} | files, key=len, reverse=True):
        database = rest.removesuffix(f"_{known.upper()}").rstrip("_")
        if rest.endswith(f"_{known.upper()}") and is_name(database.lower()):
            return f"DATABASES__{database}__{known.upper()}"
    return "DATABASES__<NAME>__<FIELD>"


def _judge_unknown_variable(stem: str, path: FieldPath) -> tuple[str, str]:
    if path == ("environment",):
        return unknown_field("environment")
    known = ["__".join(known_path) for known_path in sorted(_PATHS)]
    close = guess_key("__".join(path), known)
    hint = f"did you mean {stem}{close[0].upper()}?" if close else "docs/settings.md has the known ones."
    return "a known setting, since names with this beginning are ours", f"{hint} If it isn't meant for us, rename it"
