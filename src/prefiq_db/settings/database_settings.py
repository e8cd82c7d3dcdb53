"""The settings of one database; they never read the environment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from prefiq_db.config import RetryPolicy, Target
from prefiq_db.errors import Problem, SettingsError, UsageError
from prefiq_db.masking import Secret
from prefiq_db.products import product_named
from prefiq_db.settings.field_types import (
    Boolean,
    Count,
    CountOrZero,
    Engine,
    ExistingFile,
    Hosts,
    Port,
    ReadFrom,
    Retry,
    Seconds,
    SecondsOrZero,
    SecretText,
    SyncOrAsync,
    Text,
    Tls,
    Writing,
    check_file,
    check_ssl_mode,
    drop_unset,
)
from prefiq_db.settings.problems import Names, collect, describe_unknown_key, read_complaints, show_key
from prefiq_db.settings.replica_fields import ReplicaNode, Replicas, find_replicas
from prefiq_db.settings.target import TARGET_FIELDS, find_target
from prefiq_db.settings.tls_options import lift_tls
from prefiq_db.settings.url_options import find_option_problems
from prefiq_db.silence import hush
from prefiq_db.urls import parse_url

# Any other name counts as production: no list could cover every name for it.
_NOT_PRODUCTION: Final = frozenset({"dev", "development", "local", "test", "testing", "ci"})


def is_production(environment: str) -> bool:
    """Return whether *environment* counts as production."""
    return environment.lower() not in _NOT_PRODUCTION


class DatabaseSettings(BaseModel):
    """Say where one database is and how to treat it. Frozen; ``docs/settings.md`` gives each option's worst case.

    Blanks around texts are dropped, an empty text counts as not set. After construction ``engine`` and the ``ssl_``
    fields also hold the values from the URL, and ``target`` is the parsed form of URL, split fields and defaults.

    Raises:
        SettingsError: with every problem, each naming the field; never a value, and never pydantic's own error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    engine: Engine = "sqlite"
    mode: SyncOrAsync = "sync"
    url: SecretText | None = None
    host: Hosts | None = None
    port: Port | None = None
    user: Text | None = None
    password: SecretText | None = None
    name: Text | None = None
    replicas: Replicas = ()
    read_from: ReadFrom = "primary"
    replica_wait_seconds: SecondsOrZero = 1.0
    max_replica_lag_seconds: Seconds = 30.0
    write_to: Writing = "one"
    causal_reads: Boolean = False
    pool_size: Count = 5
    max_overflow: CountOrZero = 5
    tenant_pools: Count = 32
    pool_timeout_seconds: Seconds = 5.0
    pool_max_age_seconds: Seconds = 1800.0
    ping_after_idle_seconds: SecondsOrZero = 30.0
    ask_role_after_seconds: SecondsOrZero = 10.0
    connect_timeout_seconds: Seconds = 5.0
    statement_timeout_seconds: Seconds = 30.0
    lock_timeout_seconds: Seconds = 10.0
    retry: Retry = RetryPolicy()
    retry_budget: Count = 100
    slow_query_seconds: SecondsOrZero = 0.5
    explain_slow_queries: Boolean = False
    sql_comments: Boolean = False
    leak_after_seconds: Seconds = 60.0
    ssl_mode: Tls = "prefer"
    ssl_ca: ExistingFile | None = None
    ssl_cert: ExistingFile | None = None
    ssl_key: ExistingFile | None = None
    allow_cleartext_password: Boolean = False
    read_only: Boolean = False
    mask: Boolean = True
    pgbouncer: Boolean = False
    application_name: Text = "prefiq_db"
    environment: Text = "production"

    _flavor: str = PrivateAttr(default="")  # "mysql" if that was the engine's name, which is then normalised

    def __init__(self, /, **values: Any) -> None:
        try:
            self._fill(values, str)
        except BaseException as error:
            del values
            hush(error)
            raise

    @classmethod
    def from_url(cls, url: str | Secret, **values: Any) -> Self:
        """Return settings for *url*; further fields as keyword arguments."""
        try:
            return cls(url=url, **values)
        except BaseException:
            del url, values
            raise

    @property
    def target(self) -> Target:
        """Where the database is: from the URL, the split fields or the defaults."""
        return find_target(self, self._flavor, str)

    @property
    def replica_nodes(self) -> tuple[ReplicaNode, ...]:
        """Where the replicas are, each completed from the primary's login and database."""
        return find_replicas(self, self.target, str)

    @property
    def masked(self) -> bool:
        """Whether values must stay in the process: unless ``mask`` is off in development or a test."""
        return self.mask or is_production(self.environment)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with *changes*, validated like new."""
        try:
            return type(self)(**{**set_values(self), **changes})
        except BaseException:
            del changes
            raise

    def __reduce_ex__(self, protocol: Any) -> Any:
        made = super().__reduce_ex__(protocol)
        return (_new_settings, (), *made[2:]) if type(self) is DatabaseSettings else made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with *update*, which is validated, unlike in pydantic's own method."""
        if not update:
            return super().model_copy(deep=deep)
        try:
            return self.replace(**update)
        except BaseException:
            del update
            raise

    if not TYPE_CHECKING:  # pydantic's own error would carry the rejected value

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("_"):
                raise UsageError(f"DatabaseSettings is frozen: use settings.replace({show_key(name)}=...)")
            super().__setattr__(name, value)

    def _fill(self, values: Mapping[str, Any], names: Names) -> None:
        """Validate into this instance; *names* gives the field names for messages."""
        given = drop_unset(values)
        problems, bad = self._validate(given, names)
        if bad:  # validate the rest alone, to report all problems at once
            self._validate({key: value for key, value in given.items() if key not in bad}, names)
        problems += self._settle(names, bad)
        if problems:
            raise SettingsError(problems)
        product = product_named(str(given.get("engine")))
        self._flavor = product.flavor if product else ""

    def _validate(self, given: dict[str, Any], names: Names) -> tuple[list[Problem], set[str]]:
        """Let pydantic fill the fields; return the problems, and the fields that have one."""
        try:
            self.__pydantic_validator__.validate_python(given, self_instance=self)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            problems = [problem for detail in details for problem in _field_problems(detail, names)]
            return problems, {str(detail["loc"][0]) for detail in details}
        return [], set()

    def _settle(self, names: Names, bad: Collection[str]) -> list[Problem]:
        """Copy the URL's parts into the fields, and return the problems of fields that contradict each other."""
        problems: list[Problem] = []
        main = None
        parsed = None if self.url is None else collect(problems, parse_url, self.url.reveal(), where=names("url"))
        if parsed is not None:
            problems += find_option_problems(parsed, names("url"), names)
            problems += self._lift_ssl(parsed, names) if not parsed.product.is_file else []
        if TARGET_FIELDS.isdisjoint(bad) and (self.url is None or parsed is not None):
            main = collect(problems, find_target, self, self._flavor, names)
        if main is not None:
            self.__dict__["engine"] = main.engine
        if main is not None and "replicas" not in bad:
            collect(problems, find_replicas, self, main, names)
        if self.read_from == "replica" and not self.replicas and {"replicas", "read_from"}.isdisjoint(bad):
            fix = f"name the replicas, or choose replica_preferred for {names('read_from')}"
            problems.append(Problem(names("replicas"), f"a replica, since {names('read_from')} is replica", fix))
        if self.causal_reads and main is not None and not main.product.speaks_mysql:
            fix = "remove it; to read what was written, use the primary, or a replica with a mark"
            problems.append(Problem(names("causal_reads"), "no, since only Galera has it", fix))
        if (self.ssl_cert is None) != (self.ssl_key is None) and {"ssl_cert", "ssl_key"}.isdisjoint(bad):
            have, lack = ("ssl_cert", "ssl_key") if self.ssl_key is None else ("ssl_key", "ssl_cert")
            problems.append(Problem(names(lack), f"a file, since {names(have)} is set", "set both or neither"))
        return problems

    def _lift_ssl(self, target: Target, names: Names) -> list[Problem]:
        problems: list[Problem] = []
        said: dict[str, tuple[str, object]] = {}
        for key, name in lift_tls(target)[1].items():
            where = f"{names('url')} ({key})"
            try:
                value = (check_ssl_mode if name == "ssl_mode" else check_file)(target.options[key])
            except PydanticCustomError as error:
                problems += [Problem(where, expected, fix) for _, expected, fix in read_complaints(error.context)]
                continue
            first, same = said.setdefault(name, (where, value))
            if same != value:
                problems.append(Problem(where, f"the same as in {first}", "say it in one place only"))
                continue
            if name in self.model_fields_set and getattr(self, name) != value:
                problems.append(Problem(names(name), f"the same as in {where}", "say it in one place only"))
            self.__dict__[name] = value
        return problems


