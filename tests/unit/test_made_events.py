"""The events that statements make are the public frozen dataclasses, whatever way they are made cheaply."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from prefiq_db import Database, events
from prefiq_db.errors import StatementSyntaxError
from prefiq_db.events import Origin, StatementEvent
from prefiq_db.masking import describe_value
from prefiq_db.origin import _application_frame, readable


def made() -> list[Any]:
    """Return one event of each kind that a statement makes."""
    told: list[Any] = []
    with Database("sqlite://") as db:
        for register in (db.hooks.before, db.hooks.after, db.hooks.on_error):
            register(told.append)
        db.fetch_value("select :a", {"a": "secret"})
        with pytest.raises(StatementSyntaxError):
            db.fetch_value("select from where")
    started, finished, _, failed = told
    return [started, finished, failed]


def test_they_are_of_the_public_types_themselves() -> None:
    kinds = [type(event) for event in made()]
    assert kinds == [events.StatementStarted, events.StatementFinished, events.StatementFailed]


def test_they_have_every_field_and_equal_one_that_is_constructed() -> None:
    for event in made():
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        constructed = type(event)(**fields)
        assert event == constructed
        assert repr(event) == repr(constructed)
        assert dataclasses.replace(event, statement="other") == dataclasses.replace(constructed, statement="other")
        assert dataclasses.replace(event, statement="other") != event


@pytest.mark.parametrize("read", [True, False], ids=["origin was read", "origin was not read"])
def test_a_pickle_holds_what_a_reader_sees(read: bool) -> None:
    for event in made():
        if read:
            assert event.origin.function == "made"
        again = pickle.loads(pickle.dumps(event))
        assert type(again) is type(event)
        assert again == event
        assert isinstance(again.origin, Origin)


def test_nobody_changes_them() -> None:
    for event in made():
        for name in ("statement", "origin"):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(event, name, "other")
            with pytest.raises(dataclasses.FrozenInstanceError):
                delattr(event, name)


def test_an_origin_may_be_given_and_is_found_once() -> None:
    given = Origin("app.py", 3, "handler")
    assert events.StatementStarted("main", "select 1", {}, origin=given).origin is given
    assert events.StatementStarted("main", "select 1", {}).origin is None
    for event in made():
        assert event.origin is event.origin


class Held:
    """An object that a caller holds, and that can be seen to die."""


def test_an_event_that_is_kept_unread_keeps_neither_values_nor_the_callers_frame_alive() -> None:
    kept: list[StatementEvent] = []

    class Text(str):
        __slots__ = ("__weakref__",)

    with Database("sqlite://") as db:
        for register in (db.hooks.before, db.hooks.after):
            register(kept.append)

        def call() -> tuple[weakref.ref[Any], weakref.ref[Any]]:
            mine, value = Held(), Text("secret")
            db.fetch_value("select :a", {"a": value})
            return weakref.ref(mine), weakref.ref(value)

        local, value = call()
        gc.collect()
        assert (local(), value()) == (None, None)
        assert not [each for each in _reachable(kept) if isinstance(each, FrameType)]
    assert [event.origin.function.rpartition(".")[2] for event in kept if event.origin] == ["call", "call"]
    assert [event.parameters for event in kept] == [{"a": "<Text:6>"}] * 2


def _reachable(kept: list[StatementEvent]) -> list[Any]:
    return [held for event in kept for part in gc.get_referents(event) for held in (part, *gc.get_referents(part))]


def test_the_test_above_sees_a_frame() -> None:
    event = events.StatementStarted("main", "select 1", {})
    events._origin_slot.__set__(event, (sys._getframe(), 0))
    assert [each for each in _reachable([event]) if isinstance(each, FrameType)]


def walked_from(frame: FrameType) -> Origin | None:
    """Return the application's line, found by a walk from a frame of ours below the statement."""
    found = _application_frame(frame)
    return None if found is None else readable((found.f_code, found.f_lineno))


def test_a_verb_tells_the_same_line_as_a_walk_from_the_statement() -> None:
    """In every way a verb goes: alone, in a block, through ``tx``, with many rows."""
    told: list[Any] = []
    with Database("sqlite://") as db:
        db.execute("create table item (id integer)")
        db.hooks.before(lambda event: told.append((event.origin, walked_from(sys._getframe(1)))))

        def verbs(it: Any) -> None:
            it.execute("insert into item (id) values (:id)", {"id": 1})
            it.execute_many("insert into item (id) values (:id)", [{"id": 1}, {"id": 2}])
            it.fetch_all("select id from item")

        def test_itself(tx: Any) -> None:
            verbs(tx)

        verbs(db)
        with db.transaction() as tx:
            verbs(db)
            verbs(tx)
        db.run_in_transaction(test_itself)
        with db.stream("select id from item") as rows:
            assert len(list(rows)) == 12
        db.batch(["select 1", "select 2"])
    assert len(told) >= 15
    for noted, walked in told:
        assert noted == walked
    assert {walked.function.rpartition(".")[2] for _, walked in told if walked} >= {"verbs"}


class Words(list[str]):
    """A list, derived."""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[(None, "None"), (7, "<int>"), (True, "<bool>"), (0.5, "<float>"), ("abc", "<str:3>"), (b"abc", "<bytes:3>")],
        *[
            (Words("ab"), "<Words:2>"),
            (type("Id", (int,), {})(3), "<Id>"),
            ((1, 2), "<tuple:2>"),
            (object(), "<object>"),
        ],
    ],
)
def test_a_value_is_described_by_its_type_and_length(value: Any, shown: str) -> None:
    assert describe_value(value) == shown


def test_a_listener_that_comes_during_a_call_is_told_its_line() -> None:
    told: list[Any] = []
    with Database("sqlite://") as db:

        def late(event: Any) -> None:
            if not told:
                db.hooks.after(told.append)

        listener: Callable[..., Any] = late

        class Checkouts(events.Listener):
            def connection_checked_out(self, event: Any) -> None:
                listener(event)

        db.fetch_value("select 1")
        db.hooks.add(Checkouts())
        db.fetch_value("select 1")
    assert told[0].origin.function == "test_a_listener_that_comes_during_a_call_is_told_its_line"
