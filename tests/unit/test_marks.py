"""Marks: what they hold, what they look like outside, and who sees them."""

from __future__ import annotations

import contextvars
import gc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.dialects.travelling_mariadb import mark_of_gtids
from prefiq_db.dialects.travelling_postgresql import PipelineTravelling
from prefiq_db.drivers.travellers_mysql import gtid_in
from prefiq_db.errors import UsageError
from prefiq_db.marks import (
    Doubt,
    Mark,
    Seen,
    Standing,
    check_mark_text,
    enter_scope,
    leave_scope,
    mark_of,
    seen_by,
    seen_here,
)
from prefiq_db.readers import Node

_PLACES = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
_DOMAINS = st.dictionaries(st.integers(0, 2**32 - 1), _PLACES, min_size=1, max_size=5)
_MARKS = st.builds(Mark, st.just("m"), _DOMAINS) | st.builds(Mark, st.just("p"), st.builds(lambda at: {0: at}, _PLACES))


@given(_MARKS, st.text(max_size=20))
def test_a_mark_comes_back_from_its_text(mark: Mark, home: str) -> None:
    text = mark.text(home)
    assert check_mark_text(text) == text
    assert mark_of(text, mark.kind, home) == mark


@given(_MARKS, st.integers(min_value=0), st.characters(codec="ascii"))
def test_a_changed_text_is_refused_and_not_told(mark: Mark, place: int, by: str) -> None:
    text = mark.text("shop")
    at = place % len(text)
    changed = text[:at] + by + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(UsageError, match="after") as caught:
        check_mark_text(changed)
    assert changed not in str(caught.value)


def test_a_mark_of_elsewhere_is_refused() -> None:
    text = Mark("p", {0: (1, 5)}).text("shop")
    for kind, home in (("m", "shop"), ("p", "other")):
        with pytest.raises(UsageError, match="another database"):
            mark_of(text, kind, home)


def test_the_later_one_holds_the_earlier_one() -> None:
    early, late, other = Mark("m", {0: (1, 5)}), Mark("m", {0: (2, 6)}), Mark("m", {1: (1, 1)})
    assert late.holds(early)
    assert not early.holds(late)
    assert not late.holds(other)
    assert late.with_(other).holds(other)
    # Of PostgreSQL a number counts only on its timeline.
    assert Mark("p", {0: (2, 50)}).holds(Mark("p", {0: (1, 90)}))
    assert not Mark("p", {0: (1, 90)}).holds(Mark("p", {0: (2, 50)}))


def test_the_place_behind_the_header_of_a_page_is_that_before_it() -> None:
    """Else no replica would be there until somebody writes more."""
    dialect = PipelineTravelling.__new__(PipelineTravelling)
    for place, expected in ((8192 * 3 + 24, 8192 * 3), (2**24 + 40, 2**24), (8192 * 3 + 48, 8192 * 3 + 48)):
        mark = dialect.mark_from(("00000002000000000000000A", str(place)))
        assert mark == Mark("p", {0: (2, expected)})


def test_gtids_of_several_domains() -> None:
    assert mark_of_gtids("0-1-270,7-2-3") == Mark("m", {0: (1, 270), 7: (2, 3)})
    assert mark_of_gtids("") is None


def test_the_gtid_in_the_end_of_an_ok_packet() -> None:
    variable = b"\x09last_gtid\x070-1-270"
    change = b"\x00" + bytes([len(variable)]) + variable
    schema = b"\x01\x05\x04shop"
    state = schema + change
    message = b"\x00" + bytes([len(state)]) + state
    assert gtid_in(0x4000, message) == "0-1-270"
    assert gtid_in(0x0002, message) == ""
    assert gtid_in(0x4000, b"") == ""


def test_who_sees_what_was_written() -> None:
    key, mark, later = object(), Mark("p", {0: (1, 5)}), Mark("p", {0: (1, 9)})
    outer = Seen("worker")
    outer.note(key, mark)
    inner = Seen("other", outer)
    assert inner.mark(key) == mark  # what was there when it began
    inner.note(key, later)
    assert outer.mark(key) == later  # who started it sees what it wrote
    outer.note(key, None)
    assert outer.is_unknown(key)
    assert not inner.is_unknown(key)
    outer.settle(key, later, outer.doubts(key))
    assert not outer.is_unknown(key)


