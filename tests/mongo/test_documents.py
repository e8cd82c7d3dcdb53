"""The document verbs, in both worlds, on a real server or on the stand-in."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pydantic
import pytest
from bson import Decimal128, ObjectId
from pymongo import DeleteOne, InsertOne, UpdateOne

from prefiq_db import ErrorKind
from prefiq_db.errors import (
    ClosedError,
    MappingError,
    ReadOnlyError,
    UniqueViolationError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.mongo import BulkWriteCounts, UpdateCounts


@dataclasses.dataclass
class Item:
    sku: str
    qty: int


class Model(pydantic.BaseModel):
    id: str = pydantic.Field(alias="_id")
    qty: int


async def fill(db: Any, *skus: str) -> None:
    await db.insert_many("item", [{"_id": sku, "sku": sku, "qty": number} for number, sku in enumerate(skus, 1)])


async def unique_sku(db: Any) -> None:
    made = db.collection("item").create_index("sku", unique=True)
    if hasattr(made, "__await__"):
        await made


async def test_what_is_inserted_is_found(db: Any) -> None:
    given = {"sku": "A1", "qty": 3}
    made = await db.insert("item", given)
    assert isinstance(made, ObjectId)
    assert given == {"sku": "A1", "qty": 3}, "the caller's document is not changed"
    assert await db.find_one("item", {"sku": "A1"}) == {"_id": made, **given}
    assert await db.find_one("item", {"sku": "none"}) is None
    assert await db.insert("item", {"_id": 7, "sku": "A2"}) == 7
    assert await db.insert_many("item", [{"_id": 8}, {"_id": 9}]) == [8, 9]
    assert await db.count("item") == 4


async def test_a_result_becomes_what_into_asks_for(db: Any) -> None:
    await fill(db, "A1", "A2", "A3")
    found = await db.find("item", {"qty": {"$gt": 1}}, sort={"sku": -1}, into=Item)
    assert found == [Item("A3", 3), Item("A2", 2)]
    assert await db.find_one("item", {"sku": "A1"}, ["qty"], into=Model) == Model(_id="A1", qty=1)
    assert await db.find("item", {"sku": "A1"}, into=dict) == [{"_id": "A1", "sku": "A1", "qty": 1}]
    assert await db.find("item", sort={"sku": 1}, limit=2, into=lambda document: document["qty"]) == [1, 2]
    totals = await db.aggregate("item", [{"$group": {"_id": None, "n": {"$sum": "$qty"}}}], into=lambda each: each["n"])
    assert totals == [6]
    with pytest.raises(MappingError) as caught:
        await db.find("item", projection={"sku": 1, "_id": 1}, into=Item)
    assert "qty" in str(caught.value)
    assert "A1" not in str(caught.value)


async def test_values_survive(db: Any) -> None:
    at = datetime.datetime(2026, 11, 29, 12, 30, tzinfo=datetime.UTC)
    given = {"_id": 1, "at": at, "price": Decimal128("12.30"), "raw": b"\x00\xff", "in": {"list": [1, None, "ß"]}}
    await db.insert("item", given)
    assert await db.find_one("item", {"_id": 1}) == given


async def test_updates_and_deletes_tell_how_many(db: Any) -> None:
    await fill(db, "A1", "A2", "A3")
    assert await db.update("item", {"qty": {"$gt": 1}}, {"$inc": {"qty": 10}}) == UpdateCounts(1, 1)
    assert await db.update("item", {"qty": {"$gt": 1}}, {"$inc": {"qty": 10}}, many=True) == UpdateCounts(2, 2)
    assert await db.update("item", {"_id": "B1"}, {"$set": {"qty": 5}}, upsert=True) == UpdateCounts(0, 0, "B1")
    assert await db.delete("item", {"_id": "A1"}) == 1
    assert await db.delete("item", {}) == 1
    assert await db.delete("item", {}, many=True) == 2
    assert await db.delete("item", {}) == 0


async def test_an_upsert_inserts_and_updates(db: Any) -> None:
    await unique_sku(db)
    await db.insert("item", {"sku": "A1", "qty": 1, "note": "old"})
    result = await db.upsert("item", [{"sku": "A1", "qty": 5}, {"sku": "A2", "qty": 6}], key="sku")
    assert (result.row_count, result.inserted, result.updated) == (2, 1, 1)
    assert (await db.find_one("item", {"sku": "A1"}))["note"] == "old"
    await db.upsert("item", {"sku": "A1", "qty": 7, "note": "new"}, key=["sku"], update=["qty"])
    found = await db.find_one("item", {"sku": "A1"})
    assert (found["qty"], found["note"]) == (7, "old")
    await db.upsert("item", {"sku": "A3", "qty": 7, "note": "new"}, key=["sku"], update=[])
    await db.upsert("item", {"sku": "A3", "qty": 8}, key=["sku"], update=[])
    assert (await db.find_one("item", {"sku": "A3"}))["qty"] == 7
    assert (await db.upsert("item", [], key="sku")).row_count == 0


async def test_bulk_writes_tell_how_many(db: Any) -> None:
    await fill(db, "A1")
    counts = await db.bulk_write(
        "item",
        [InsertOne({"_id": "A2"}), UpdateOne({"_id": "A1"}, {"$set": {"qty": 5}}), DeleteOne({"_id": "A2"})],
    )
    assert counts == BulkWriteCounts(inserted=1, matched=1, modified=1, deleted=1)
    assert await db.bulk_write("item", []) == BulkWriteCounts(0, 0, 0, 0)
    assert await db.insert_many("item", []) == []


async def test_a_duplicate_is_the_same_class_as_on_sql_and_names_no_value(db: Any) -> None:
    await unique_sku(db)
    await db.insert("item", {"sku": "c4n4ry"})
    with pytest.raises(UniqueViolationError) as caught:
        await db.insert("item", {"sku": "c4n4ry"})
    error = caught.value
    assert (error.kind, error.code, error.table, error.column) == (ErrorKind.UNIQUE, 11000, "item", "sku")
    assert error.constraint == "sku_1"
    assert "c4n4ry" not in f"{error} {error!r} {error.__dict__}"
    assert (error.__cause__, error.__context__) == (None, None)
    with pytest.raises(UniqueViolationError) as caught:
        await db.insert_many("item", [{"sku": "A1"}, {"sku": "c4n4ry"}, {"sku": "A2"}])
    assert (caught.value.statement_index, await db.count("item")) == (1, 2)


async def test_a_stream_reads_batch_by_batch(db: Any) -> None:
    await fill(db, *(f"A{number:02}" for number in range(25)))
    async with db.stream("item", sort={"sku": 1}, batch_size=10, into=Item) as items:
        skus = [each.sku async for each in items]
    assert skus == [f"A{number:02}" for number in range(25)]
    async with db.stream("item", {"qty": {"$lte": 12}}, batch_size=5) as items:
        assert [len(batch) async for batch in items.batches()] == [5, 5, 2]
    async with db.stream("item", {"sku": "none"}) as items:
        assert [each async for each in items] == []


async def test_a_stream_may_be_left_early(db: Any) -> None:
    await fill(db, *(f"A{number:02}" for number in range(25)))
    async with db.stream("item", batch_size=5) as items:
        async for _ in items:
            break
    with pytest.raises(ClosedError):
        async for _ in items:
            pass
    assert db.stats().pool.checked_out == 0


async def test_wrong_calls_name_what_was_expected(db: Any) -> None:
    for call, said in (
        (lambda: db.find(""), "collection"),
        (lambda: db.find("item", "c4n4ry"), "filter"),
        (lambda: db.find("item", session=1), "session"),
        (lambda: db.insert("item", ["c4n4ry"]), "document"),
        (lambda: db.insert_many("item", {"a": "c4n4ry"}), "documents"),
        (lambda: db.update("item", {}, {"qty": "c4n4ry"}), "change"),
        (lambda: db.update("item", {}, {}), "change"),
        (lambda: db.aggregate("item", {"$match": {}}), "pipeline"),
        (lambda: db.upsert("item", {"qty": "c4n4ry"}, key="sku"), "sku"),
        (lambda: db.upsert("item", {"qty": "c4n4ry"}, key=[]), "key"),
        (lambda: db.bulk_write("item", "c4n4ry"), "operations"),
    ):
        with pytest.raises(UsageError) as caught:
            await call()
        assert said in str(caught.value)
        assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("fetch_all", "find"),
        ("fetch_one", "find_one"),
        ("fetch_value", "count"),
        ("execute", "insert"),
        ("execute_many", "insert_many"),
        ("batch", "bulk_write"),
        ("bulk_insert", "insert_many"),
        ("session", "verbs"),
    ],
)
async def test_a_word_of_sql_names_the_document_verb(db: Any, word: str, instead: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{word}.*{instead}"):
        getattr(db, word)("select 1")


async def test_the_engine_is_refused_by_name(db: Any) -> None:
    with pytest.raises(UnsupportedError, match="client"):
        _ = db.engine


async def test_read_only_refuses_writes_and_the_drivers_own_objects(db: Any) -> None:
    await fill(db, "A1")
    reader = db.using(read_only=True)
    assert await reader.count("item") == 1
    for write in (
        lambda: reader.insert("item", {}),
        lambda: reader.delete("item", {}),
        lambda: reader.update("item", {}, {"$set": {"a": 1}}),
        lambda: reader.upsert("item", {"a": 1}, key="a"),
        lambda: reader.bulk_write("item", [DeleteOne({})]),
        lambda: reader.aggregate("item", [{"$out": "other"}]),
    ):
        with pytest.raises(ReadOnlyError):
            await write()
    with pytest.raises(UnsupportedError):
        reader.collection("item")
    async with db.override(read_only=True):
        with pytest.raises(ReadOnlyError):
            await db.insert("item", {})
    assert await db.count("item") == 1


async def test_another_database_of_the_server_is_a_tenants(db: Any, mongodb_server: Any) -> None:
    tenant = mongodb_server.create_database()
    await fill(db, "A1")
    await db.using(database=tenant).insert("item", {"_id": "T1"})
    async with db.override(database=tenant):
        assert [each["_id"] for each in await db.find("item")] == ["T1"]
    assert [each["_id"] for each in await db.find("item")] == ["A1"]
    with pytest.raises(UsageError, match="database"):
        db.using(database="")


async def test_reads_from_a_secondary_are_asked_for(db: Any) -> None:
    await fill(db, "A1")
    assert await db.using(replica=True).count("item") == 1


async def test_an_unknown_override_is_refused_by_name(db: Any) -> None:
    with pytest.raises(UsageError, match="tiemout"):
        db.using(tiemout=1)
    with pytest.raises(UnsupportedError, match="schema"):
        db.using(schema="tenant")


async def test_a_closed_database_opens_again(db: Any) -> None:
    await fill(db, "A1")
    await db.close()
    with pytest.raises(ClosedError):
        await db.count("item")
    await db.open()
    assert await db.count("item") == 1