def build_settings(values: Mapping[str, Any], names: Names) -> DatabaseSettings:
    """Return settings; problems name the fields by *names*.

    Raises:
        SettingsError: like the constructor.
    """
    settings = DatabaseSettings.__new__(DatabaseSettings)
    settings._fill(values, names)
    return settings


def set_values(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the arguments that the constructor got; ``DatabaseSettings(**set_values(s)) == s``."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    if settings._flavor and "engine" in values:
        values["engine"] = settings._flavor
    return values


def _field_problems(detail: ErrorDetails, names: Names) -> list[Problem]:
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return [Problem(names(show_key(name)), *describe_unknown_key(name, DatabaseSettings.model_fields))]
    found = read_complaints(detail.get("ctx")) or [("", "another kind of value", "see docs/settings.md")]
    return [Problem(_name_of(name, sub, names), expected, fix) for sub, expected, fix in found]


def _name_of(name: str, sub: str, names: Names) -> str:
    """Return the user's name for the part *sub* of a field; one in parentheses is a part of its value."""
    return f"{names(name)} {sub}" if sub.startswith("(") else names(f"{name}.{sub}" if sub else name)


def _new_settings() -> DatabaseSettings:
    """Return settings whose fields are still to be set, for a pickle."""
    return DatabaseSettings.__new__(DatabaseSettings)


_new_settings.__module__ = "prefiq_db.settings"  # pickles name it, whatever file holds it
