"""Providers: how they are declared, listed and given their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from prefiq_db.application import Application
from prefiq_db.bootstrap import assemble, bootstrap, bootstrap_async
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import BindingError, SettingsError, UsageError
from prefiq_db.health import is_healthy, is_healthy_async
from prefiq_db.providers import (
    BaseProvider,
    DatabaseProvider,
    ProviderRegistry,
    SettingsProvider,
    default_registry,
    register_provider,
)
from prefiq_db.settings import load_settings


class MailSettings(BaseModel):
    host: str = "localhost"
    port: int = 25


class MailProvider(BaseProvider):
    schema_namespace = "mail"
    schema_model = MailSettings

    def register(self) -> None:
        self.app.bind("mail", self.settings)


def environment(**more: str) -> dict[str, str]:
    return {"DB_URL": "sqlite:///:memory:", **more}


# --- declaration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("MailProvider", "mail"),
        ("MailQueueProvider", "mail_queue"),
        ("HTTPServerProvider", "http_server"),
        ("S3Provider", "s3"),
        ("Metrics", "metrics"),
        ("Provider", "provider"),
    ],
)
def test_a_name_comes_from_the_class(class_name: str, name: str) -> None:
    assert type(class_name, (BaseProvider,), {}).name == name


def test_a_given_name_is_inherited_and_a_made_one_is_not() -> None:
    class Given(BaseProvider):
        name = "queue"

    class Child(Given):
        pass

    class Audited(MailProvider):
        pass

    assert Child.name == "queue"
    assert Audited.name == "audited"


def test_a_provider_without_an_application_says_so() -> None:
    with pytest.raises(UsageError, match="belongs to no application yet"):
        _ = MailProvider().app


def test_settings_need_a_namespace() -> None:
    class Plain(BaseProvider):
        pass

    provider = Application().register(Plain)
    with pytest.raises(UsageError, match="declares no schema_namespace"):
        _ = provider.settings


@pytest.mark.parametrize("half", [{"schema_namespace": "x"}, {"schema_model": MailSettings}])
def test_namespace_and_model_go_together(half: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="go together"):
        Application().register(type("Half", (BaseProvider,), half))


@pytest.mark.parametrize("step", ["register", "boot", "shutdown"])
def test_a_coroutine_function_in_a_sync_place_is_refused(step: str) -> None:
    async def method(self: BaseProvider) -> None: ...

    with pytest.raises(UsageError, match=rf"{step}\(\) is a coroutine function"):
        Application().register(type("Wrong", (BaseProvider,), {step: method}))


def test_requires_is_not_one_string() -> None:
    class Wrong(BaseProvider):
        requires = "database"

    app = Application()
    app.register(Wrong)
    with pytest.raises(UsageError, match="not one string"):
        app.boot()


# --- the registry ------------------------------------------------------------------------------------


def test_the_default_registry_begins_with_settings_and_databases() -> None:
    assert list(default_registry)[:2] == [SettingsProvider, DatabaseProvider]


def test_registering_twice_is_the_same_as_once() -> None:
    registry = ProviderRegistry()
    assert registry.register(MailProvider) is MailProvider
    registry.register(MailProvider)
    assert list(registry) == [MailProvider]
    assert MailProvider in registry
    assert len(registry) == 1


def test_two_classes_of_one_name_are_refused() -> None:
    class Other(BaseProvider):
        name = "mail"

    with pytest.raises(BindingError, match=r"called 'mail': .*MailProvider and .*Other"):
        ProviderRegistry(MailProvider, Other)


@pytest.mark.parametrize("wrong", [object, MailProvider(), "mail", None])
def test_only_provider_classes_are_registered(wrong: Any) -> None:
    with pytest.raises(UsageError, match="a class derived from"):
        register_provider(wrong)


def test_a_registered_provider_is_booted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(default_registry, "_classes", dict(default_registry._classes))

    @register_provider
    class Greeter(BaseProvider):
        requires = ("db",)

        def boot(self) -> None:
            self.app.bind("greeting", self.app.resolve("db").fetch_value("select 'hello'"))

    with bootstrap(environ=environment(), directory=tmp_path) as app:
        assert app.resolve("greeting") == "hello"
    with bootstrap(providers=[], environ=environment(), directory=tmp_path) as app:
        assert not app.has("greeting")


# --- settings ----------------------------------------------------------------------------------------


def test_a_provider_gets_its_own_settings(tmp_path: Path) -> None:
    with bootstrap(providers=[MailProvider], environ=environment(MAIL_PORT="2525"), directory=tmp_path) as app:
        assert app.resolve("mail") == MailSettings(port=2525)
        assert app.resolve("settings")["mail"] is app.resolve("mail")


def test_problems_of_all_namespaces_are_told_before_anything_connects(tmp_path: Path) -> None:
    file = tmp_path / "never.db"
    environ = {"DB_URL": f"sqlite:///{file}", "DB_POOL_SIZE": "many", "MAIL_PORT": "high"}
    with pytest.raises(SettingsError) as caught:
        bootstrap(providers=[MailProvider], environ=environ, directory=tmp_path)
    assert {problem.where for problem in caught.value.problems} == {"DB_POOL_SIZE", "MAIL_PORT"}
    assert not file.exists()


def test_arguments_win_and_ready_settings_are_taken_as_they_are(tmp_path: Path) -> None:
    with bootstrap(arguments={"database": {"pool_size": 3}}, environ=environment(), directory=tmp_path) as app:
        assert app.resolve("db").settings.pool_size == 3
    settings = load_settings(environ=environment(DB_POOL_SIZE="2"), directory=tmp_path)
    with bootstrap(settings=settings) as app:
        assert app.resolve("settings") is settings
        assert app.resolve("db").settings.pool_size == 2
    with pytest.raises(UsageError, match="ready settings"):
        bootstrap(settings=settings, environ={})


def test_one_namespace_has_one_model(tmp_path: Path) -> None:
    class Other(BaseProvider):
        schema_namespace = "mail"
        schema_model = type("OtherSettings", (BaseModel,), {})

    with pytest.raises(Exception, match="'mail' with different models"):
        bootstrap(providers=[MailProvider, Other], environ=environment(), directory=tmp_path)


def test_settings_are_loaded_first_whatever_the_order(tmp_path: Path) -> None:
    app = Application()
    app.register(MailProvider)
    app.register(SettingsProvider(environ=environment(), directory=tmp_path))
    app.boot()
    assert [provider.name for provider in app.providers] == ["settings", "mail"]


def test_a_provider_of_the_same_name_takes_the_place_of_ours(tmp_path: Path) -> None:
    class MyDatabases(DatabaseProvider):
        pass

    app = assemble(providers=[MyDatabases, SettingsProvider], environ=environment(), directory=tmp_path)
    assert [type(provider) for provider in app.providers] == [MyDatabases, SettingsProvider]
    ready = SettingsProvider(environ=environment(), directory=tmp_path)
    with bootstrap(providers=[ready]) as app:
        assert app.providers[0] is ready
    with pytest.raises(UsageError, match="give them to the settings provider"):
        bootstrap(providers=[SettingsProvider()], environ={})


# --- databases -----------------------------------------------------------------------------------------


def test_every_configured_database_is_bound(tmp_path: Path) -> None:
    environ = environment(DATABASES__ANALYTICS__URL="sqlite:///:memory:")
    with bootstrap(environ=environ, directory=tmp_path) as app:
        assert app.resolve("db") is app.resolve("db.main")
        assert isinstance(app.resolve("db", Database), Database)
        assert app.resolve("db.analytics").name == "analytics"
        assert app.resolve("db.analytics") is not app.resolve("db")
        with pytest.raises(BindingError, match=r"did you mean 'db\.analytics'"):
            app.resolve("db.analytic")


def test_a_required_database_must_be_configured(tmp_path: Path) -> None:
    class Report(BaseProvider):
        requires = ("db.analytics",)

    with pytest.raises(BindingError, match=r"provider 'report' requires 'db\.analytics'"):
        bootstrap(providers=[Report], environ=environment(), directory=tmp_path)


def test_two_applications_share_no_database(tmp_path: Path) -> None:
    with (
        bootstrap(environ=environment(), directory=tmp_path) as one,
        bootstrap(environ=environment(), directory=tmp_path) as two,
    ):
        one.resolve("db").execute("create table only_here (id integer)")
        assert one.resolve("db") is not two.resolve("db")
        assert two.resolve("db").fetch_all("select name from sqlite_master") == []


def test_shutdown_closes_the_databases(tmp_path: Path) -> None:
    app = bootstrap(environ=environment(), directory=tmp_path)
    db = app.resolve("db")
    assert db.test_connection()
    assert is_healthy(db)
    app.shutdown()
    assert not db.test_connection()
    assert not is_healthy(db)


def test_an_async_database_needs_an_async_boot(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"database 'main' in mode 'async'.*await bootstrap_async\(\)"):
        bootstrap(environ=environment(DB_MODE="async"), directory=tmp_path)


async def test_both_modes_boot_together(tmp_path: Path) -> None:
    environ = environment(DB_MODE="async", DATABASES__LEDGER__URL="sqlite:///:memory:")
    async with await bootstrap_async(environ=environ, directory=tmp_path) as app:
        db = app.resolve("db", AsyncDatabase)
        ledger = app.resolve("db.ledger", Database)
        assert await db.test_connection()
        assert await is_healthy_async(db)
        assert ledger.test_connection()
    assert not await is_healthy_async(db)
    assert not is_healthy(ledger)


async def test_each_health_check_names_the_other_for_the_wrong_world() -> None:
    with Database("sqlite:///:memory:") as db, pytest.raises(UsageError, match=r"use is_healthy\(db\)"):
        await is_healthy_async(db)  # type: ignore[arg-type]
    async with AsyncDatabase("sqlite:///:memory:") as async_db:
        with pytest.raises(UsageError, match=r"use await is_healthy_async\(db\)"):
            is_healthy(async_db)  # type: ignore[arg-type]
    for wrong in (None, "sqlite:///:memory:", object()):
        with pytest.raises(UsageError, match="expected a Database"):
            is_healthy(wrong)  # type: ignore[arg-type]


async def test_the_old_name_of_a_health_checks_limit_works_and_warns() -> None:
    with Database("sqlite:///:memory:") as db:
        for old, call in (("health", db.health), ("is_healthy", lambda **limit: is_healthy(db, **limit))):
            expected = rf"{old}\(timeout_seconds=\.\.\.\) is deprecated: write {old}\(timeout=\.\.\.\)"
            with pytest.warns(DeprecationWarning, match=expected) as warned:
                assert call(timeout_seconds=5)
            assert warned[0].filename == __file__
            assert call(timeout=5)
            with pytest.raises(UsageError, match="say timeout= alone"):
                call(timeout=5, timeout_seconds=5)
        assert db.health(5).healthy
    async with AsyncDatabase("sqlite:///:memory:") as async_db:
        with pytest.warns(DeprecationWarning, match="write health") as warned:
            assert (await async_db.health(timeout_seconds=5)).healthy
        assert warned[0].filename == __file__
        with pytest.warns(DeprecationWarning, match="write is_healthy_async"):
            assert await is_healthy_async(async_db, timeout_seconds=5)
        assert await is_healthy_async(async_db, timeout=5)


def test_each_database_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="prefiq_db.boot")
    environ = environment(DATABASES__ANALYTICS__URL="sqlite:///:memory:")
    with bootstrap(environ=environ, directory=tmp_path):
        records = [record for record in caplog.records if record.name == "prefiq_db.boot"]
    assert [(r.database, r.engine, r.mode, r.healthy) for r in records] == [  # type: ignore[attr-defined]
        ("main", "sqlite", "sync", True),
        ("analytics", "sqlite", "sync", True),
    ]
    assert all(record.latency_seconds > 0 for record in records)  # type: ignore[attr-defined]


def test_all_databases_are_tried_and_none_stays_open(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such" / "folder"
    environ = environment(DATABASES__A__URL=f"sqlite:///{missing}/a.db", DATABASES__B__URL=f"sqlite:///{missing}/b.db")
    app = assemble(environ=environ, directory=tmp_path)
    with pytest.raises(Exception, match=r"provider 'database' failed to boot: a: .*; b: "):
        app.boot()
    provider = app.providers[1]
    assert isinstance(provider, DatabaseProvider)
    assert {name: report.healthy for name, report in provider.reports.items()} == {"main": True, "a": False, "b": False}
    assert set(provider.failures) == {"a", "b"}
    assert not provider.databases["main"].test_connection()
