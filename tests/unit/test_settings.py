"""Settings: layers in their order, all problems in one error, and never a value."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from prefiq_db.config import Host, RetryPolicy, Target
from prefiq_db.errors import SettingsError, UsageError
from prefiq_db.masking import Secret
from prefiq_db.settings import DatabaseSettings, Settings, load_settings
from prefiq_db.settings.yaml_text import load_yaml
from tests.unit.bad_environments import BAD_ENVIRONMENTS, CANARY

ROOT = Path(__file__).parents[2]


class Limits(BaseModel):
    per_day: int = 10
    currencies: list[str] = []


class Billing(BaseModel):
    api_key: SecretStr
    mode: Literal["test", "live"] = "test"
    limits: Limits = Limits()


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Load from an empty directory and the given variables only."""

    def load(
        environ: Mapping[str, str] | None = None,
        namespaces: Mapping[str, type[BaseModel]] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Settings:
        return load_settings(namespaces or {}, environ=environ or {}, directory=tmp_path, arguments=arguments)

    return load


def failure(function: Any, *args: Any, **kwargs: Any) -> SettingsError:
    """Return the error, after checking that nothing of it, shown in any way, holds a planted value."""
    with pytest.raises(SettingsError) as caught:
        function(*args, **kwargs)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = [str(error), repr(error), repr(error.args), repr(error.__dict__), *traceback.format_exception(error)]
    assert CANARY not in "".join(shown)
    assert CANARY.encode() not in pickle.dumps(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def built(**values: Any) -> DatabaseSettings | SettingsError:
    try:
        return DatabaseSettings(**values)
    except SettingsError as error:
        return error


def wheres(error: SettingsError) -> list[str]:
    return [problem.where for problem in error.problems]


# --- DatabaseSettings: defaults and places -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ({}, Target("sqlite", database="app.db")),
        ({"name": "x.db"}, Target("sqlite", database="x.db")),
        ({"engine": "sqlite3"}, Target("sqlite", database="app.db")),
        ({"engine": "SQLite", "name": ":memory:"}, Target("sqlite", database=":memory:")),
        ({"engine": "mariadb"}, Target("mariadb", (Host("127.0.0.1", 3306),), "root", database="test")),
        ({"engine": " MySQL "}, Target("mariadb", (Host("127.0.0.1", 3306),), "root", database="test", flavor="mysql")),
        ({"engine": "PG"}, Target("postgres", (Host("127.0.0.1", 5432),), "postgres", database="postgres")),
        ({"engine": "mongo"}, Target("mongodb", (Host("127.0.0.1", 27017),), database="test")),
        ({"host": "h"}, Target("mariadb", (Host("h", 3306),), "root", database="test")),
        ({"port": "3307"}, Target("mariadb", (Host("127.0.0.1", 3307),), "root", database="test")),
        ({"user": "u"}, Target("mariadb", (Host("127.0.0.1", 3306),), "u", database="test")),
        (
            {"password": "p", "name": "shop"},
            Target("mariadb", (Host("127.0.0.1", 3306),), "root", Secret("p"), database="shop"),
        ),
        (
            {"engine": "postgres", "host": "a, b,[::1]", "port": 1, "user": "u"},
            Target("postgres", (Host("a", 1), Host("b", 1), Host("::1", 1)), "u", database="postgres"),
        ),
        (
            {"url": "postgres://u@h/d", "password": " p ", "engine": "pg", "host": "h", "port": 5432, "name": "d"},
            Target("postgres", (Host("h", 5432),), "u", Secret("p"), "d"),
        ),
        ({"url": "postgres://h", "user": "u", "name": "d"}, Target("postgres", (Host("h", 5432),), "u", database="d")),
        ({"url": "", "host": "  ", "user": None, "engine": ""}, Target("sqlite", database="app.db")),
    ],
)
def test_where_the_database_is(values: dict[str, Any], target: Target) -> None:
    settings = DatabaseSettings(**values)
    assert settings.target == target
    assert settings.engine == target.engine


def test_it_never_reads_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DB_URL", "postgres://h/d")
    monkeypatch.setenv("ENGINE", "postgres")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DB_ENGINE=mariadb\nENGINE=mariadb\n")
    assert DatabaseSettings().engine == "sqlite"
    assert load_settings().database.engine == "postgres", "but load_settings does"


def test_defaults_are_those_of_the_design() -> None:
    settings = DatabaseSettings.from_url("postgres://h/d", mode="async")
    assert (settings.mode, settings.pool_size, settings.max_overflow, settings.retry) == ("async", 5, 5, RetryPolicy())
    seconds = [value for name, value in settings.model_dump().items() if name.endswith("_seconds")]
    assert seconds == [1, 30, 5, 1800, 30, 10, 5, 30, 10, 0.5, 60]
    assert (settings.ssl_mode, settings.mask, settings.pgbouncer) == ("prefer", True, False)
    assert (settings.application_name, settings.environment, settings.replicas) == ("prefiq_db", "production", ())


@pytest.mark.parametrize("word", ["1", "true", " Yes", "ON ", "tRuE", True, 1])
def test_yes_in_any_form(word: Any) -> None:
    assert DatabaseSettings(pgbouncer=word).pgbouncer is True


@pytest.mark.parametrize("word", ["0", "false", " No", "OFF ", False, 0])
def test_no_in_any_form(word: Any) -> None:
    assert DatabaseSettings(mask=word).mask is False


@pytest.mark.parametrize("word", ["maybe", "2", 2, 1.0, "y", [], "truetrue"])
def test_neither_yes_nor_no_is_refused(word: Any) -> None:
    assert wheres(failure(DatabaseSettings, mask=word)) == ["mask"]


def test_durations_may_be_timedeltas() -> None:
    assert DatabaseSettings(pool_max_age_seconds=timedelta(minutes=1)).pool_max_age_seconds == 60.0


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.binary(), st.lists(st.integers())))
def test_a_number_is_in_range_or_refused(value: Any) -> None:
    for name in ("statement_timeout_seconds", "pool_size", "port", "ping_after_idle_seconds"):
        result = built(engine="postgres", **{name: value})
        if isinstance(result, SettingsError):
            assert wheres(result) == [name]
        else:
            number = getattr(result, name)
            assert number is None or 0 < number < float("inf") or name == "ping_after_idle_seconds"


