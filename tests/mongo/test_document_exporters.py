"""What the exporters and formatters say of a document database, by real calls, and that no value is in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db.errors import PrefiqDbError
from tests.mongo.scripted_server import ScriptedServer
from tests.mongo.test_document_telemetry import CANARY, say_everything
from tests.twins.test_canary_exporters import Exported, exported

__all__ = ["exported"]  # the fixture


async def test_spans_and_metrics_have_the_semantic_conventions_of_mongodb(
    scripted: ScriptedServer, make_db: Callable[..., Any], exported: Exported
) -> None:
    db = make_db(scripted.url, name="documents")
    await db.open()
    exported.attach(db)
    exported.telemetry.spans()
    await db.insert("item", {"_id": 1})
    scripted.on("insert", {"code": 13, "codeName": "Unauthorized", "errmsg": CANARY})
    with pytest.raises(PrefiqDbError):
        await db.insert("item", {"_id": 2})
    done, failed = exported.telemetry.spans()
    for span in (done, failed):
        attributes = dict(span.attributes or {})
        assert span.name == "insert item"
        expected = {
            "db.system.name": "mongodb",
            "db.namespace": "shop",
            "db.collection.name": "item",
            "db.operation.name": "insert",
            "server.address": "127.0.0.1",
            "server.port": scripted.port,
        }
        assert {key: attributes.get(key) for key in expected} == expected
    assert (dict(failed.attributes or {})["db.response.status_code"], failed.status.is_ok) == ("13", False)
    points = exported.telemetry.points("db.client.operation.duration")
    named = {(p.attributes["db.system.name"], p.attributes["db.operation.name"]) for p in points}
    assert ("mongodb", "insert") in named


async def test_prometheus_and_both_formats_of_logs_name_the_command(
    scripted: ScriptedServer, make_db: Callable[..., Any], exported: Exported
) -> None:
    db = make_db(scripted.url, name="documents", slow_query_seconds=0)
    exported.attach(db)
    await db.insert("item", {"_id": 1, "sku": CANARY})
    texts = exported.texts()
    assert 'db_system_name="mongodb"' in texts["prometheus"]
    assert 'db_query_summary="insert item"' in texts["prometheus"]
    records = [json.loads(line) for line in texts["json"].splitlines()]
    assert any(each.get("summary") == "insert item" for each in records)
    assert "insert item" in texts["structlog"]
    assert exported.holding(CANARY) == set()


async def test_no_value_is_exported(
    scripted: ScriptedServer, make_db: Callable[..., Any], quick: dict[str, Any], exported: Exported
) -> None:
    """The errors of every kind of call, with PyMongo's own loggers at DEBUG in both formats."""
    logging.getLogger("pymongo").setLevel(logging.DEBUG)
    try:
        db = make_db(scripted.url, slow_query_seconds=0, **quick)
        exported.attach(db)
        assert len(await say_everything(db, scripted)) == 6
    finally:
        logging.getLogger("pymongo").setLevel(logging.NOTSET)
    assert exported.holding(CANARY) == set()
    assert "pymongo.command" in exported.texts()["json"], "PyMongo's own logs were on"


async def test_control_without_our_filter_pymongos_logs_say_values(
    scripted: ScriptedServer, make_db: Callable[..., Any], exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same collection finds the canary in both formats of logs."""
    db = make_db(scripted.url)
    exported.attach(db)
    logger = logging.getLogger("pymongo.command")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined] # levels are remembered
    await db.find("item", {"sku": CANARY})
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    assert exported.holding(CANARY) == {"json", "structlog"}


async def test_the_rows_of_a_find_are_those_of_all_its_batches(db: Any, exported: Exported) -> None:
    await db.insert_many("item", [{"_id": number} for number in range(250)])
    exported.attach(db)
    assert len(await db.find("item")) == 250
    (span,) = exported.telemetry.spans()
    assert dict(span.attributes or {})["db.response.returned_rows"] == 250
