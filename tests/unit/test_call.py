"""A call: what it shows, what it finds out once, and what it lets go of."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from prefiq_db import Database
from prefiq_db.call import NO_OVERRIDES, Call, Overrides
from prefiq_db.errors import PrefiqDbError, StatementRefusedError
from prefiq_db.events import CallFinished, CallStarted, Listener
from prefiq_db.execution import statement_facts as facts
from prefiq_db.execution.shapes import OUTCOME


def made(sql: str = "select :word", params: Any = None, given: Overrides = NO_OVERRIDES) -> Call:
    return Call("execute", text(sql), params, OUTCOME, given)


def test_it_shows_no_value_and_no_text() -> None:
    """It may stand in any frame that an error tracker records."""
    call = made("select 'secret', :word", {"word": "secret"})
    assert repr(call) == f"<Call {call.id}: execute>"


def test_what_is_known_of_its_statement_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    call, dialect = made("select 1"), SimpleNamespace(label="sqlite")
    found = facts.facts_of_call(call, dialect)
    monkeypatch.setattr(facts, "reading_facts", lambda statement, dialect: pytest.fail("asked again"))
    assert facts.facts_of_call(call, dialect) is found


def test_it_has_the_tags_and_the_limit_of_the_overrides() -> None:
    given = Overrides(timeout=2.0, tags={"route": "stock"})
    call = made(given=given)
    assert call.deadline is not None
    assert (call.tags, call.deadline.seconds, call.deadline.at) == ({"route": "stock"}, 2.0, call.started + 2.0)
    assert (made().tags, made().deadline) == ({}, None)


class Word(str):
    """A value that tells whether somebody keeps it."""


@pytest.mark.parametrize("ambient", [True, False])
def test_an_open_transaction_keeps_nothing_that_its_last_call_was_given(ambient: bool) -> None:
    """The connection knows its last call until the next one; a batch of rows may be large."""
    with Database("sqlite:///:memory:") as db, db.transaction() as tx:
        verbs: Any = db if ambient else tx
        word = Word("kept?")
        kept = weakref.ref(word)
        assert verbs.fetch_value("select :word", {"word": word}) == "kept?"
        del word
        gc.collect()
        assert kept() is None


def test_a_transaction_asks_nothing_of_its_database_when_there_is_no_row() -> None:
    """Not even whether the statement is one; the database itself is asked first whether it is open."""
    with Database("sqlite:///:memory:") as db:
        with db.transaction() as tx:
            nothing: Any = 5
            assert tx.execute_many(nothing, []) == 0
        with pytest.raises(PrefiqDbError, match="statement"):
            db.execute_many(nothing, [])


class Calls(Listener):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def call_started(self, event: CallStarted) -> None:
        self.seen.append(("started", event.call_id, event.verb))

    def call_finished(self, event: CallFinished) -> None:
        self.seen.append(("finished", event.call_id, event.verb, event.attempts, str(event.kind)))


@pytest.mark.parametrize("refused", ["outside", "inside"])
def test_a_refused_call_is_told_of_from_beginning_to_end(refused: str) -> None:
    """It was refused before anything was sent, and that is how it ended."""
    listener = Calls()
    with Database("sqlite:///:memory:") as db:
        db.hooks.add(listener)
        with pytest.raises(PrefiqDbError) as caught:
            if refused == "outside":
                db.execute("begin")
            else:
                with db.transaction(), db.override(read_only=True):
                    db.execute("create table t (a int)")
    assert isinstance(caught.value, StatementRefusedError)
    (_, number, _), *_ = listener.seen
    assert listener.seen == [("started", number, "execute"), ("finished", number, "execute", 1, "usage")]
