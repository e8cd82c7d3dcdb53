"""The page is one file, lets nothing else run in it, and its data are counters without values."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from prefiq_db import Database
from prefiq_db.errors import UniqueViolationError
from prefiq_db.health import HealthCheck
from prefiq_db.integrations.page import PAGE, PAGE_HEADERS
from prefiq_db.integrations.page_data import collect_page_data, merge
from prefiq_db.reports import HistogramStats


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = PAGE.decode()
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", text) == ["data:,", "db.json"]
    assert not re.search(r"https?:|@import|url\(", text)


def test_the_page_never_reads_data_as_html() -> None:
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", PAGE)


def test_only_the_pages_own_style_and_script_may_run() -> None:
    policy = dict(PAGE_HEADERS)["Content-Security-Policy"]
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE.decode(), re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(rb"<[^>]+ (?:style|on\w+)=", PAGE.split(b"<script>")[0])  # the policy would refuse them


def _data(db: Database) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(collect_page_data([db], HealthCheck(db).health())))
    return data


@pytest.mark.parametrize("mask", [True, False])
def test_the_data_tell_what_happened_and_no_value(mask: bool) -> None:
    secret = "canary-5aab"
    with Database("sqlite://", mask=mask, environment="development") as db:
        db.execute("create table customer (name varchar(40) primary key)")
        db.execute("insert into customer (name) values (:name)", {"name": secret})
        with pytest.raises(UniqueViolationError):
            db.execute(f"insert into customer (name) values ('{secret}')")
        with db.transaction() as tx:
            tx.fetch_all("select name from customer where name = :name", {"name": secret})
            data = _data(db)
    (database,) = data["databases"]
    assert (database["name"], database["engine"], database["mode"], database["status"]) == (
        "main",
        "sqlite",
        "sync",
        "pass",
    )
    assert database["pool"]["checked_out"] == 1
    assert database["errors"] == {"unique": 1}
    assert {"INSERT customer", "SELECT customer"} <= {each["summary"] for each in database["statements"]}
    (holder,) = database["holders"]
    assert holder["summary"] == "SELECT customer"
    assert database["latency"]["count"] == sum(database["latency"]["counts"]) > 0
    assert secret not in json.dumps(data)


def test_a_database_that_did_nothing_yet_has_data_too() -> None:
    db = Database("sqlite://")
    try:
        (database,) = _data(db)["databases"]
    finally:
        db.close()
    assert database["holders"] == []
    assert database["status"] == "pass"


def test_histograms_add_up() -> None:
    one = HistogramStats((0.1, 1.0), (1, 2, 0), 1.5, 0.9)
    two = HistogramStats((0.1, 1.0), (0, 1, 1), 3.5, 3.0)
    assert merge([one, two]) == HistogramStats((0.1, 1.0), (1, 3, 1), 5.0, 3.0)
    assert merge([]) == HistogramStats()
