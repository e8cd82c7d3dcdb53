"""The only module that reads the environment: find the layers, merge them, and report all problems at once."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from prefiq_db.errors import Problem, SettingsError, UsageError
from prefiq_db.settings.database_settings import is_production
from prefiq_db.settings.field_types import drop_unset
from prefiq_db.settings.joining import join_databases
from prefiq_db.settings.layers import SAYS_WHERE, Layer, is_name
from prefiq_db.settings.loaded import Settings
from prefiq_db.settings.mappings import mapping_layer, read_yaml
from prefiq_db.settings.namespaces import fill_namespaces
from prefiq_db.settings.target import TARGET_FIELDS
from prefiq_db.settings.variables import read_dotenv, variables_layer
from prefiq_db.silence import hush

_OF_OTHERS: Final = frozenset({"SQLALCHEMY_DATABASE_URI", "SQLALCHEMY_DATABASE_URL", "SQLALCHEMY_URL", "DATABASE_URI"})
_RESERVED: Final = frozenset({"database", "databases", "db", "environment", "sources"})


def load_settings(
    namespaces: Mapping[str, type[BaseModel]] = MappingProxyType({}),
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings of all databases and *namespaces*, each validated.

    Later wins: defaults, ``settings.yaml``, ``settings.<PREFIQ_ENV>.yaml``, ``.env``, *environ* (the process's by
    default), *arguments* (shaped like the YAML). Files are looked for in *directory*, else in
    ``PREFIQ_SETTINGS_DIR``, else in the working directory; a missing one is skipped. How the layers join:
    ``docs/settings.md``.

    Raises:
        SettingsError: with every problem found, by the names the user wrote, and without values.
        UsageError: when a namespace's own name can't be used.
    """
    try:
        return _load(namespaces, os.environ if environ is None else environ, directory, arguments or {})
    except BaseException as error:
        del environ, arguments
        hush(error)  # the frames are full of secrets, and not only ours
        raise


def _load(
    namespaces: Mapping[str, type[BaseModel]],
    environ: Mapping[str, str],
    directory: Path | None,
    arguments: Mapping[str, Any],
) -> Settings:
    _check_names(namespaces)
    problems: list[Problem] = []
    directory = _directory(environ, directory, problems)
    dotenv = read_dotenv(directory / ".env", namespaces, problems)
    environment = _environment_name(environ, dotenv, arguments, problems)
    _check_file_of(environment, directory, problems)
    layers = []
    for name in dict.fromkeys(("settings.yaml", f"settings.{environment}.yaml")):
        layers.append(mapping_layer(name, read_yaml(directory / name, problems), namespaces, problems))
    layers.append(variables_layer(".env", dotenv, namespaces, problems))
    layers.append(variables_layer("environment", environ, namespaces, problems))
    layers.append(mapping_layer("arguments", arguments, namespaces, problems))
    if not any(path[0] in TARGET_FIELDS for layer in layers for path in layer.databases.get("main", {})):
        for prefix, variables in (("", environ), (".env:", dotenv)):
            problems += _find_foreign_variables(prefix, variables)
    if is_production(environment):
        problems += _find_holes(layers)
    sources: dict[str, str] = {}
    databases = join_databases(layers, environment, sources, problems)
    filled = fill_namespaces(namespaces, layers, sources, problems)
    if problems:
        raise SettingsError(problems)
    return Settings(environment, databases, filled, sources)


def _find_foreign_variables(prefix: str, variables: Mapping[str, str]) -> Iterator[Problem]:
    """Report variables that give another program the database's location, if none gives it to us."""
    for name, value in variables.items():
        if value.strip() and name.upper() in _OF_OTHERS:
            yield Problem(prefix + name, "DB_URL, which is what prefiq_db reads", "set DB_URL, to the same if it fits")


def _find_holes(layers: Collection[Layer]) -> Iterator[Problem]:
    """Report an empty setting that would say where a database is, if no other setting does.

    Most likely a template was not filled in. We don't read it as the file ``app.db``, or as no database.
    """
    for database in dict.fromkeys(name for layer in layers for name in layer.emptied):
        if any(path[0] in SAYS_WHERE for layer in layers for path in layer.databases.get(database, {})):
            continue
        if database != "main" and any(database in layer.databases for layer in layers):
            continue  # reported where the settings are built, in every environment
        fix = "fill it in; to mean the file app.db, say DB_URL=sqlite:///app.db" if database == "main" else "fill it in"
        for where in (where for layer in reversed(list(layers)) for where in layer.emptied.get(database, ())):
            yield Problem(where, f"no empty text, since nothing else says where {database} is", fix)


def _check_names(namespaces: Mapping[str, type[BaseModel]]) -> None:
    for name in namespaces:
        if not is_name(name) or name in _RESERVED:
            raise UsageError(
                f"the settings namespace {name!r} can't be used: expected lower-case letters, digits and single "
                f"underscores, and none of {', '.join(sorted(_RESERVED))}"
            )


def _directory(environ: Mapping[str, str], directory: Path | None, problems: list[Problem]) -> Path:
    text = environ.get("PREFIQ_SETTINGS_DIR", "").strip()
    found = directory or Path(text or ".")
    if not found.is_dir():
        where = "PREFIQ_SETTINGS_DIR" if directory is None else "directory"
        problems.append(Problem(where, "a directory that exists", "check the path, or unset it"))
    return found


def _environment_name(
    environ: Mapping[str, str], dotenv: Mapping[str, str], arguments: Mapping[str, Any], problems: list[Problem]
) -> str:
    choices = {
        "arguments:environment": arguments.get("environment"),
        "PREFIQ_ENV": environ.get("PREFIQ_ENV"),
        ".env:PREFIQ_ENV": dotenv.get("PREFIQ_ENV"),
    }
    for where, value in drop_unset(choices).items():
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value):
            return value
        problems.append(Problem(where, "a short name such as dev or production", "use letters, digits, _ and -"))
        break
    return "production"


def _check_file_of(environment: str, directory: Path, problems: list[Problem]) -> None:
    """Report a missing file of this environment if there is a file with a similar name, which is not read."""
    try:
        files = {path.name for path in directory.glob("settings.*.yaml")}
    except OSError:
        return  # a file that can't be read is reported where it is opened
    if f"settings.{environment}.yaml" in files:
        return
    for name in sorted(files):
        other = name.removeprefix("settings.").removesuffix(".yaml")
        if _mean_the_same(environment.lower(), other.lower()):
            fix = f"there is {name}: write PREFIQ_ENV={other}, or rename the file"
            problems.append(Problem("PREFIQ_ENV", "the name that the settings file of this environment has", fix))
            return


def _mean_the_same(one: str, other: str) -> bool:
    """Return whether two names mean the same environment: prod and production, stage and staging, Test and test."""
    short, long = sorted((one, other), key=len)
    return long == short or (short, long) == ("stage", "staging") or (len(short) > 2 and _is_begun_by(short, long))


def _is_begun_by(short: str, long: str) -> bool:
    return long.startswith(short) and long.removeprefix(short).isalpha()
