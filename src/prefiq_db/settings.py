"""Typed settings of databases and providers: validated, all problems at once, no value ever shown.

:class:`DatabaseSettings` is one database; it never reads the environment. :func:`load_settings` is the one place that
does: it lays YAML, ``.env``, the environment and arguments over each other and gives :class:`Settings`.
``docs/settings.md`` has every option, and the rules of the layers.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeVar, cast, get_args

import yaml
from dotenv.parser import parse_stream
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema
from pydantic_settings import BaseSettings, EnvSettingsSource

from prefiq_db.config import EngineName, Host, Mode, RetryPolicy, SslMode, Target
from prefiq_db.errors import Problem, SettingsError, UsageError
from prefiq_db.masking import MASK, Secret
from prefiq_db.urls import (
    ACCEPTED_ENGINES,
    STANDARD_PORTS,
    engine_named,
    format_url,
    is_mysql,
    parse_url,
    split_hosts,
)

T = TypeVar("T")
Names = Callable[[str], str]  # field path ("retry.attempts") -> what the user calls it ("DB_RETRY__ATTEMPTS")

MAX_SECONDS: Final = 2_000_000.0  # 23 days: PostgreSQL counts its timeouts in 32 bits of milliseconds
_PRODUCTION: Final = frozenset({"production", "prod", "prd", "live"})
_DEFAULT_USER: Final[Mapping[EngineName, str | None]] = {"postgres": "postgres", "mariadb": "root", "mongodb": None}
_DEFAULT_NAME: Final[Mapping[EngineName, str]] = {
    "sqlite": "app.db",
    "postgres": "postgres",
    "mariadb": "test",
    "mongodb": "test",
}


# --- values: what one field accepts ------------------------------------------------------------------


def _wrong(expected: str, fix: str, sub: str = "") -> PydanticCustomError:
    return _all_wrong([(sub, expected, fix)])


def _all_wrong(problems: list[tuple[str, str, str]]) -> PydanticCustomError:
    """Return an error that carries (path below the field, expected, fix), where pydantic would carry the value."""
    return PydanticCustomError("prefiq_db", "see the context", {"problems": problems})


def _attempt(problems: list[Problem], function: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Return the function's result, or ``None`` after noting its problems."""
    try:
        return function(*args, **kwargs)
    except SettingsError as error:
        problems.extend(error.problems)
        return None


def _whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        limit = f" and at most {maximum}" if maximum < 2**31 - 1 else ""
        raise _wrong(f"a whole number, at least {minimum}{limit}", "write digits only, without a unit")

    return check


def _seconds(*, zero: bool = False) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", value, re.I):
            value = float(value)
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0
        if 0 <= number <= MAX_SECONDS and (number > 0 or zero):
            return float(number)
        limit = "at least 0" if zero else "more than 0"
        raise _wrong(f"seconds, {limit} and at most {MAX_SECONDS:.0f}", "write a plain number such as 2.5")

    return check


def _boolean(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = words.get(str(value).strip().lower()) if isinstance(value, (str, bool, int)) else None
    if found is None:
        raise _wrong("yes or no", "write one of 1/0, true/false, yes/no, on/off")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise _wrong("text", "write it in quotes")
    return value


def _host(value: object) -> str:
    text = _text(value)
    problems: list[Problem] = []
    _attempt(problems, split_hosts, text, where="")
    if problems:
        raise _all_wrong([("", problem.expected, problem.fix) for problem in problems])
    return text


def _choice(words: Mapping[str, str], expected: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        found = words.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise _wrong(expected, "write one of these")
        return found

    return check


def _engine(value: object) -> EngineName:
    found = engine_named(value) if isinstance(value, str) else None
    if found is None:
        raise _wrong(ACCEPTED_ENGINES, "write one of these")
    return found


def _existing_file(value: object) -> Path:
    path = os.path.expanduser(value) if isinstance(value, (str, Path)) else ""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return Path(path)
    raise _wrong("a file that exists and may be read", "check the path, and that the file is mounted here")


def _replicas(value: object) -> tuple[Secret, ...]:
    """Accept a list of URLs, a JSON list, or URLs with commas or blanks between (a URL may hold commas itself)."""
    if isinstance(value, str) and value.startswith("["):
        value = _from_json(value)
    elif isinstance(value, str):
        value = re.split(r"[\s,]+(?=[A-Za-z][\w+]*://)", value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (str, Secret, SecretStr)) for item in value):
        raise _wrong("a list of URLs", "write URLs with commas between, or a JSON list of texts")
    return tuple(_secret(item) for item in value)


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _secret(value: object) -> Secret:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        value = Secret(value.strip())
    if not isinstance(value, Secret):
        raise _wrong("text", "write it in quotes")
    if value == Secret(MASK):
        raise _wrong("the secret itself", "this one was masked on its way here: set the real one")
    return value


class _SecretSchema:
    """Teach pydantic our ``Secret``: goes in as text, comes out of every dump as ``***``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _secret,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
            json_schema_input_schema=core_schema.str_schema(),
        )


def _retry(value: object) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, str):
        value = _from_json(value)
    if not isinstance(value, Mapping):
        raise _wrong("a mapping of " + ", ".join(_RETRY_FIELDS), "set them one by one, as in DB_RETRY__ATTEMPTS")
    problems: list[tuple[str, str, str]] = []
    checked: dict[str, Any] = {}
    for key, item in _given(value).items():
        if key not in _RETRY_FIELDS:
            problems.append((_shown_key(key), *_unknown(key, _RETRY_FIELDS)))
            continue
        try:
            checked[key] = _RETRY_FIELDS[key](item)
        except PydanticCustomError as error:
            problems.extend((key, expected, fix) for _, expected, fix in (error.context or {})["problems"])
    if problems:
        raise _all_wrong(problems)
    return RetryPolicy(**checked)


_RETRY_FIELDS: Final[Mapping[str, Callable[[object], float]]] = {
    entry.name: _whole(1) if entry.name == "attempts" else _seconds(zero=True) for entry in fields(RetryPolicy)
}


def _unknown(key: object, known: Collection[str]) -> tuple[str, str]:
    close = difflib.get_close_matches(str(key), known, 1, cutoff=0.6)
    fix = f"did you mean {close[0]}?" if close else "remove it, or use one of " + ", ".join(known)
    return "a known setting", fix


def _shown_key(key: object) -> str:
    """Return a key the user wrote, unless it doesn't look like one: then it may be a value in the wrong place."""
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(key)) else "(a key)"


