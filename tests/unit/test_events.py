"""Events can be taken apart, copied, pickled and written as JSON by whatever a listener does with them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import Database, ErrorKind, events
from prefiq_db.errors import PrefiqDbError
from prefiq_db.events import Origin
from prefiq_db.hooks.registry import _METHODS
from prefiq_db.tags import NO_TAGS, Tags

TAGS = {"route": "/item"}
SAMPLES: dict[str, Any] = {
    "str": "word",
    "int": 1,
    "int | None": 1,
    "float": 0.5,
    "bool": True,
    "str | None": "word",
    "str | int | None": "23505",
    "ErrorKind": ErrorKind.UNIQUE,
    "ErrorKind | None": ErrorKind.UNIQUE,
    "Origin | None": Origin("app.py", 3, "handler"),
    "tuple[str, ...]": ("item",),
}


def sample(kind: Any, tags: Any) -> Any:
    values = {field.name: SAMPLES.get(field.type, tags) for field in dataclasses.fields(kind)}
    return kind(**values)


def survives(event: Any) -> None:
    apart = dataclasses.asdict(event)
    assert apart.keys() == {field.name for field in dataclasses.fields(event)}
    assert json.loads(json.dumps(apart, default=str)).keys() == apart.keys()
    assert copy.deepcopy(event) == event
    assert copy.copy(event) == event
    assert dataclasses.replace(event) == event
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(event, protocol)) == event


@pytest.mark.parametrize("kind", sorted(_METHODS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("tags", [NO_TAGS, Tags(TAGS), TAGS], ids=["none", "tags", "dict"])
def test_every_event_can_be_taken_apart(kind: Any, tags: Any) -> None:
    survives(sample(kind, tags))


@pytest.mark.parametrize("tags", [None, {}, TAGS], ids=["none", "empty", "tags"])
def test_what_a_listener_is_given_can_be_taken_apart(tmp_path: Path, tags: Any) -> None:
    """The real ones, of statements, calls, transactions and the pool; and what stats() and health() return."""
    told: list[Any] = []

    class All(events.Listener):
        pass

    for method in _METHODS.values():
        setattr(All, method, lambda self, event: told.append(event))
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        db.hooks.add(All())
        view = db.using(tags=tags)
        view.execute("create table item (id integer primary key)")
        with view.transaction() as tx:
            tx.execute("insert into item (id) values (:id)", {"id": 1})
        with pytest.raises(PrefiqDbError):
            view.execute("insert into item (id) values (:id)", {"id": 1})
        of_the_view = list(told)
        for report in (db.stats(), db.health()):
            dataclasses.asdict(report)
            assert pickle.loads(pickle.dumps(copy.deepcopy(report))) == report
    assert {type(event) for event in told} >= {
        *(events.StatementStarted, events.StatementFinished, events.StatementFailed),
        *(events.CallStarted, events.CallFinished, events.TransactionFinished, events.ConnectionCheckedIn),
    }
    for event in told:
        survives(event)
    for event in of_the_view:
        assert not hasattr(event, "tags") or event.tags == (tags or {})


def test_nobody_changes_the_tags_that_others_see(tmp_path: Path) -> None:
    """Neither a listener, for the events that follow, nor the caller who goes on with his own dict."""
    mine = dict(TAGS)
    seen: list[Any] = []
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        view = db.using(tags=mine)
        db.hooks.after(lambda event: seen.append(event.tags))
        mine["route"] = "/other"
        view.fetch_value("select 1")
        db.fetch_value("select 1")
    assert seen == [TAGS, {}]
    for tags in seen:
        for change in (
            lambda tags: tags.__setitem__("a", "b"),
            lambda tags: tags.update(a="b"),
            lambda tags: tags.setdefault("a", "b"),
            lambda tags: tags.__ior__({"a": "b"}),
            lambda tags: tags.clear(),
            lambda tags: tags.pop("route"),
            lambda tags: tags.popitem(),
            lambda tags: tags.__delitem__("route"),
        ):
            with pytest.raises(TypeError, match="can't be changed"):
                change(tags)
    assert copy.deepcopy(seen[0]) == TAGS