@pytest.mark.parametrize(
    "retry",
    [
        RetryPolicy(attempts=2, total_seconds=3),
        {"attempts": 2, "total_seconds": 3},
        {"attempts": "2", "total_seconds": " 3.0"},
        '{"attempts": 2, "total_seconds": 3}',
    ],
)
def test_retry_in_any_form_is_a_policy(retry: Any) -> None:
    assert DatabaseSettings(retry=retry).retry == RetryPolicy(attempts=2, total_seconds=3)


@pytest.mark.parametrize(
    ("said", "mode"),
    [("Verify_CA", "verify-ca"), ("VERIFY_IDENTITY", "verify-full"), ("required", "require"), ("disable", "disable")],
)
def test_tls_in_one_vocabulary(said: str, mode: str) -> None:
    assert DatabaseSettings(ssl_mode=said).ssl_mode == mode
    settings = DatabaseSettings(url=f"postgres://h/d?sslmode={said}&keepalives=1")
    assert settings.ssl_mode == mode
    assert settings.target.options == {"keepalives": "1"}


def test_tls_files_of_the_url(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.touch()
    settings = DatabaseSettings(url=f"postgres://h/d?sslrootcert={file}&sslcert={file}&sslkey={file}")
    assert (settings.ssl_ca, settings.ssl_cert, settings.ssl_key) == (file, file, file)
    assert DatabaseSettings(url=f"mysql://h/d?ssl-ca={file}").ssl_ca == file
    assert wheres(failure(DatabaseSettings, url=f"postgres://h/d?sslcert={file}")) == ["ssl_key"]


def test_replicas_wherever_they_are_said(load: Any, tmp_path: Path) -> None:
    """As URLs or parts; what they don't say is the primary's."""
    file, main = tmp_path / "replicas", {"DB_URL": "pg://u:p@h:5555/d?keepalives=1"}
    file.write_text("pg://r")
    for environ in ({"DB_REPLICAS": "pg://r"}, {"DB_REPLICAS": '["pg://r"]'}, {"DB_REPLICAS_FILE": str(file)}):
        (node,) = load(main | environ).database.replica_nodes
        assert (node.name, node.weight, node.target.user, node.target.database) == ("replica-1", 1.0, "u", "d")
        assert node.target.password == Secret("p")
        assert [str(host) for host in node.target.hosts] == ["r:5432"]
        assert node.target.options == {"keepalives": "1"}
    (tmp_path / "settings.yaml").write_text(
        "databases: {x: {url: 'pg://u:p@h:5555/d', replicas: [pg://r, {host: s, weight: 2, name: big, user: v}]}}\n"
    )
    one, other = load(main).databases["x"].replica_nodes
    assert (one.name, other.name, other.weight) == ("replica-1", "big", 2.0)
    assert [str(host) for host in other.target.hosts] == ["s:5555"]
    assert (other.target.user, other.target.password) == ("v", None)  # the password belongs to another user
    assert DatabaseSettings(engine="pg", replicas="").replicas == ()
    settings = DatabaseSettings(url="pg://u:p@h/d", replicas=[f"pg://u:{CANARY}@r"])
    assert CANARY not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.replace(pool_size=3).replica_nodes == settings.replica_nodes


@pytest.mark.parametrize("word", ["1", "yes", True])
def test_a_database_may_be_read_only(load: Any, tmp_path: Path, word: Any) -> None:
    assert load({"DB_READ_ONLY": str(word)}).database.read_only
    (tmp_path / "settings.yaml").write_text("databases: {x: {url: pg://h/d, read_only: yes}}\n")
    assert load().databases["x"].read_only
    assert not load().database.read_only
    assert DatabaseSettings(read_only=word).read_only


@pytest.mark.parametrize(
    ("environment", "masked"),
    [
        *((name, True) for name in ("production", "Prod", "live", "prod-eu", "staging", "qa", "devops", "tests")),
        *((name, False) for name in ("dev", "Development", "local", "test", "testing", "CI")),
    ],
)
def test_masking_is_only_off_outside_production(environment: str, masked: bool) -> None:
    assert DatabaseSettings(mask="off", environment=environment).masked is masked
    assert DatabaseSettings(environment=environment).masked is True


def test_replace_validates_and_keeps_what_was_set() -> None:
    settings = DatabaseSettings(engine="mysql", password="p", pool_size=3)
    changed = settings.replace(pool_size="4")
    assert (changed.pool_size, changed.target) == (4, settings.target)
    assert settings.model_copy(update={"pool_size": 4}) == changed
    assert settings.model_copy() == settings
    assert wheres(failure(settings.model_copy, update={"pool_size": 0})) == ["pool_size"]


def test_mysql_is_not_forgotten() -> None:
    settings = DatabaseSettings(engine="mysql")
    for other in (settings.replace(mode="async"), copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert other.target.flavor == "mysql"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABASES_X_URL", "DATABASES__X__URL"),
        ("databases_big_one_pool_size", "DATABASES__BIG_ONE__POOL_SIZE"),
        ("DATABASES_X__PASSWORD_FILE", "DATABASES__X__PASSWORD_FILE"),
        ("DATABASES_X_RETRY__ATTEMPTS", "DATABASES__X__RETRY__ATTEMPTS"),
        ("DATABASES_X_WEATHER", "DATABASES__<NAME>__<FIELD>"),
    ],
)
def test_one_underscore_for_two_is_told(load: Any, name: str, meant: str) -> None:
    error = failure(load, {name: CANARY})
    assert wheres(error) == [name]
    assert error.problems[0].fix.endswith(f": {meant}")


def test_names_of_others_that_begin_like_ours_are_left_alone(load: Any) -> None:
    links = {"DATABASES_PORT": "tcp://10.0.0.1:1", "DATABASES_SERVICE_HOST": "10.0.0.1", "DATABASES_PORT_1_TCP": "x"}
    assert load(links).database.engine == "sqlite"
    assert load({"DATABASES_OF_MODE": "live", "DATABASES_OF_API_KEY": "k"}, {"databases_of": Billing})


