"""One application with a SQL and a document database: settings, boot, health, metrics, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefiq_db import Database, ErrorKind, bootstrap, bootstrap_async
from prefiq_db.errors import MissingDriverError, ProviderError, SettingsError, UnsupportedError
from prefiq_db.health import AsyncHealthCheck, HealthCheck
from prefiq_db.integrations import asgi
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase, mongo_assembly
from prefiq_db.settings import DatabaseSettings
from tests.interpreters import run
from tests.mongo.scripted_server import ScriptedServer


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted: ScriptedServer) -> None:
    for name in list(os.environ):
        if name.startswith(("DB_", "DATABASE", "PREFIQ_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", f"sqlite:///{tmp_path / 'app.db'}")
    monkeypatch.setenv("DATABASES__DOCUMENTS__URL", scripted.url)
    monkeypatch.setenv("DATABASES__DOCUMENTS__CONNECT_TIMEOUT_SECONDS", "1")


@pytest.mark.usefixtures("environment")
def test_a_mixed_application_boots_and_uses_both(scripted: ScriptedServer) -> None:
    with bootstrap() as app:
        main, documents = app.resolve("db"), app.resolve("db.documents")
        assert (type(main), type(documents)) == (Database, MongoDatabase)
        names: list[str] = []
        app.resolve("hooks").after(lambda event: names.append(event.database))
        assert main.fetch_value("select 1") == 1
        documents.insert("item", {"_id": 1})
        assert names == ["main", "documents"]
    assert scripted.count("item") == 1


@pytest.mark.usefixtures("environment")
async def test_a_mixed_application_boots_asynchronously(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASES__DOCUMENTS__MODE", "async")
    app = await bootstrap_async()
    documents = app.resolve("db.documents")
    assert type(documents) is AsyncMongoDatabase
    await documents.insert("item", {"_id": 1})
    await app.ashutdown()


@pytest.mark.usefixtures("environment")
def test_a_document_server_that_is_down_fails_the_boot_by_name(scripted: ScriptedServer) -> None:
    scripted.stop()
    with pytest.raises(ProviderError, match="documents") as caught:
        bootstrap()
    assert caught.value.kind is ErrorKind.CONNECT_FAILED


@pytest.mark.usefixtures("environment")
def test_the_engine_alone_gives_a_document_database(monkeypatch: pytest.MonkeyPatch, scripted: ScriptedServer) -> None:
    monkeypatch.delenv("DB_URL")
    monkeypatch.setenv("DB_ENGINE", "Mongo")
    monkeypatch.setenv("DB_PORT", str(scripted.port))
    with bootstrap() as app:
        db = app.resolve("db")
        assert isinstance(db, MongoDatabase)
        assert str(db.settings.target) == f"mongodb://127.0.0.1:{scripted.port}/test"
        assert db.test_connection()


@pytest.mark.usefixtures("environment")
async def test_the_endpoints_show_both_and_turn_with_the_server(scripted: ScriptedServer) -> None:
    app = await bootstrap_async()
    endpoints = asgi.HealthApp(app, cache_seconds=0, deadline_seconds=2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoints), base_url="http://app") as client:

        async def ask(path: str) -> tuple[int, dict[str, Any]]:
            answer = await client.get(path)
            return answer.status_code, json.loads(answer.content)

        status, said = await ask("/healthz")
        assert (status, sorted(said["checks"])) == (200, ["documents:responseTime", "main:responseTime"])
        scripted.stop()
        status, said = await ask("/healthz")
        assert (status, said["status"]) == (503, "fail")
        assert said["checks"]["main:responseTime"][0]["status"] == "pass"
        broken = said["checks"]["documents:responseTime"][0]
        assert broken["status"] == "fail"
        assert "documents" in said["output"]
        scripted.start()
        assert (await ask("/healthz"))[0] == 200
        assert (await ask("/readyz"))[0] == 200  # a document database has no migrations to wait for
    await app.ashutdown()


@pytest.mark.usefixtures("environment")
def test_the_metrics_are_those_of_both() -> None:
    prometheus = pytest.importorskip("prefiq_db.integrations.prometheus")
    from prometheus_client import CollectorRegistry, generate_latest

    with bootstrap() as app:
        registry = CollectorRegistry()
        exported = prometheus.export(app.resolve("db"), app.resolve("db.documents"), registry=registry)
        app.resolve("db").fetch_value("select 1")
        app.resolve("db.documents").insert("item", {"_id": 1})
        text = generate_latest(registry).decode()
        del exported
    assert 'db_system_name="mongodb"' in text
    assert 'db_query_summary="insert item"' in text
    assert 'db_system_name="sqlite"' in text


def test_a_health_check_takes_both(scripted: ScriptedServer, tmp_path: Path) -> None:
    with MongoDatabase(scripted.url, name="documents", connect_timeout_seconds=1) as documents:
        main = Database(f"sqlite:///{tmp_path / 'a.db'}")
        check = HealthCheck(main, documents, cache_seconds=0)
        assert check.health()
        scripted.stop()
        found = check.health()
        assert not found
        assert "documents" in found.reason
        main.close()


async def test_an_async_health_check_takes_both(scripted: ScriptedServer, tmp_path: Path) -> None:
    async with AsyncMongoDatabase(scripted.url, name="documents") as documents:
        main = Database(f"sqlite:///{tmp_path / 'a.db'}")
        assert await AsyncHealthCheck(main, documents, cache_seconds=0).health()
        main.close()


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown", "is_srv"),
    [
        ("mongodb://h/shop", "mongodb://h:27017/shop", False),
        ("mongo://u:p@h1:1,h2/shop?replicaSet=rs0", "mongodb://u@h1:1,h2:27017/shop", False),
        ("mongodb+srv://u:p@cluster.example.com/shop", "mongodb+srv://u@cluster.example.com/shop", True),
    ],
)
def test_urls_are_read(url: str, shown: str, is_srv: bool) -> None:
    target = DatabaseSettings(url=url).target
    assert (str(target), target.is_srv) == (shown, is_srv)
    assert "p@" not in str(target)


@pytest.mark.parametrize(
    ("url", "where", "fix"),
    [
        ("mongodb+srv://h:1/shop", "host", "name service"),
        ("mongodb+srv://h1,h2/shop", "host", "name service"),
        ("postgres+srv://h/shop", "scheme", "postgres://"),
        ("mongodb://h/shop?maxPoolSize=4", "maxPoolSize", "pool_size"),
        ("mongodb://h/shop?tls=true", "tls", "ssl_mode"),
        ("mongodb://h/shop?timeoutMS=1", "timeoutMS", "statement_timeout_seconds"),
        ("mongodb://h/shop?replicaset_=c4n4ry", "replicaset_", "replicaSet"),
        ("mongodb://h/shop?w=0", "w", "majority"),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(url: str, where: str, fix: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DatabaseSettings(url=url)
    (problem, *_) = caught.value.problems
    assert where in problem.where
    assert fix in str(problem)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"url": "mongodb://h/shop"}, {"host": "mongodb://h:27017/", "w": "majority", "retryReads": False}),
        ({"url": "mongodb://u:p@h/shop"}, {"username": "u", "password": "p", "authSource": "shop"}),
        ({"engine": "mongo", "user": "u", "password": "p", "name": "shop"}, {"authSource": "admin"}),
        ({"url": "mongodb://h/shop?w=1&authSource=x"}, {"host": "mongodb://h:27017/?w=1&authSource=x"}),
        ({"url": "mongodb+srv://h.example.com/shop"}, {"host": "mongodb+srv://h.example.com/"}),
        ({"url": "mongodb://h/shop", "ssl_mode": "verify-full"}, {"tls": True, "tlsAllowInvalidHostnames": False}),
        ({"url": "mongodb://h/shop", "ssl_mode": "require"}, {"tls": True, "tlsAllowInvalidCertificates": True}),
        ({"url": "mongodb://h/shop", "ssl_mode": "disable"}, {"tls": False}),
        ({"url": "mongodb://h/shop", "pool_size": 2, "max_overflow": 1}, {"maxPoolSize": 3}),
        ({"url": "mongodb://h/shop", "connect_timeout_seconds": 1.5}, {"serverSelectionTimeoutMS": 1500}),
    ],
)
def test_settings_become_the_drivers_options(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    from prefiq_db.mongo.client_options import client_options

    made = client_options(DatabaseSettings(**fields))
    assert {name: made.get(name) for name in expected} == expected


def test_a_certificate_and_its_key_are_one_file(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    with pytest.raises(SettingsError, match="ssl_key"):
        MongoDatabase(
            "mongodb://h/shop", ssl_mode="verify-ca", ssl_cert=tmp_path / "cert.pem", ssl_key=tmp_path / "key.pem"
        )


def test_an_option_that_the_driver_refuses_is_a_problem_without_its_value() -> None:
    with pytest.raises(SettingsError) as caught:
        MongoDatabase("mongodb://h/shop?readPreference=c4n4ry")
    assert "c4n4ry" not in f"{caught.value} {caught.value.__dict__}"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_the_classes_name_each_other() -> None:
    with pytest.raises(UnsupportedError, match="MongoDatabase"):
        Database("mongodb://h/shop")
    with pytest.raises(UnsupportedError, match="use Database"):
        MongoDatabase("sqlite:///app.db")
    with pytest.raises(UnsupportedError, match="AsyncDatabase"):
        AsyncMongoDatabase("postgres://h/shop")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo_assembly.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDriverError, match=r"pip install 'prefiq-db\[mongodb\]'"):
        MongoDatabase("mongodb://h/shop")


def test_nothing_of_the_driver_is_imported_before_it_is_needed() -> None:
    program = "import sys, prefiq_db, prefiq_db.mongo, prefiq_db.health; sys.exit('pymongo' in sys.modules)"
    assert run([sys.executable, "-c", program], fresh=True).returncode == 0


async def test_another_event_loop_is_refused_by_name(scripted: ScriptedServer) -> None:
    db = AsyncMongoDatabase(scripted.url)
    await db.ping()

    def elsewhere() -> str:
        async def ask() -> str:
            try:
                await db.ping()
            except Exception as error:
                return type(error).__name__
            return "it worked"

        return asyncio.run(ask())

    assert await asyncio.to_thread(elsewhere) == "EventLoopError"
    await db.close()
