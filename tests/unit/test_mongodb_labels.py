"""What MongoDB's labels and PyMongo's classes mean: by the server's word, not by a guess."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import errors as driver

from prefiq_db import ErrorKind
from prefiq_db.errors import PrefiqDbError
from prefiq_db.translation.translate import translate

K = ErrorKind
CANARY = "c4n4ry"


def labelled(error: driver.PyMongoError, *labels: str) -> driver.PyMongoError:
    for label in labels:
        error._add_error_label(label)
    return error


def translated(error: Exception, phase: Any = "statement") -> PrefiqDbError:
    return translate(error, dialect="mongodb", phase=phase, database="main")


@pytest.mark.parametrize(
    ("error", "phase", "kind", "flags"),
    [
        # flags: transient, connection lost, retry statement, retry transaction
        (driver.AutoReconnect(CANARY), "statement", K.CONNECTION_LOST, (True, True, False, True)),
        (driver.AutoReconnect(CANARY), "commit", K.OUTCOME_UNKNOWN, (False, True, False, False)),
        (driver.NetworkTimeout(CANARY), "statement", K.STATEMENT_TIMEOUT, (True, True, False, False)),
        (
            labelled(driver.NetworkTimeout(CANARY), "TransientTransactionError"),
            "statement",
            K.STATEMENT_TIMEOUT,
            (True, True, False, True),
        ),
        (driver.WaitQueueTimeoutError(CANARY), "statement", K.POOL_TIMEOUT, (True, False, False, False)),
        (driver.ServerSelectionTimeoutError(CANARY), "connect", K.CONNECT_FAILED, (True, False, True, True)),
        (
            labelled(driver.OperationFailure(CANARY, 112), "TransientTransactionError"),
            "statement",
            K.SERIALIZATION,
            (True, False, False, True),
        ),
        (
            labelled(driver.OperationFailure(CANARY, 13), "TransientTransactionError"),
            "statement",
            K.PERMISSION,
            (True, False, False, True),
        ),
        (
            labelled(driver.OperationFailure(CANARY, 91), "UnknownTransactionCommitResult"),
            "commit",
            K.OUTCOME_UNKNOWN,
            (False, True, False, False),
        ),
        (
            labelled(driver.OperationFailure(CANARY, 462), "SystemOverloadedError", "RetryableError"),
            "statement",
            K.UNKNOWN,
            (True, False, True, True),
        ),
        (labelled(driver.OperationFailure(CANARY, 462), "RetryableError"), "statement", K.UNKNOWN, (False,) * 4),
        (driver.WriteConcernError(CANARY, 64), "statement", K.OUTCOME_UNKNOWN, (False,) * 4),
        (driver.WTimeoutError(CANARY, 64), "statement", K.OUTCOME_UNKNOWN, (False,) * 4),
        (driver.InvalidOperation(CANARY), "statement", K.USAGE, (False,) * 4),
        (driver.InvalidDocument(CANARY), "statement", K.DATA, (False,) * 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_treated_as_the_server_says(error: Any, phase: str, kind: ErrorKind, flags: Any) -> None:
    found = translated(error, phase)
    got = found.classification
    assert found.kind is kind
    assert (got.transient, got.connection_lost, got.retry_statement, got.retry_transaction) == flags
    assert CANARY not in str(found)


def duplicate(index: str = "sku_1_shop_1", collection: str = "shop.item") -> dict[str, Any]:
    return {
        "index": 2,
        "code": 11000,
        "errmsg": f'E11000 duplicate key error collection: {collection} index: {index} dup key: {{ sku: "{CANARY}" }}',
        "keyPattern": {"sku": 1, "shop.id": 1},
        "keyValue": {"sku": CANARY, "shop.id": CANARY},
    }


def test_a_duplicate_names_collection_index_and_fields() -> None:
    for error, place in (
        (driver.DuplicateKeyError(CANARY, 11000, duplicate()), None),
        (driver.BulkWriteError({"writeErrors": [duplicate()], "nInserted": 2}), 2),
    ):
        found = translated(error)
        assert (found.kind, found.code, found.statement_index) == (K.UNIQUE, 11000, place)
        assert (found.table, found.constraint, found.column) == ("item", "sku_1_shop_1", "sku, shop.id")
        assert CANARY not in f"{found} {found.__dict__}"


@pytest.mark.parametrize(
    "details",
    [
        {"code": 11000, "errmsg": CANARY},
        {"code": 11000, "errmsg": None, "keyPattern": [CANARY]},
        {"code": 11000, "keyPattern": {f"{CANARY} with blanks": 1}},
        duplicate(index=f"{CANARY}\\x00", collection="nodot"),
        {},
    ],
)
def test_what_is_no_name_is_left_out(details: dict[str, Any]) -> None:
    found = translated(driver.DuplicateKeyError(CANARY, 11000, details))
    assert CANARY not in f"{found} {found.table} {found.constraint} {found.column}"


def test_an_error_of_many_that_only_lacks_copies_is_unknown() -> None:
    found = translated(
        driver.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": CANARY}]})
    )
    assert (found.kind, found.code) == (K.OUTCOME_UNKNOWN, 64)