@pytest.mark.parametrize(
    ("url", "where", "said"),
    [
        ("sqlite:////tmp/x.db?mode={}", ["url (mode)"], "read_only"),
        ("sqlite:///x.db?nonsense={}&sslmode={}", ["url (nonsense)", "url (sslmode)"], "SQLite"),
        ("sqlite:///x.db?token={}", ["url (token)"], "SQLite"),
        ("mariadb://h/d?nonsense={}&charset={}", ["url (nonsense)", "url (charset)"], "ssl_mode, ssl_ca"),
        ("mariadb://h,i/d?target_session_attrs={}", ["url (target_session_attrs)"], "any, read-write, read-only"),
        ("mysql://h/d?api_key={}", ["url (api_key)"], "ssl_mode, ssl_ca"),
        ("postgres://h/d?connect_timeout={}", ["url (connect_timeout)"], "set connect_timeout_seconds"),
        ("postgres://h/d?application_name={}", ["url (application_name)"], "set application_name"),
        ("postgres://h/d?options={}", ["url (options)"], "ALTER ROLE"),
        ("postgres://h/d?dbname={}", ["url (dbname)"], "after the host"),
        ("postgres://h/d?slmode={}", ["url (slmode)"], "did you mean sslmode?"),
        ("postgres://h/d?prepare_threshold={}", ["url (prepare_threshold)"], "libpq"),
        ("postgres://h/d?api_key={}", ["url (api_key)"], "libpq"),
    ],
)
def test_an_option_nobody_hears_is_refused(url: str, where: list[str], said: str) -> None:
    error = failure(DatabaseSettings, url=url.replace("{}", CANARY))
    assert wheres(error) == where
    assert said in str(error)