def _given(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what is really set: blanks around texts are dropped; empty texts and ``None`` count as not set."""
    stripped = {key: value.strip() if isinstance(value, str) else value for key, value in values.items()}
    return {key: value for key, value in stripped.items() if value is not None and value != "" and value != Secret("")}


_MODES: Final = {mode: mode for mode in get_args(Mode)}
_SSL_MODES: Final = {
    **{mode: mode for mode in get_args(SslMode)},
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_full": "verify-full",
    "verify-identity": "verify-full",
    "verify_identity": "verify-full",
}
_ssl_mode = _choice(_SSL_MODES, "disable, prefer, require, verify-ca or verify-full")
_SSL_IN_URL: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "sslmode": ("ssl_mode", _ssl_mode),
    "ssl_mode": ("ssl_mode", _ssl_mode),
    "sslrootcert": ("ssl_ca", _existing_file),
    "ssl_ca": ("ssl_ca", _existing_file),
    "sslcert": ("ssl_cert", _existing_file),
    "ssl_cert": ("ssl_cert", _existing_file),
    "sslkey": ("ssl_key", _existing_file),
    "ssl_key": ("ssl_key", _existing_file),
}

Text = Annotated[str, BeforeValidator(_text)]
SecretText = Annotated[Secret, _SecretSchema()]
ExistingFile = Annotated[Path, BeforeValidator(_existing_file)]
Boolean = Annotated[bool, BeforeValidator(_boolean)]
Seconds = Annotated[float, BeforeValidator(_seconds())]
SecondsOrZero = Annotated[float, BeforeValidator(_seconds(zero=True))]

_PLACE: Final = frozenset({"engine", "url", "host", "port", "user", "password", "name"})
_SERVER_ONLY: Final = ("host", "port", "user", "password")


# --- one database --------------------------------------------------------------------------------------


class DatabaseSettings(BaseModel):
    """Say where one database is and how to treat it. Frozen; ``docs/settings.md`` tells each option's worst case.

    Blanks around texts are dropped, an empty text counts as not set. After construction ``engine`` and the ``ssl_``
    fields hold what the URL says too, and ``target`` is the one parsed form of URL, split fields and defaults.

    Raises:
        SettingsError: with every problem, each naming the field; never a value, and never pydantic's own error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    engine: Annotated[EngineName, BeforeValidator(_engine)] = "sqlite"
    mode: Annotated[Mode, BeforeValidator(_choice(_MODES, "sync or async"))] = "sync"
    url: SecretText | None = None
    host: Annotated[str, BeforeValidator(_host)] | None = None
    port: Annotated[int, BeforeValidator(_whole(1, 65535))] | None = None
    user: Text | None = None
    password: SecretText | None = None
    name: Text | None = None
    replicas: Annotated[tuple[SecretText, ...], BeforeValidator(_replicas)] = ()
    pool_size: Annotated[int, BeforeValidator(_whole(1))] = 5
    max_overflow: Annotated[int, BeforeValidator(_whole(0))] = 5
    pool_timeout_seconds: Seconds = 5.0
    pool_max_age_seconds: Seconds = 1800.0
    ping_after_idle_seconds: SecondsOrZero = 30.0
    connect_timeout_seconds: Seconds = 5.0
    statement_timeout_seconds: Seconds = 30.0
    lock_timeout_seconds: Seconds = 10.0
    retry: Annotated[
        RetryPolicy, PlainValidator(_retry), PlainSerializer(asdict, return_type=dict[str, int | float])
    ] = RetryPolicy()
    slow_query_seconds: SecondsOrZero = 0.5
    leak_after_seconds: Seconds = 60.0
    ssl_mode: Annotated[SslMode, BeforeValidator(_ssl_mode)] = "prefer"
    ssl_ca: ExistingFile | None = None
    ssl_cert: ExistingFile | None = None
    ssl_key: ExistingFile | None = None
    mask: Boolean = True
    pgbouncer: Boolean = False
    application_name: Text = "prefiq_db"
    environment: Text = "production"

    _mysql: bool = PrivateAttr(default=False)  # "mysql" was the engine's name: it is normalised away

    def __init__(self, /, **values: Any) -> None:
        self._fill(values, str)

    @classmethod
    def from_url(cls, url: str | Secret, **values: Any) -> Self:
        """Return settings for *url*; further fields as keyword arguments."""
        return cls(url=url, **values)

    @property
    def target(self) -> Target:
        """Where the database is: from the URL, the split fields or the defaults."""
        return _place(self, str)

    @property
    def target_replicas(self) -> tuple[Target, ...]:
        """Where its replicas are. What a replica's URL leaves out (user, password, name) is the main one's."""
        main = self.target
        replicas = (parse_url(url.reveal(), where="replicas") for url in self.replicas)
        return tuple(_completed(_lift(replica)[0], main) for replica in replicas)

    @property
    def masked(self) -> bool:
        """Whether values must stay in the process: always in production, whatever ``mask`` says."""
        return self.mask or self.environment.lower() in _PRODUCTION

    def replace(self, **changes: Any) -> Self:
        """Return a copy with *changes*, validated like new."""
        return type(self)(**{**self._set_values(), **changes})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; *update* is validated, unlike pydantic's own."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    if not TYPE_CHECKING:  # pydantic's own refusal would carry the value that was to be set

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("_"):
                raise UsageError(f"DatabaseSettings is frozen: use settings.replace({_shown_key(name)}=...)")
            super().__setattr__(name, value)

    def _set_values(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.model_fields_set}
        if self._mysql and "engine" in values:
            values["engine"] = "mysql"
        return values

    def _fill(self, values: Mapping[str, Any], names: Names) -> None:
        """Validate into this instance; *names* gives the words of the messages."""
        given = _given(values)
        problems, bad = self._validate(given, names)
        if bad:  # the rest is judged on its own, so that all problems are told at once
            self._validate({key: value for key, value in given.items() if key not in bad}, names)
        problems += self._settle(names, bad)
        if problems:
            raise SettingsError(problems)
        self._mysql = "engine" in given and is_mysql(str(given["engine"]))

    def _validate(self, given: dict[str, Any], names: Names) -> tuple[list[Problem], set[str]]:
        details: list[ErrorDetails] = []
        try:
            self.__pydantic_validator__.validate_python(given, self_instance=self)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        problems = [problem for detail in details for problem in _field_problems(detail, names)]
        return problems, {str(detail["loc"][0]) for detail in details}

    def _settle(self, names: Names, bad: Collection[str]) -> list[Problem]:
        """Put what the URL says into the fields, and return what the fields say against each other."""
        problems: list[Problem] = []
        main = None
        parsed = None if self.url is None else _attempt(problems, parse_url, self.url.reveal(), where=names("url"))
        if parsed is not None:
            problems += self._lift_ssl(parsed, names)
        if _PLACE.isdisjoint(bad) and (self.url is None or parsed is not None):
            main = _attempt(problems, _place, self, names)
        if main is not None:
            self.__dict__["engine"] = main.engine
        for index, url in enumerate(self.replicas):
            where = f"{names('replicas')}[{index}]"
            replica = _attempt(problems, parse_url, url.reveal(), where=where)
            if main is not None and replica is not None:
                problems += self._replica_problems(where, replica, main)
        if (self.ssl_cert is None) != (self.ssl_key is None) and {"ssl_cert", "ssl_key"}.isdisjoint(bad):
            have, lack = ("ssl_cert", "ssl_key") if self.ssl_key is None else ("ssl_key", "ssl_cert")
            problems.append(Problem(names(lack), f"a file, since {names(have)} is set", "set both or neither"))
        return problems

    def _lift_ssl(self, target: Target, names: Names) -> list[Problem]:
        problems: list[Problem] = []
        for key, (name, check, text) in _lift(target)[1].items():
            where = f"{names('url')} ({key})"
            try:
                value = check(text)
            except PydanticCustomError as error:
                problems += _carried(error, where)
                continue
            if name in self.model_fields_set and getattr(self, name) != value:
                problems.append(Problem(names(name), f"the same as in {where}", "say it in one place only"))
            self.__dict__[name] = value
        return problems

    def _replica_problems(self, where: str, replica: Target, main: Target) -> Iterator[Problem]:
        if replica.engine != main.engine:
            yield Problem(where, f"a {main.engine} database, like the main one", "use the same kind of database")
        if _lift(replica)[1]:
            yield Problem(where, "no TLS options of its own", "set ssl_mode, ssl_ca, ssl_cert, ssl_key for all servers")


def _field_problems(detail: ErrorDetails, names: Names) -> list[Problem]:
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return [Problem(names(_shown_key(name)), *_unknown(name, DatabaseSettings.model_fields))]
    context: dict[str, Any] = detail.get("ctx") or {}
    found = context.get("problems") or [("", "another kind of value", "see docs/settings.md")]
    return [Problem(names(f"{name}.{sub}" if sub else name), expected, fix) for sub, expected, fix in found]


def _carried(error: PydanticCustomError, where: str) -> list[Problem]:
    return [Problem(where, expected, fix) for _, expected, fix in (error.context or {})["problems"]]


# --- where a database is ---------------------------------------------------------------------------------


def _lift(target: Target) -> tuple[Target, dict[str, tuple[str, Callable[[object], object], str]]]:
    """Return *target* without the TLS options of its URL, and those: option -> (our field, its check, text)."""
    spelled = {key: _SSL_IN_URL.get(key.lower().replace("-", "_")) for key in target.options}
    lifted = {key: (*found, target.options[key]) for key, found in spelled.items() if found is not None}
    rest = {key: value for key, value in target.options.items() if key not in lifted}
    return replace(target, options=MappingProxyType(rest)), lifted


def _place(settings: DatabaseSettings, names: Names) -> Target:
    given = settings.model_fields_set
    if settings.url is not None:
        target = _lift(parse_url(settings.url.reveal(), where=names("url")))[0]
        problems = list(_disagreements(settings, target, names))
        target = _completed(target, Target(target.engine, (), settings.user, settings.password, settings.name or ""))
    else:
        split = any(name in given for name in _SERVER_ONLY)
        engine: EngineName = settings.engine if "engine" in given else "mariadb" if split else "sqlite"
        target, problems = _from_fields(settings, engine, names)
    if target.engine == "sqlite":
        problems += [
            Problem(names(name), "nothing, since SQLite has no server", "remove it, or choose another engine")
            for name in _SERVER_ONLY
            if name in given
        ]
    if problems:
        raise SettingsError(problems)
    return target


def _from_fields(settings: DatabaseSettings, engine: EngineName, names: Names) -> tuple[Target, list[Problem]]:
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
        flavor="mysql" if settings._mysql else "",
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
        if not agrees and not (target.engine == "sqlite" and name in _SERVER_ONLY):
            what = "the database that the scheme names" if name == "engine" else "the same, or nothing"
            yield Problem(names(name), f"{what}, since {url} says it too", "say it in one place only")


def _same_hosts(split: tuple[tuple[str, int | None], ...], hosts: tuple[Host, ...]) -> bool:
    return len(split) == len(hosts) and all(
        name == host.host and port in (None, host.port) for (name, port), host in zip(split, hosts, strict=True)
    )


def _completed(target: Target, other: Target) -> Target:
    """Return *target* with what it leaves out (user, password, name) taken from *other*."""
    if target.engine == "sqlite":
        return target
    user = target.user or other.user
    password = target.password or (other.password if user == other.user or other.user is None else None)
    return replace(target, user=user, password=password, database=target.database or other.database)


# --- layers ------------------------------------------------------------------------------------------------

_Path = tuple[str, ...]
_LOADED: Final = tuple(name for name in DatabaseSettings.model_fields if name != "environment")
_FROM_FILE: Final = frozenset({"url", "host", "user", "password", "name", "replicas", "application_name"})
_RESERVED: Final = frozenset({"database", "databases", "db", "environment", "sources"})
# What Kubernetes puts into every pod beside a service called "db".
_SERVICE_LINK = re.compile(r"DB_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One set value, what the user calls it, and the layer it came from."""

    value: Any = field(repr=False)
    where: str
    layer: str


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one layer says.

    Attributes:
        databases: by name, the fields with their paths: ``("retry", "attempts")``.
        sections: by namespace, what it says to the user's models.
        locate: (namespace, path) -> what the user calls it, or ``None`` when this layer doesn't say it.
    """

    name: str
    databases: dict[str, dict[_Path, _Entry]]
    sections: dict[str, dict[str, Any]]
    locate: Callable[[str, _Path], str | None]


class Settings:
    """All settings of an application: frozen, and silent about values.

    ``settings.database`` is the database ``main``, ``settings.databases`` has them all; the typed settings of the
    namespace ``billing`` are at ``settings.billing`` and ``settings["billing"]``. ``settings.sources`` tells which
    layer set what: ``{"databases.main.port": "environment", "billing.api_key": ".env"}``. A pickle carries the
    databases without their secrets, and no namespaces: what is secret in a user's model can't be known from here.
    """

    __slots__ = ("_databases", "_environment", "_namespaces", "_sources")

    _databases: dict[str, DatabaseSettings]
    _environment: str
    _namespaces: dict[str, BaseModel]
    _sources: dict[str, str]

    def __init__(
        self,
        environment: str,
        databases: Mapping[str, DatabaseSettings],
        namespaces: Mapping[str, BaseModel],
        sources: Mapping[str, str],
    ) -> None:
        object.__setattr__(self, "_environment", environment)
        object.__setattr__(self, "_databases", dict(databases))
        object.__setattr__(self, "_namespaces", dict(namespaces))
        object.__setattr__(self, "_sources", dict(sources))

    @property
    def environment(self) -> str:
        """``PREFIQ_ENV``, or ``production`` when unset."""
        return self._environment

    @property
    def database(self) -> DatabaseSettings:
        """The database ``main``."""
        return self._databases["main"]

    @property
    def databases(self) -> Mapping[str, DatabaseSettings]:
        """Every database by name; ``main`` is always there."""
        return MappingProxyType(self._databases)

    @property
    def sources(self) -> Mapping[str, str]:
        """The layer that set each field."""
        return MappingProxyType(self._sources)

    def __getitem__(self, namespace: str) -> Any:
        if namespace in self._namespaces:
            return self._namespaces[namespace]
        raise KeyError(f"no namespace {namespace!r} in these settings; there are: {', '.join(self._namespaces) or '-'}")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._namespaces:
            return self._namespaces[name]
        raise AttributeError(f"settings have no {name!r}; the namespaces are: {', '.join(self._namespaces) or '-'}")

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            raise UsageError("Settings are frozen: load them again with other arguments")

    def __repr__(self) -> str:
        return (
            f"Settings(environment={self._environment!r}, databases={list(self._databases)}, "
            f"namespaces={list(self._namespaces)})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return Settings, (self._environment, self._databases, {}, self._sources)


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
    _check_names(namespaces)
    problems: list[Problem] = []
    environ = os.environ if environ is None else environ
    arguments = {} if arguments is None else arguments
    directory = _directory(environ, directory, problems)
    dotenv = _read_dotenv(directory / ".env", problems)
    environment = _environment_name(environ, dotenv, arguments, problems)
    layers = []
    for name in dict.fromkeys(("settings.yaml", f"settings.{environment}.yaml")):
        layers.append(_mapping_layer(name, _read_yaml(directory / name, problems), namespaces, problems))
    layers.append(_variables_layer(".env", dotenv, namespaces, problems))
    layers.append(_variables_layer("environment", environ, namespaces, problems))
    layers.append(_mapping_layer("arguments", arguments, namespaces, problems))
    sources: dict[str, str] = {}
    databases = _databases(layers, environment, sources, problems)
    typed = {name: _section(name, model, layers, sources, problems) for name, model in namespaces.items()}
    if problems:
        raise SettingsError(problems)
    return Settings(
        environment, databases, {name: value for name, value in typed.items() if value is not None}, sources
    )


def _check_names(namespaces: Mapping[str, type[BaseModel]]) -> None:
    for name in namespaces:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or "__" in name or name in _RESERVED:
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
    for where, value in _given(choices).items():
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value):
            return value
        problems.append(Problem(where, "a short name such as dev or production", "use letters, digits, _ and -"))
        break
    return "production"


# --- layers: YAML and arguments ------------------------------------------------------------------------------


def _read_text(path: Path, where: str, problems: list[Problem]) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError):
        problems.append(Problem(where, "a file that can be read as UTF-8 text", "check the path and its permissions"))
        return ""


def _read_yaml(path: Path, problems: list[Problem]) -> Mapping[Any, Any]:
    if not path.is_file():
        return {}
    text = _read_text(path, path.name, problems)
    where, data = path.name, None
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} (line {mark.line + 1})" if mark else path.name
        data = where
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        expected = "a mapping at the top" if data is not where else "valid YAML"
        problems.append(Problem(where, expected, "write it like `database:` with indented `name: value` lines below"))
        return {}
    return data


def _mapping_layer(layer: str, data: Mapping[Any, Any], namespaces: Collection[str], problems: list[Problem]) -> _Layer:
    databases: dict[str, dict[_Path, _Entry]] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, content in data.items():
        where = f"{layer}:{_shown_key(key)}"
        if content is None or (layer == "arguments" and key == "environment"):
            continue
        if key not in ("database", "databases") and key not in namespaces:
            _judge_key(layer, key, namespaces, problems)
        elif (content := _as_mapping(content)) is None:
            problems.append(Problem(where, "a mapping", "write indented `name: value` lines below it"))
        elif key == "database":
            _put_database(databases, "main", where, layer, content, problems)
        elif key == "databases":
            _put_databases(databases, where, layer, content, problems)
        else:
            sections[key] = dict(content)
    return _Layer(layer, databases, sections, lambda name, path: _locate_key(layer, sections, name, path))


def _as_mapping(content: object) -> Mapping[Any, Any] | None:
    if isinstance(content, DatabaseSettings):
        return content._set_values()
    if isinstance(content, BaseModel):
        return {name: getattr(content, name) for name in content.model_fields_set}
    return content if isinstance(content, Mapping) else None


def _judge_key(layer: str, key: object, namespaces: Collection[str], problems: list[Problem]) -> None:
    """Refuse a key that looks like a slip; in YAML, leave others alone: the file may serve other programs too."""
    known = ("database", "databases", *namespaces)
    slips = {"db": "database", "dbs": "databases"}
    close = [slips.get(str(key).lower(), ""), *difflib.get_close_matches(str(key).lower(), known, 1, cutoff=0.8)]
    if any(close) or layer == "arguments":
        fix = f"did you mean {next(filter(None, close), '')}?" if any(close) else "use one of " + ", ".join(known)
        problems.append(Problem(f"{layer}:{_shown_key(key)}", "a known key", fix))


def _put_databases(
    databases: dict[str, dict[_Path, _Entry]],
    where: str,
    layer: str,
    content: Mapping[Any, Any],
    problems: list[Problem],
) -> None:
    for name, section in content.items():
        below = f"{where}.{_shown_key(name)}"
        fields_of = {} if section is None else _as_mapping(section)
        if not _is_database_name(str(name).lower()):
            problems.append(Problem(below, "a name of letters, digits and single underscores", "rename this database"))
        elif fields_of is None:
            problems.append(Problem(below, "a mapping", "write indented `name: value` lines below it"))
        else:
            _put_database(databases, str(name).lower(), below, layer, fields_of, problems)


def _is_database_name(name: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and "__" not in name


def _put_database(
    databases: dict[str, dict[_Path, _Entry]],
    name: str,
    where: str,
    layer: str,
    content: Mapping[Any, Any],
    problems: list[Problem],
) -> None:
    entries = databases.setdefault(name, {})
    for key, value in _given(content).items():
        below = f"{where}.{_shown_key(key)}"
        if key not in _LOADED:
            problems.append(Problem(below, *_unknown_field(str(key))))
        else:
            _put(entries, (key,), _Entry(value, below, layer), problems)


def _unknown_field(key: str) -> tuple[str, str]:
    if key == "environment":
        return "nothing: all databases of a process share one environment", "set PREFIQ_ENV"
    return _unknown(key, _LOADED)


def _put(entries: dict[_Path, _Entry], path: _Path, entry: _Entry, problems: list[Problem]) -> None:
    """Add one value to a layer; two names for one thing may only say the same."""
    value = asdict(entry.value) if isinstance(entry.value, RetryPolicy) else entry.value
    if path == ("retry",) and isinstance(value, str):
        value = _from_json(value)
    if path == ("retry",) and isinstance(value, Mapping):
        for key, item in value.items():
            _put(entries, (*path, str(key)), replace(entry, value=item, where=f"{entry.where}.{key}"), problems)
        return
    other = entries.setdefault(path, entry)
    if other.value != entry.value:
        problems.append(Problem(entry.where, f"the same as in {other.where}, or nothing", "say it in one place only"))


def _locate_key(layer: str, sections: Mapping[str, Any], namespace: str, path: _Path) -> str | None:
    content = sections.get(namespace)
    for key in path:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
        elif not (isinstance(content, (list, tuple)) and key.isdecimal()):
            return None
    return f"{layer}:" + ".".join((namespace, *map(_shown_key, path)))


# --- layers: .env and environment ----------------------------------------------------------------------------


def _read_dotenv(path: Path, problems: list[Problem]) -> dict[str, str]:
    """Return the variables of a ``.env`` file; ``${NAME}`` stays as it is, for a password may hold it."""
    found: dict[str, str] = {}
    if path.is_file():
        for binding in parse_stream(StringIO(_read_text(path, path.name, problems))):
            if binding.error or (binding.key is not None and binding.value is None):
                line = f"{path.name} (line {binding.original.line})"
                problems.append(Problem(line, "NAME=value", "quote values that hold quotes, # or line breaks"))
            elif binding.key is not None:
                found[binding.key] = binding.value or ""
    return found


def _variables_layer(
    layer: str, raw: Mapping[str, str], namespaces: Mapping[str, type[BaseModel]], problems: list[Problem]
) -> _Layer:
    variables = _given(raw)
    prefix = "" if layer == "environment" else f"{layer}:"
    databases: dict[str, dict[_Path, _Entry]] = {}
    for name, value in variables.items():
        where = prefix + name
        upper = name.upper()
        if not upper.startswith(("DB_", "DATABASES__", "DATABASE__")) and upper not in _URL_ALIASES:
            continue
        if _SERVICE_LINK.fullmatch(upper):
            continue
        found = _attempt(problems, _variable_path, upper, where)
        if found is not None:
            database, path, from_file = found
            content = _read_secret(value, where, problems) if from_file else value
            if content is not None:
                _put(databases.setdefault(database, {}), path, _Entry(content, where, layer), problems)
    sections, shown = _environment_sections(prefix, variables, namespaces, problems)
    return _Layer(layer, databases, sections, lambda name, path: _locate_variable(prefix, shown, name, path))


_URL_ALIASES: Final = {"DATABASE_URL": "DB_URL", "DATABASE_URL_FILE": "DB_URL_FILE"}


def _variable_path(name: str, where: str) -> tuple[str, _Path, bool]:
    """Return which database and field a variable sets, and whether it names a file with the value.

    Raises:
        SettingsError: when it begins like ours and is none of ours: most likely a slip of the pen.
    """
    database, rest = "main", _URL_ALIASES.get(name, name).removeprefix("DB_")
    if name.startswith("DATABASE__"):
        raise SettingsError([Problem(where, "DB_<FIELD> or DATABASES__<NAME>__<FIELD>", "write DB_ for DATABASE__")])
    if name.startswith("DATABASES__"):
        database, _, rest = name.removeprefix("DATABASES__").lower().partition("__")
        if not rest or not _is_database_name(database):
            raise SettingsError([Problem(where, "DATABASES__<NAME>__<FIELD>", "put two underscores between the parts")])
    first, *below = path = tuple(rest.lower().split("__"))
    if path in _PATHS:
        return database, path, False
    field_name = first.removesuffix("_file")
    if not below and field_name in _FROM_FILE:
        return database, (field_name,), True
    stem = where[: len(where) - len(rest)]
    raise SettingsError([Problem(where, *_unknown_variable(stem, path))])


_PATHS: Final = frozenset({*((name,) for name in _LOADED), *(("retry", name) for name in _RETRY_FIELDS)})


def _unknown_variable(stem: str, path: _Path) -> tuple[str, str]:
    if path == ("environment",):
        return _unknown_field("environment")
    known = ["__".join(known_path) for known_path in sorted(_PATHS)]
    close = difflib.get_close_matches("__".join(path), known, 1, cutoff=0.6)
    hint = f"did you mean {stem}{close[0].upper()}?" if close else "docs/settings.md has the known ones."
    return "a known setting, since names with this beginning are ours", f"{hint} If it isn't meant for us, rename it"


def _read_secret(path: str, where: str, problems: list[Problem]) -> str | None:
    found: list[Problem] = []
    text = _read_text(Path(path), where, found)
    if not found and not text.strip():
        found.append(Problem(where, "a file with a value in it", "check that the secret was written"))
    problems.extend(found)
    return None if found else text.rstrip("\r\n")


class _Variables(EnvSettingsSource):
    """pydantic-settings' reading of variables (nesting, JSON for lists), over a mapping instead of the process's."""

    def __init__(self, model: type[BaseModel], prefix: str, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(cast("type[BaseSettings]", model), False, prefix, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


def _environment_sections(
    prefix: str,
    variables: Mapping[str, str],
    namespaces: Mapping[str, type[BaseModel]],
    problems: list[Problem],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what the variables say to each namespace, and by upper-case name what the user calls each variable."""
    shown = {name.upper(): name for name in variables}
    sections: dict[str, dict[str, Any]] = {}
    for namespace, model in namespaces.items():
        own = _with_files(prefix, f"{namespace.upper()}_", model, variables, shown, problems)
        section = _read_variables(namespace, model, own)
        if section is None:  # one by one, to tell which of them is at fault
            section = {}
            for name, value in own.items():
                part = _read_variables(namespace, model, {name: value})
                section = _merged(section, part or {})
                if part is None:
                    where = prefix + shown.get(name, name)
                    problems.append(Problem(where, "JSON, since it is a list or a mapping", 'write it like ["a", "b"]'))
        if section:
            sections[namespace] = section
    return sections, shown


def _read_variables(namespace: str, model: type[BaseModel], variables: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the variables say to the fields of *model*, or ``None`` when one is not valid JSON."""
    source = _Variables(model, f"{namespace}_", variables)
    section: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        try:
            value, key, is_complex = source.get_field_value(info, name)
            prepared = source.prepare_field_value(name, info, value, is_complex)
        except ValueError:
            return None
        if prepared is not None:
            section[key] = prepared
    return section


def _with_files(
    prefix: str,
    stem: str,
    model: type[BaseModel],
    variables: Mapping[str, str],
    shown: dict[str, str],
    problems: list[Problem],
) -> dict[str, str]:
    """Return *variables* with the content of each file that a ``*_FILE`` variable of this namespace names."""
    known = set(_leaves(stem, model))
    own = {name.upper(): value for name, value in variables.items()}
    for name, path in list(own.items()):
        plain = name.removesuffix("_FILE")
        if name in known or plain not in known or plain == name:
            continue
        where = prefix + shown[name]
        if plain in own:
            problems.append(Problem(where, f"only one of this and {prefix}{shown[plain]}", "unset one of the two"))
        content = _read_secret(path, where, problems)
        if content is not None:
            own[plain], shown[plain] = content, shown[name]
    return own


def _leaves(stem: str, model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield f"{stem}{name.upper()}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaves(f"{stem}{name.upper()}__", info.annotation)


def _locate_variable(prefix: str, shown: Mapping[str, str], namespace: str, path: _Path) -> str | None:
    for length in range(len(path), 0, -1):
        name = f"{namespace}_{'__'.join(path[:length])}".upper()
        if name in shown:
            return prefix + shown[name]
    return None


# --- joining the layers ----------------------------------------------------------------------------------------


def _databases(
    layers: list[_Layer], environment: str, sources: dict[str, str], problems: list[Problem]
) -> dict[str, DatabaseSettings]:
    names = dict.fromkeys(["main", *(name for layer in layers for name in layer.databases)])
    built: dict[str, DatabaseSettings] = {}
    for name in names:
        entries: dict[_Path, _Entry] = {}
        for layer in layers:
            entries = _overlaid(entries, layer.databases.get(name, {}))
        sources |= {".".join(("databases", name, *path)): entry.layer for path, entry in entries.items()}
        settings = _attempt(problems, _database, name, entries, environment)
        if settings is not None:
            built[name] = settings
    return built


def _database(name: str, entries: Mapping[_Path, _Entry], environment: str) -> DatabaseSettings:
    def shown(path: str) -> str:
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
        where = next((entry.where for entry in entries.values()), shown("url"))
        fix = f"set {shown('url')}, or check the name of the database"
        raise SettingsError([Problem(where, f"the database {name} to say where it is", fix)])
    settings = DatabaseSettings.__new__(DatabaseSettings)
    settings._fill(values, shown)
    return settings


def _overlaid(old: dict[_Path, _Entry], new: dict[_Path, _Entry]) -> dict[_Path, _Entry]:
    """Lay one layer over the earlier ones.

    A URL is shorthand for its parts. In a later layer, a URL replaces all parts of earlier layers, but for a password
    that stands alone in its layer when the URL has none; a part replaces that part of an earlier URL; another engine
    drops what earlier layers said about the place, which was another server's.
    """
    changed = {path[0] for path in new} & _PLACE
    kept = dict(old)
    if "url" in changed:
        keep_password = _password_stands_alone(old) and not _has_password(new[("url",)])
        kept = _without_place(old, keep=("password",) if keep_password else ())
    elif changed and (engine := _engine_said(old)) is not None:
        later = _engine_said(new) or ("mariadb" if engine == "sqlite" and changed & set(_SERVER_ONLY) else engine)
        if later != engine:
            kept = _without_place(old)
        elif ("url",) in old:
            kept[("url",)] = _with_parts(old[("url",)], new)
    if ("retry",) in new:
        kept = {path: entry for path, entry in kept.items() if path[0] != "retry"}
    return {**kept, **new}


def _without_place(entries: Mapping[_Path, _Entry], keep: Collection[str] = ()) -> dict[_Path, _Entry]:
    return {path: entry for path, entry in entries.items() if path[0] not in _PLACE or path[0] in keep}


def _password_stands_alone(entries: Mapping[_Path, _Entry]) -> bool:
    password = entries.get(("password",))
    beside = [path for path, entry in entries.items() if password and entry.layer == password.layer]
    return password is not None and not any(path[0] in _PLACE - {"password"} for path in beside)


def _parsed(entry: _Entry) -> Target | None:
    text = entry.value.reveal() if isinstance(entry.value, Secret) else entry.value
    return _attempt([], parse_url, text, where="") if isinstance(text, str) else None


def _has_password(entry: _Entry) -> bool:
    target = _parsed(entry)
    return target is not None and target.password is not None


def _engine_said(entries: Mapping[_Path, _Entry]) -> EngineName | None:
    if ("engine",) in entries:
        return engine_named(str(entries[("engine",)].value))
    target = _parsed(entries[("url",)]) if ("url",) in entries else None
    return target.engine if target else None


def _with_parts(url: _Entry, new: Mapping[_Path, _Entry]) -> _Entry:
    """Return the earlier URL with the parts that a later layer says; unchanged when one of them is not valid."""
    target = _parsed(url)
    said = {path[0]: entry.value for path, entry in new.items() if path[0] in _PLACE}
    if target is None:
        return url
    try:
        port = _whole(1, 65535)(said["port"]) if "port" in said else None
        hosts = (
            split_hosts(_text(said["host"]), where="") if "host" in said else [(h.host, h.port) for h in target.hosts]
        )
        target = replace(
            target,
            hosts=tuple(Host(name, port or own or STANDARD_PORTS[target.engine]) for name, own in hosts),
            user=_text(said["user"]) if "user" in said else target.user,
            password=_secret(said["password"]) if "password" in said else target.password,
            database=_text(said["name"]) if "name" in said else target.database,
        )
    except (PydanticCustomError, SettingsError):
        return url
    return replace(url, value=Secret(format_url(target)))


# --- the user's own namespaces ---------------------------------------------------------------------------------


def _section(
    namespace: str,
    model: type[BaseModel],
    layers: list[_Layer],
    sources: dict[str, str],
    problems: list[Problem],
) -> BaseModel | None:
    merged: dict[str, Any] = {}
    for layer in layers:
        section = layer.sections.get(namespace, {})
        merged = _merged(merged, section)
        sources |= {f"{namespace}.{key}": layer.name for key in section}
    details: list[ErrorDetails] = []
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    problems.extend(_section_problem(namespace, detail, layers) for detail in details)
    return None


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        earlier = result.get(key)
        mappings = isinstance(earlier, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(cast("Mapping[str, Any]", earlier), value) if mappings else value
    return result


# Our own words by the beginning of pydantic's error type: its messages may quote the value.
_EXPECTED: Final = {
    "missing": "a value: it is required",
    "extra_forbidden": "a known setting",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "decimal": "a decimal number",
    "bool": "true or false",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern": "text that matches {pattern}",
    "string": "text",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal": "one of {expected}",
    "enum": "one of {expected}",
    "url": "a URL",
    "uuid": "a UUID",
    "datetime": "a date and time",
    "date": "a date",
    "timedelta": "a duration",
    "time": "a time",
    "path": "a path that exists",
    "list": "a list",
    "set": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
}


def _section_problem(namespace: str, detail: ErrorDetails, layers: list[_Layer]) -> Problem:
    path = tuple(map(str, detail["loc"]))
    variable = f"{namespace}_{'__'.join(map(_shown_key, path))}".upper()
    key = ".".join((namespace, *map(_shown_key, path)))
    where = next(filter(None, (layer.locate(namespace, path) for layer in reversed(layers) if path)), None)
    template = next((text for kind, text in _EXPECTED.items() if detail["type"].startswith(kind)), "")
    expected = template.format_map(_Context(detail.get("ctx") or {})) or f"what the settings of {namespace} accept"
    if not path:
        return Problem(namespace, expected, f"check how the settings of {namespace} fit together")
    return Problem(where or variable, expected, f"set {variable}, or {key} in settings.yaml")


class _Context(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "what is allowed"