def test_an_answer_settles_what_was_in_doubt_before_the_question() -> None:
    key, mark = object(), Mark("p", {0: (1, 5)})
    outer = Seen()
    outer.note(key, None)
    inner = Seen("worker", outer)
    doubts = inner.doubts(key)
    outer.note(key, None)  # meanwhile
    inner.settle(key, mark, doubts)
    assert inner.is_unknown(key), "written in the scope around it while it asked"
    inner.settle(key, mark, inner.doubts(key))
    assert not inner.is_unknown(key)
    assert not outer.is_unknown(key)


def test_a_writer_that_nobody_sees_is_in_doubt_until_it_ends() -> None:
    class Proxied:
        dbapi_connection: object = object()

    key, mark, seen, writer = object(), Mark("p", {0: (1, 5)}), Seen(), Proxied()
    seen.note(key, None, Doubt(writer))
    before = seen.doubts(key)
    assert before == []
    seen.note(key, None)
    seen.settle(key, mark, seen.doubts(key))
    assert seen.is_unknown(key)
    writer.dbapi_connection = None
    seen.settle(key, mark, before)
    assert seen.is_unknown(key), "it may have committed behind the question"
    seen.settle(key, mark, seen.doubts(key))
    assert not seen.is_unknown(key)


def test_a_node_without_its_primary_is_as_old_as_its_last_word_and_the_time_since() -> None:
    node = Node("r1", 1, None)  # type: ignore[type-var]  # nothing is asked of its pool
    assert node.aged(Standing(True, 2.0), 100.0).lag_seconds == 2.0
    cut_off = Standing(True, None, is_detached=True)
    assert node.aged(cut_off, 110.0).lag_seconds == 12.0
    assert node.aged(replace(cut_off, lag_seconds=3600.0), 110.0).lag_seconds == 12.0, "an idle primary"
    assert node.aged(replace(cut_off, lag_seconds=1.0), 110.0).lag_seconds == 1.0
    stranger = Node("r2", 1, None)  # type: ignore[type-var]  # likewise
    assert stranger.aged(cut_off, 50.0).lag_seconds is None
    assert stranger.aged(cut_off, 90.0).lag_seconds == 40.0


def test_a_scope_sees_again_what_it_saw_when_an_inner_one_is_left() -> None:
    key, mark = object(), Mark("p", {0: (1, 5)})

    def work() -> None:
        first = seen_by("worker")
        enter_scope("outer")
        outer = seen_here()
        enter_scope("inner")
        seen_by("worker").note(key, mark)
        leave_scope("another")
        assert seen_here() is not outer
        leave_scope("inner")
        assert seen_here() is outer
        assert outer is not None
        assert outer.mark(key) == mark
        leave_scope("outer")
        assert seen_here() is first
        assert first.mark(key) == mark

    contextvars.Context().run(work)


def test_a_mark_of_many_domains_is_taken_back() -> None:
    mark = Mark("m", {domain: (1000 + domain, 10**12 + domain) for domain in range(100)})
    token = mark.text("shop")
    assert check_mark_text(token) == token
    assert mark_of(token, "m", "shop") == mark


def test_what_an_outermost_scope_wrote_is_seen_after_it_and_shared_no_more() -> None:
    """Two tasks that are started after it would wait for each other's writes for ever."""
    key, mark, later = object(), Mark("p", {0: (1, 5)}), Mark("p", {0: (1, 9)})

    def task(name: str) -> Seen:
        return contextvars.copy_context().run(seen_by, name)

    def work() -> None:
        enter_scope("outermost")
        assert task("one") is task("other"), "the control: in the scope they share it"
        seen_by("worker").note(key, mark)
        leave_scope("outermost")
        one, other = task("one"), task("other")
        assert one.mark(key) == other.mark(key) == seen_by("worker").mark(key) == mark
        one.note(key, later)
        assert other.mark(key) == mark

    contextvars.Context().run(work)


def test_a_chain_of_tasks_keeps_none_of_those_before() -> None:
    seen = Seen("0")
    for number in range(1, 50):
        seen = Seen(str(number), seen)
    gc.collect()
    assert len(list(seen._all())) == 1
    assert len(Seen("last", seen)._above) == 1