def test_options_of_libpq_go_to_the_driver() -> None:
    psycopg = pytest.importorskip("psycopg")
    own = {"user", "password", "host", "port", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey"}
    refused = own | {"connect_timeout", "options", "application_name"}
    for option in psycopg.pq.Conninfo.get_defaults():
        if (key := option.keyword.decode()) not in refused:
            target = DatabaseSettings(url=f"postgres://h/d?{key}=1").target
            assert [*target.options, *target.secret_options] == [key]


def test_two_spellings_of_one_tls_option_must_agree() -> None:
    error = failure(DatabaseSettings, url="postgres://h/d?sslmode=require&ssl_mode=disable")
    assert wheres(error) == ["url (ssl_mode)"]
    assert "url (sslmode)" in str(error)
    assert DatabaseSettings(url="mysql://h/d?sslmode=require&ssl-mode=REQUIRED").ssl_mode == "require"


# --- DatabaseSettings: silence --------------------------------------------------------------------------------


def test_nothing_of_a_secret_survives_in_any_form() -> None:
    url = f"postgres://u:{CANARY}@h/d?sslpassword={CANARY}"
    settings = [
        DatabaseSettings(url=url),
        DatabaseSettings(host="h", password=SecretStr(CANARY)),
        DatabaseSettings(host="h", password=Secret(CANARY)),
    ]
    for one in settings:
        assert CANARY in str([one.target.password.reveal()]) if one.target.password else False
        dumps = [one.model_dump(), one.model_dump(mode="json"), dict(one), vars(one), one.target]
        shown = f"{one} {one!r} {dumps!r} {one.model_dump_json()} {one.model_json_schema()}"
        assert CANARY not in shown
        assert CANARY.encode() not in pickle.dumps(one)
        assert copy.deepcopy(one) == one
    assert settings[0].model_dump()["url"] == "***"


def test_a_pickle_comes_back_without_secrets() -> None:
    back = pickle.loads(pickle.dumps(DatabaseSettings(host="h", password=CANARY, pool_size=3)))
    assert (back.host, back.pool_size, back.engine) == ("h", 3, "mariadb")
    with pytest.raises(LookupError):
        back.password.reveal()


def test_a_masked_password_does_not_become_the_password() -> None:
    dumped = DatabaseSettings(host="h", password="p").model_dump()
    assert "password" in wheres(failure(lambda: DatabaseSettings(**dumped)))


def test_it_is_frozen_without_telling_the_value() -> None:
    settings = DatabaseSettings()
    with pytest.raises(UsageError) as caught:
        settings.password = CANARY
    assert CANARY not in repr(caught.value)
    assert hash(settings) == hash(DatabaseSettings())


@pytest.mark.parametrize("build", [DatabaseSettings.model_validate, lambda values: DatabaseSettings(**values)])
def test_every_problem_of_every_field_is_told_at_once(build: Any) -> None:
    names = [name for name in DatabaseSettings.model_fields if name not in ("user", "name", "environment")]
    values: dict[str, Any] = dict.fromkeys(names, CANARY) | {"host": f"{CANARY} x"}
    texts = {"application_name": 1, "password": 1, "user": 1, "name": 1, "environment": 1}
    error = failure(build, values | texts | {"replicas": [CANARY], "weather": CANARY})
    expected = {*DatabaseSettings.model_fields, "weather"} - {"replicas"} | {"replicas (1: url)"}
    assert set(wheres(error)) == expected
    assert len(error.problems) == len(expected)


def test_a_key_that_looks_like_a_value_is_not_told() -> None:
    assert wheres(failure(lambda: DatabaseSettings(**{f"postgres://{CANARY}@h": 1}))) == ["(a key)"]


@given(st.dictionaries(st.sampled_from(list(DatabaseSettings.model_fields)), st.text(max_size=20).map(CANARY.__add__)))
def test_whatever_is_wrong_no_value_is_told(values: dict[str, str]) -> None:
    result = built(**values)
    assert CANARY not in str(result) or not isinstance(result, SettingsError)
    assert not isinstance(result, SettingsError) or result.__context__ is None


# --- load_settings: bad environments --------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_ENVIRONMENTS)
def test_a_bad_environment_is_told_by_its_variables(name: str, tmp_path: Path) -> None:
    environ, variables = BAD_ENVIRONMENTS[name]
    directory = None if "PREFIQ_SETTINGS_DIR" in environ else tmp_path
    error = failure(load_settings, environ=environ, directory=directory)
    for variable in variables:
        assert re.search(rf"(?<![\w.]){re.escape(variable)}(?!\w)", str(error)), f"{variable} in: {error}"
    for problem in error.problems:
        assert problem.where
        assert problem.expected
        assert problem.fix


# --- load_settings: good ones -----------------------------------------------------------------------------------


def test_nothing_at_all_is_an_embedded_file(load: Any) -> None:
    settings = load()
    assert settings.database.target == Target("sqlite", database="app.db")
    assert list(settings.databases) == ["main"]
    assert settings.environment == settings.database.environment == "production"


def test_later_layers_win_field_by_field(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(
        "database: {pool_size: 1, max_overflow: 1, mode: async, lock_timeout_seconds: 1, pgbouncer: yes,"
        " retry: {attempts: 1, total_seconds: 9}}\n"
    )
    (tmp_path / "settings.dev.yaml").write_text(
        "database: {max_overflow: 2, mode: async, lock_timeout_seconds: 2, retry: {attempts: 2}}\n"
    )
    (tmp_path / ".env").write_text("PREFIQ_ENV=dev\nexport DB_MODE='sync'\nDB_LOCK_TIMEOUT_SECONDS=3 # seconds\n")
    environ = {"DB_LOCK_TIMEOUT_SECONDS": "4", "DB_RETRY__WAIT_MAX_SECONDS": "7"}
    settings = load(environ, arguments={"database": {"application_name": "shop"}})
    database = settings.database
    assert (database.pool_size, database.max_overflow, database.mode) == (1, 2, "sync")
    assert (database.lock_timeout_seconds, database.pgbouncer, database.application_name) == (4, True, "shop")
    assert database.retry == RetryPolicy(attempts=2, total_seconds=9, wait_max_seconds=7)
    assert settings.environment == database.environment == "dev"
    assert settings.sources == {
        "databases.main.pool_size": "settings.yaml",
        "databases.main.pgbouncer": "settings.yaml",
        "databases.main.retry.total_seconds": "settings.yaml",
        "databases.main.max_overflow": "settings.dev.yaml",
        "databases.main.retry.attempts": "settings.dev.yaml",
        "databases.main.mode": ".env",
        "databases.main.lock_timeout_seconds": "environment",
        "databases.main.retry.wait_max_seconds": "environment",
        "databases.main.application_name": "arguments",
    }


def test_an_empty_variable_leaves_the_earlier_layer(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("database: {pool_size: 3, host: }\n")
    assert load({"DB_POOL_SIZE": " ", "DB_HOST": "", "PREFIQ_ENV": "test"}).database.pool_size == 3


def test_named_databases_from_everywhere(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("databases: {analytics: {engine: pg, pool_size: 2}, Old: {name: old.db}}\n")
    settings = load(
        {"DATABASES__ANALYTICS__HOST": "h", "databases__big_one__url": "mysql://h/d", "DATABASE_URL": "pg://m/d"},
        arguments={"databases": {"extra": DatabaseSettings(host="x", password="p")}},
    )
    assert {name: str(database.target) for name, database in settings.databases.items()} == {
        "main": "postgres://m:5432/d",
        "analytics": "postgres://postgres@h:5432/postgres",
        "old": "sqlite:///old.db",
        "big_one": "mariadb://h:3306/d",
        "extra": "mariadb://root@x:3306/test",
    }
    assert settings.databases["extra"].target.password == Secret("p")


@pytest.mark.parametrize(
    ("yaml", "environ", "url"),
    [
        ("host: h, user: u, name: n", {"DATABASE_URL": "pg://v@w/d"}, "postgres://v@w:5432/d"),
        ("engine: mariadb, name: n", {"DB_URL": "sqlite:///x.db"}, "sqlite:///x.db"),
        ("url: 'pg://u:p@h:7/d?keepalives=1'", {"DB_HOST": "w"}, "postgres://u@w:7/d"),
        ("url: 'pg://u:p@h:7/d'", {"DB_HOST": "w:8"}, "postgres://u@w:8/d"),
        ("url: 'pg://u:p@h:7/d'", {"DB_HOST": "v,w"}, "postgres://u@v:7,w:7/d"),
        ("url: 'pg://u:p@h:7/d'", {"DB_HOST": "v,w:8"}, "postgres://u@v:7,w:8/d"),
        ("url: 'pg://u:p@h1:7,h2:8/d'", {"DB_HOST": "v,w"}, "postgres://u@v:7,w:8/d"),
        ("url: 'pg://u:p@h1:7,h2:8/d'", {"DB_HOST": "w:9"}, "postgres://u@w:9/d"),
        ("url: 'pg://u:p@h1:7,h2:7/d'", {"DB_HOST": "w"}, "postgres://u@w:7/d"),
        ("url: 'mysql://u:p@h:7/d?ssl_mode=disable'", {"DB_HOST": "w"}, "mariadb://u@w:7/d"),
        ("engine: postgres, host: 'h:7'", {"DB_HOST": "w"}, "postgres://postgres@w:7/postgres"),
        ("engine: postgres, host: 'h:7'", {"DB_PORT": "8"}, "postgres://postgres@h:8/postgres"),
        ("engine: postgres, host: '[::1]:7,h:8'", {"DB_PORT": "9"}, "postgres://postgres@[::1]:9,h:9/postgres"),
        ("engine: postgres, host: 'h:7'", {"DB_HOST": "w", "DB_PORT": "8"}, "postgres://postgres@w:8/postgres"),
        ("engine: postgres, host: 'h:7'", {"DB_HOST": "w:8"}, "postgres://postgres@w:8/postgres"),
        ("engine: postgres, host: 'h:7'", {"DB_NAME": "e"}, "postgres://postgres@h:7/e"),
        ("engine: postgres, host: h, port: 7", {"DB_HOST": "w"}, "postgres://postgres@w:7/postgres"),
        ("url: 'pg://u:p@h:7/d?keepalives=1'", {"DB_HOST": "w", "DB_PORT": "9"}, "postgres://u@w:9/d"),
        ("url: 'pg://u:p@h:7/d?keepalives=1'", {"DB_NAME": "e", "DB_USER": "v"}, "postgres://v@h:7/e"),
        ("url: 'pg://u:p@h:7/d'", {"DB_ENGINE": "mariadb"}, "mariadb://root@127.0.0.1:3306/test"),
        ("url: 'pg://u:p@h:7/d'", {"DB_ENGINE": "postgres", "DB_PORT": "8"}, "postgres://u@h:8/d"),
        ("engine: postgres, host: h, port: 7", {"DB_ENGINE": "sqlite"}, "sqlite:///app.db"),
        ("engine: postgres, host: h, port: 7", {"DB_USER": "v"}, "postgres://v@h:7/postgres"),
        ("url: 'sqlite:///x.db'", {"DB_NAME": "y.db"}, "sqlite:///y.db"),
        ("url: 'sqlite:///x.db'", {"DB_HOST": "h"}, "mariadb://root@h:3306/test"),
    ],
)
def test_the_later_way_of_saying_where_wins(
    load: Any, tmp_path: Path, yaml: str, environ: dict[str, str], url: str
) -> None:
    (tmp_path / "settings.yaml").write_text(f"database: {{{yaml}}}\n")
    assert str(load(environ).database.target) == url


@pytest.mark.parametrize(
    ("yaml", "environ", "password"),
    [
        ("url: 'pg://u@h/d'", {"DB_PASSWORD": "p"}, "p"),
        ("url: 'pg://u:old@h/d'", {"DB_PASSWORD": "p"}, "p"),
        ("password: p", {"DB_URL": "pg://u@h/d"}, "p"),
        ("password: old", {"DB_URL": "pg://u:p@h/d"}, "p"),
        ("host: h, user: u, password: dev", {"DB_URL": "pg://u@prod/d"}, None),
    ],
)
def test_a_password_apart_from_the_url(
    load: Any, tmp_path: Path, yaml: str, environ: dict[str, str], password: str | None
) -> None:
    (tmp_path / "settings.yaml").write_text(f"database: {{{yaml}}}\n")
    assert load(environ).database.target.password == (Secret(password) if password else None)


def test_secrets_from_files(load: Any, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{CANARY}\n")
    (tmp_path / "url").write_text("pg://u@h/d\r\n")
    (tmp_path / "key").write_text("k\n")
    settings = load(
        {
            "DB_URL_FILE": str(tmp_path / "url"),
            "DB_PASSWORD_FILE": str(tmp_path / "password"),
            "DATABASES__X__HOST_FILE": str(tmp_path / "key"),
            "BILLING_API_KEY_FILE": str(tmp_path / "key"),
        },
        {"billing": Billing},
    )
    assert settings.database.target == Target("postgres", (Host("h", 5432),), "u", Secret(CANARY), "d")
    assert settings.databases["x"].host == "k"
    assert settings.billing.api_key.get_secret_value() == "k"


def test_variables_that_are_not_ours_are_left_alone(load: Any) -> None:
    links = {
        "DB_SERVICE_HOST": "10.0.0.1",
        "DB_SERVICE_PORT": "5432",
        "DB_SERVICE_PORT_SQL": "5432",
        "DB_PORT_5432_TCP": "tcp://10.0.0.1:5432",
        "DB_PORT_5432_TCP_ADDR": "10.0.0.1",
    }
    others = {"DBUS_SESSION_BUS_ADDRESS": "x", "DATABASE_POOL": "x", "MY_DB_HOST": "x", "DATABASES": "x", "DB": "x"}
    assert load(links | others | {"DB_WEATHER": ""}).database.engine == "sqlite"


@pytest.mark.parametrize(
    "service", ["db", "db-postgresql", "db-port", "db-1", "databases", "databases-main", "db--x", "databases--x"]
)
def test_service_links_of_any_service_are_left_alone(load: Any, service: str) -> None:
    """What Kubernetes sets in every pod for each service of its namespace, also where its name begins like ours."""
    links = service_links(service)
    assert load(links).database.engine == "sqlite"
    assert load(links | {"DB_URL": "postgres://h/x"}).database.target.hosts == (Host("h", 5432),)
    slip = {f"{service.upper().replace('-', '_')}_SERVICE_HOSTS": CANARY}
    assert wheres(failure(load, links | slip)) == list(slip)


def service_links(service: str) -> dict[str, str]:
    stem, url = service.upper().replace("-", "_"), "tcp://10.0.0.1:5432"
    return {
        f"{stem}_SERVICE_HOST": "10.0.0.1",
        f"{stem}_SERVICE_PORT": "5432",
        f"{stem}_SERVICE_PORT_TCP_POSTGRESQL": "5432",
        f"{stem}_PORT": url,
        f"{stem}_PORT_5432_TCP": url,
        f"{stem}_PORT_5432_TCP_PROTO": "tcp",
        f"{stem}_PORT_5432_TCP_PORT": "5432",
        f"{stem}_PORT_5432_TCP_ADDR": "10.0.0.1",
    }


@pytest.mark.parametrize("missing", ["_SERVICE_HOST", "_SERVICE_PORT"])
def test_what_only_looks_like_a_link_is_a_slip(load: Any, missing: str) -> None:
    links = service_links("db-postgresql")
    del links[f"DB_POSTGRESQL{missing}"]
    assert len(failure(load, links).problems) == len(links)
    assert wheres(failure(load, {"DB_SERVICE_HOST": "x", "DB_PORT": f"tcp://{CANARY}"})) == ["DB_PORT"]


def test_a_port_of_ours_beside_a_link_of_the_same_name_is_heard(load: Any) -> None:
    links = service_links("db") | {"DB_PORT": "5433", "DB_HOST": "h"}
    assert load(links).database.target.hosts == (Host("h", 5433),)
    assert wheres(failure(load, links | {"DB_PORT": CANARY})) == ["DB_PORT"]


class Weather(BaseModel):
    port: int = 1


def test_a_link_that_is_called_like_a_namespace_is_none_of_its_settings(load: Any) -> None:
    links = service_links("weather")
    assert load(links, {"weather": Weather}).weather.port == 1
    assert load(links | {"WEATHER_PORT": "5"}, {"weather": Weather}).weather.port == 5


@pytest.mark.parametrize(
    ("said", "file", "refused"),
    [
        *(("prod", "production", True), ("production", "prod", True), ("Production", "production", True)),
        *((None, "prod", True), ("stage", "staging", True), ("dev", "development", True), ("test", "testing", True)),
        *(("test", "production", False), ("preprod", "prod", False), ("prod-eu", "prod", False)),
        *(("prod2", "prod", False), ("live", "dev", False), ("production", "production", False)),
    ],
)
def test_the_file_of_an_environment_by_another_name_is_told(
    load: Any, tmp_path: Path, said: str | None, file: str, refused: bool
) -> None:
    """PREFIQ_ENV=prod beside settings.production.yaml would read nothing of it."""
    (tmp_path / f"settings.{file}.yaml").write_text("database: {name: here.db}\n")
    environ = {} if said is None else {"PREFIQ_ENV": said}
    if not refused:
        load(environ)
        return
    (problem,) = failure(load, environ).problems
    assert problem.where == "PREFIQ_ENV"
    assert f"there is settings.{file}.yaml: write PREFIQ_ENV={file}" in problem.fix
    (tmp_path / f"settings.{said or 'production'}.yaml").write_text("")
    load(environ)


def test_ports_that_cant_be_told_apart_are_asked_for(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("database: {url: 'pg://h1:7,h2:8/d'}\n")
    assert wheres(failure(load, {"DB_HOST": "w"})) == ["DB_HOST"]
    assert load({"DB_HOST": "w", "DB_PORT": "9"}).database.target.hosts == (Host("w", 9),)


def test_the_settings_directory_and_the_two_yaml_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.yaml").write_text("# empty\n")
    (tmp_path / "settings.test.yaml").write_text("database: {name: here.db}\n")
    environ = {"PREFIQ_SETTINGS_DIR": str(tmp_path), "PREFIQ_ENV": "test"}
    assert load_settings(environ=environ).database.name == "here.db"
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={"PREFIQ_ENV": "test"}).database.name == "here.db"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"a: 1\ndatabase: {{password: {CANARY}", "settings.yaml (line 2)"),
        (f"a: b: {CANARY}", "settings.yaml (line 1)"),
        (f"- {CANARY}\n", "settings.yaml"),
        (f"{CANARY}\n", "settings.yaml"),
        (f"a: {'9' * 5000}\nb: {CANARY}\n", "settings.yaml"),
        (f"a: !!bool {CANARY}\n", "settings.yaml (line 1)"),
        (f"{'[' * 5000}{CANARY}\n", "settings.yaml"),
        (f"!!python/object:{CANARY} x\n", "settings.yaml (line 1)"),
        (f"database: {CANARY}\n", "settings.yaml:database"),
        (f"databases: {CANARY}\n", "settings.yaml:databases"),
        (f"databases: {{x: {CANARY}}}\n", "settings.yaml:databases.x"),
        (f"databases: {{'a b': {CANARY}}}\n", "settings.yaml:databases.(a key)"),
        ("databases: {x: }\n", "DATABASES__X__URL"),
        (f"databse: {{password: {CANARY}}}\n", "settings.yaml:databse"),
        (f"db: {{password: {CANARY}}}\n", "settings.yaml:db"),
        (f"database: {{pool_size: {CANARY}}}\n", "settings.yaml:database.pool_size"),
        ("database: {password: 1234}\n", "settings.yaml:database.password"),
        (f"database: {{retry: {{attempts: {CANARY}}}}}\n", "settings.yaml:database.retry.attempts"),
        (f"database: {{poolsize: {CANARY}}}\n", "settings.yaml:database.poolsize"),
        (f"database: {{environment: {CANARY}}}\n", "settings.yaml:database.environment"),
        (f"billing: {CANARY}\n", "settings.yaml:billing"),
        (f"billing: {{api_key: x, mode: {CANARY}}}\n", "settings.yaml:billing.mode"),
    ],
)
def test_a_bad_yaml_file_is_told_by_its_place(load: Any, tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert where in wheres(failure(load, {}, {"billing": Billing}))


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("database: {name: a}\nbilling:\n  api_key: x\ndatabase:\n  name: b\n", "line 4", "database once, but line 1"),
        (
            "databases:\n  x: {url: sqlite://}\n  y: {url: sqlite://}\n  x: {url: sqlite://}\n",
            "line 4",
            "x once, but line 2",
        ),
        ("database:\n  name: a\n  name: b\n", "line 3", "name once, but line 2"),
        ("database: {retry: {attempts: 1, attempts: 2}}\n", "line 1", "attempts once, but line 1"),
        (
            f"billing:\n  api_key: {CANARY}\n  limits:\n    per_day: 1\n    per_day: 2\n",
            "line 5",
            "per_day once, but line 4",
        ),
        ("other:\n- {a: 1,\n   a: 1}\n", "line 3", "a once, but line 2"),
        ("a: &a {x: 1}\nb: {<<: *a,\n <<: *a}\n", "line 3", "(a key) once, but line 2"),
        (f"{CANARY} {CANARY}: 1\n{CANARY} {CANARY}: 2\n", "line 2", "(a key) once, but line 1"),
        ("1: a\n0x1: b\n", "line 2", "1 once, but line 1"),
    ],
)
@pytest.mark.parametrize("name", ["settings.yaml", "settings.test.yaml"])
def test_a_key_that_is_there_twice_is_told_with_both_lines(
    load: Any, tmp_path: Path, name: str, text: str, where: str, said: str
) -> None:
    """The last would win: a second `database:` block makes another database of production's."""
    (tmp_path / name).write_text(text)
    (problem,) = failure(load, {"PREFIQ_ENV": "test", "BILLING_API_KEY": "x"}, {"billing": Billing}).problems
    assert problem.where == f"{name} ({where})"
    assert problem.expected == f"{said} has it too"


def test_control_yaml_itself_takes_the_last_of_two() -> None:
    assert yaml.safe_load("a: 1\na: 2\n") == {"a": 2}
    assert yaml.safe_load("a: no\nb: 05433\nc: 1:30\n") == {"a": False, "b": 2843, "c": 90}


def test_a_key_twice_in_json_or_a_dotenv_file_is_refused(load: Any, tmp_path: Path) -> None:
    assert wheres(failure(load, {"DB_RETRY": '{"attempts": 1, "attempts": 2}'})) == ["DB_RETRY"]
    lines = [f"DB_HOST={CANARY}", "OTHER=1", "OTHER=2", "DB_HOST=b", "DB_PORT=1", "DB_PORT=1", "BILLING_API_KEY=x"]
    (tmp_path / ".env").write_text("\n".join([*lines, f"BILLING_API_KEY={CANARY}"]))
    problems = failure(load, {}, {"billing": Billing}).problems
    assert [problem.where for problem in problems] == [".env (line 4)", ".env (line 8)"]
    assert [problem.expected for problem in problems] == [
        "the same DB_HOST as in line 1, or nothing",
        "the same BILLING_API_KEY as in line 7, or nothing",
    ]


class Words(BaseModel):
    country: str = ""
    opens: str = ""
    since: str = ""
    code: int = 0
    mask: int = 0
    share: float = 0
    active: bool = True
    nothing: str | None = "x"


def test_yaml_is_read_by_its_version_1_2(load: Any, tmp_path: Path) -> None:
    """No octal numbers by a zero, no numbers to the base of sixty, no dates, and only true and false are booleans."""
    text = """
database: {host: db, port: 05433, mask: no, pgbouncer: yes, sql_comments: On, explain_slow_queries: TRUE}
words: {country: no, opens: 1:30, since: 2024-01-01, code: 0o17, mask: 0x1F, share: 1e3, active: off, nothing: ~}
databases:
  one: &common {host: h, engine: postgres, name: one}
  two:
    <<: *common
    name: two
"""
    (tmp_path / "settings.yaml").write_text(text)
    settings = load({}, {"words": Words})
    assert settings.database.target.hosts == (Host("db", 5433),)
    assert (settings.database.mask, settings.database.pgbouncer, settings.database.sql_comments) == (False, True, True)
    assert settings.database.explain_slow_queries
    assert settings.words == Words(
        country="no", opens="1:30", since="2024-01-01", code=15, mask=31, share=1000.0, active=False, nothing=None
    )
    assert settings.databases["two"].target == settings.databases["one"].replace(name="two").target


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, int(text)) for text in ("0", "7", "-7", "+7", "007", "1234567890123456789")),
        *((text, float(text)) for text in ("1.", ".5", "-0.5", "1e5", "1.5E-3")),
        *(
            (text, text)
            for text in ("1_000", "0b1", "190:20:30", "12e03x", "yes", "Off", "y", "=", "2024-01-01", "1.2.3")
        ),
        *(("~", None), ("null", None), ("", None), ("Null", None), ("nULL", "nULL"), ("True", True), ("tRUE", "tRUE")),
        *(('"5"', "5"), ("'no'", "no"), ("!!str 5", "5"), ("!!int '010'", 10), (".inf", float("inf"))),
    ],
)
def test_a_scalar_of_the_core_schema(text: str, value: object) -> None:
    read, twice = load_yaml(f"a: {text}\n")
    assert (read, type(read["a"]), twice) == ({"a": value}, type(value), [])


def test_a_file_that_is_not_text_is_told(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(b"\xff\xfe\x00x")
    (tmp_path / ".env").write_bytes(b"A=\xff")
    assert wheres(failure(load)) == [".env", "settings.yaml"]


def test_other_keys_of_the_yaml_file_are_left_alone(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("logging: {level: info}\nweather: sunny\n")
    assert load().database.engine == "sqlite"
    assert wheres(failure(load, arguments={"weather": CANARY})) == ["arguments:weather"]


def test_bad_lines_and_variables_of_a_dotenv_file_are_told(load: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DB_PORT={CANARY}\nDB_PASSWORD='{CANARY}\nDB_MODE=${{HOME}}\nDB_HOST\n")
    assert wheres(failure(load)) == [".env (line 2)", ".env (line 4)", ".env:DB_MODE", ".env:DB_PORT"]


@pytest.mark.parametrize(
    "line",
    [
        f"DB_URL:postgres://u:{CANARY}@h/x",
        f"DB_URL:postgres://u:{CANARY}@h/x?sslmode=require",
        f"DB_PASSWORD {CANARY}=",
        f"DB_PASSWORD-{CANARY}=x",
        f"BILLING_API_KEY:{CANARY}=x",
        f"DB_PASSWORD,{CANARY} = y",
    ],
)
def test_a_line_whose_name_is_no_name_is_told_by_its_number(load: Any, tmp_path: Path, line: str) -> None:
    """The value stands where the name should be: not even the name may be shown."""
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    error = failure(load, {}, {"billing": Words})
    assert wheres(error) == [".env (line 2)"]
    assert (
        wheres(failure(load, {line.partition("=")[0]: "x"}))
        == [".env (line 2)", "(a variable)"][: 1 + line.startswith("DB_")]
    )


def test_what_is_read_from_a_file_has_a_bound(load: Any, tmp_path: Path) -> None:
    assert wheres(failure(load, {"DB_URL": "postgres://h/x", "DB_PASSWORD_FILE": "/dev/zero"})) == ["DB_PASSWORD_FILE"]
    assert wheres(failure(load, {"BILLING_API_KEY_FILE": "/dev/zero"}, {"billing": Billing})) == [
        "BILLING_API_KEY_FILE",
        "BILLING_API_KEY",
    ]
    secret = tmp_path / "secret"
    secret.write_text("x" * 2**16 + "\n")
    (problem,) = failure(load, {"DB_URL": "postgres://h/x", "DB_PASSWORD_FILE": str(secret)}).problems
    assert problem.expected == "a file of at most 65536 bytes"
    secret.write_text("x" * (2**16 - 1) + "\n")
    password = load({"DB_URL": "postgres://h/x", "DB_PASSWORD_FILE": str(secret)}).database.password
    assert len(password.reveal()) == 2**16 - 1
    (tmp_path / "settings.yaml").symlink_to("/dev/zero")  # no regular file: there is none
    assert load().database.engine == "sqlite"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *(
            ("DB_HOSTNAME", "DB_HOST"),
            ("DB_DATABASE", "DB_NAME"),
            ("DB_USERNAME", "DB_USER"),
            ("DB_PASS", "DB_PASSWORD"),
        ),
        *(
            ("DB_URI", "DB_URL"),
            ("DB_SSLMODE", "DB_SSL_MODE"),
            ("DB_DRIVER", "DB_ENGINE"),
            ("DB_PASSWD", "DB_PASSWORD"),
        ),
        ("DATABASES__X__USERNAME", "DATABASES__X__USER"),
    ],
)
def test_other_programs_names_get_the_right_hint(load: Any, name: str, hint: str) -> None:
    environ = {name: CANARY, "DB_URL": "pg://h/d", "DATABASES__X__URL": "pg://h/d"}
    (problem,) = failure(load, environ).problems
    assert problem.where == name
    assert f"did you mean {hint}?" in problem.fix


def test_a_yaml_file_gets_the_same_hints(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("database: {host: h, username: u}\n")
    (problem,) = failure(load).problems
    assert "did you mean user?" in problem.fix


@pytest.mark.parametrize("name", ["DB_URL", "DATABASE_URL", "DB_HOST", "DB_NAME", "DB_URL_FILE", "db_url"])
def test_an_empty_place_in_production_is_a_hole_in_a_template(load: Any, tmp_path: Path, name: str) -> None:
    """It would be the file app.db: not so where another setting says the place, nor in development."""
    for environ in ({name: " "}, {name: "", "PREFIQ_ENV": "prod"}):
        assert wheres(failure(load, environ)) == [name]
    assert load({name: "", "PREFIQ_ENV": "dev"}).database.target.database == "app.db"
    assert load({name: "", "DB_ENGINE": "sqlite"}).database.target.database == "app.db"
    (tmp_path / ".env").write_text(f"{name}=\n")
    assert wheres(failure(load)) == [f".env:{name}"]
    (tmp_path / "settings.yaml").write_text("database: {name: here.db}\n")
    assert load().database.target.database == "here.db"


@pytest.mark.parametrize("empty", ["", '""', "' '", "~"])
@pytest.mark.parametrize("name", ["url", "host", "name", "engine"])
def test_an_empty_place_in_yaml_is_one_too(load: Any, tmp_path: Path, empty: str, name: str) -> None:
    """Under ``database`` and under ``databases.main``; not where another layer fills it in."""
    (tmp_path / "settings.yaml").write_text(f"database:\n  {name}: {empty}\n")
    assert wheres(failure(load)) == [f"settings.yaml:database.{name}"]
    assert load({"PREFIQ_ENV": "dev"}).database.target.database == "app.db"
    assert load({"DB_URL": "sqlite:///x.db"}).database.target.database == "x.db"
    (tmp_path / "settings.yaml").write_text(f"databases:\n  main:\n    {name}: {empty}\n")
    assert wheres(failure(load)) == [f"settings.yaml:databases.main.{name}"]


def test_what_says_only_who_logs_in_fills_no_hole(load: Any) -> None:
    """A password from elsewhere would make an empty URL a server on this machine."""
    assert wheres(failure(load, {"DB_URL": "", "DB_PASSWORD": CANARY, "DB_USER": "app"})) == ["DB_URL"]
    assert load({"DB_PASSWORD": CANARY}).database.target.engine == "mariadb"


def test_a_hole_in_the_place_of_another_database_is_found(load: Any) -> None:
    """It would not be there, and only who asks for it would be told."""
    environ = {"DB_URL": "sqlite:///x.db", "DATABASES__LEDGER__URL": " "}
    assert wheres(failure(load, environ)) == ["DATABASES__LEDGER__URL"]
    assert list(load(environ | {"PREFIQ_ENV": "dev"}).databases) == ["main"]
    arguments = {"databases": {"main": {"url": None}}}
    assert load(arguments=arguments).database.target.database == "app.db"


def test_a_url_for_another_program_is_told_where_nothing_else_is_said(load: Any) -> None:
    environ = {"SQLALCHEMY_DATABASE_URI": f"postgres://{CANARY}/x"}
    (problem,) = failure(load, environ).problems
    assert (problem.where, "DB_URL" in problem.expected) == ("SQLALCHEMY_DATABASE_URI", True)
    assert load(environ | {"DB_URL": "sqlite:///x.db"}).database.target.database == "x.db"


def test_arguments_are_told_by_their_place(load: Any) -> None:
    arguments = {"database": {"port": CANARY, "host": "h"}, "databases": {"x": {"url": CANARY}}}
    assert wheres(failure(load, arguments=arguments)) == ["arguments:database.port", "arguments:databases.x.url"]
    assert load(arguments={"environment": "dev"}).environment == "dev"


# --- load_settings: the user's own namespaces -----------------------------------------------------------------


def test_a_namespace_from_all_layers(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("billing: {limits: {per_day: 5, currencies: [EUR]}, mode: live}\n")
    (tmp_path / ".env").write_text('BILLING_LIMITS__CURRENCIES=["USD", "CHF"]\n')
    settings = load({"BILLING_API_KEY": f" {CANARY} ", "billing_mode": "test"}, {"billing": Billing})
    assert settings.billing is settings["billing"]
    assert settings.billing == Billing(
        api_key=SecretStr(CANARY), mode="test", limits=Limits(per_day=5, currencies=["USD", "CHF"])
    )
    assert settings.sources["billing.api_key"] == "environment"
    assert CANARY not in f"{settings!r} {settings} {settings.billing!r} {settings.sources}"
    assert CANARY.encode() not in pickle.dumps(settings)


def test_problems_of_namespaces_come_with_all_others(load: Any, tmp_path: Path) -> None:
    class Strict(BaseModel):
        token: str = Field(min_length=100)
        uuid: int = 0

        @field_validator("uuid", mode="before")
        @classmethod
        def talkative(cls, value: Any) -> int:
            raise ValueError(f"bad value {value}")

    (tmp_path / ".env").write_text(f"BILLING_MODE={CANARY}\n")
    environ = {
        "DB_PORT": CANARY,
        "billing_limits__per_day": CANARY,
        "BILLING_LIMITS__CURRENCIES": CANARY,
        "STRICT_TOKEN": CANARY,
        "STRICT_UUID": CANARY,
    }
    error = failure(load, environ, {"billing": Billing, "strict": Strict})
    assert set(wheres(error)) == {
        "DB_PORT",
        "BILLING_API_KEY",
        ".env:BILLING_MODE",
        "billing_limits__per_day",
        "STRICT_TOKEN",
        "STRICT_UUID",
        "BILLING_LIMITS__CURRENCIES",
    }
    assert "at least 100 characters" in str(error)
    assert "one of 'test' or 'live'" in str(error)


@pytest.mark.parametrize("name", ["database", "db", "Billing", "a__b", "", "sources", "a-b"])
def test_a_namespace_that_can_not_be_told_apart_is_refused(load: Any, name: str) -> None:
    with pytest.raises(UsageError, match="namespace"):
        load({}, {name: Billing})


def test_settings_are_frozen_and_name_what_they_have(load: Any) -> None:
    settings = load({"BILLING_API_KEY": "k"}, {"billing": Billing})
    with pytest.raises(UsageError):
        settings.environment = "dev"
    with pytest.raises(TypeError):
        settings.databases["x"] = DatabaseSettings()
    with pytest.raises(KeyError, match="billing"):
        settings["weather"]
    with pytest.raises(AttributeError, match="billing"):
        _ = settings.weather
    back = pickle.loads(pickle.dumps(settings))
    assert (back.environment, list(back.databases)) == ("production", ["main"])
    assert copy.copy(settings).database == settings.database


def test_pydantic_itself_is_not_asked_to_show_values() -> None:
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings.__pydantic_validator__.validate_python(
            {"pool_size": CANARY}, self_instance=DatabaseSettings.__new__(DatabaseSettings)
        )
    assert CANARY not in str(caught.value)


# --- documentation --------------------------------------------------------------------------------------------


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for name in [*DatabaseSettings.model_fields, *(f"retry.{name}" for name in RetryPolicy.__dataclass_fields__)]:
        assert f"| `{name}`" in page, f"{name} has no row in docs/settings.md"
