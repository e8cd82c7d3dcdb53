"""The fault proxy finds the same messages however the bytes are cut into pieces."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.testing.faults.framing import Framing, Message, Reply
from prefiq_db.testing.faults.framing_mariadb import MariaDbFraming
from prefiq_db.testing.faults.framing_mongodb import MongoFraming
from prefiq_db.testing.faults.framing_postgresql import PostgresFraming

# --- what goes over the wire ---------------------------------------------------------------------


def pg(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def pg_execute(statement: bytes, *, portal: bytes = b"", values: bytes = b"") -> bytes:
    return (
        pg(b"B", portal + b"\0" + statement + b"\0" + values)
        + pg(b"D", b"P" + portal + b"\0")
        + pg(b"E", portal + b"\0" + bytes(4))
    )


STARTUP = struct.pack("!ii", 8 + 12, 3 << 16) + b"user\0prefiq\0"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSS_REQUEST = struct.pack("!ii", 8, 80877104)
POSTGRESQL = (
    SSL_REQUEST
    + GSS_REQUEST
    + STARTUP
    + pg(b"p", b"password\0")
    + pg(b"Q", b"begin\0")
    + pg(b"P", b"s1\0insert into item values ($1)\0" + bytes(2))
    + pg_execute(b"s1", values=b"one")
    + pg(b"S")
    + pg(b"P", b"s2\0commit\0" + bytes(2))
    + pg(b"S")
    + pg_execute(b"s2")
    + pg(b"S")
    + pg(b"Q", "select 'ä; commit'\0".encode())
    + pg(b"Q", b"insert into item values (2); commit\0")
    + pg(b"X")
)
POSTGRESQL_REQUESTS = ["login", "BEGIN", "INSERT", "COMMIT", "SELECT", "COMMIT"]


def my(payload: bytes, sequence: int = 0) -> bytes:
    packets = b""
    while True:
        part, payload = payload[:0xFFFFFF], payload[0xFFFFFF:]
        packets += len(part).to_bytes(3, "little") + bytes([sequence % 256]) + part
        sequence += 1
        if len(part) < 0xFFFFFF:
            return packets


LOGIN = my(b"\x85\xa6\x3f\x00 capabilities and user", 1)
MARIADB = (
    LOGIN
    + my(b"\x03begin")
    + my(b"\x16commit")
    + my(b"\x17" + struct.pack("<IBI", 7, 0, 1))
    + my(b"\x19" + struct.pack("<I", 7))
    + my(b"\x0e")
    + my(b"\x03COMMIT WORK; -- done")
    + my(b"\x01")
)
MARIADB_REQUESTS = ["login", "BEGIN", "COMMIT", "COMMIT", "COM_PING", "COMMIT"]
OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF_PACKET = b"\xfe\x00\x00\x02\x00"


def greeting(capabilities: int, *, extended: int = 0xFFFF) -> bytes:
    low, high = struct.pack("<I", capabilities)[:2], struct.pack("<I", capabilities)[2:]
    return my(
        b"\x0a10.11.19-MariaDB\0" + bytes([1, 0, 0, 0]) + b"12345678" + b"\0" + low + b"\x2d" + b"\x02\x00" + high
        + b"\x15" + bytes(6) + struct.pack("<I", extended) + b"123456789012\0" + b"mysql_native_password\0"
    )  # fmt: skip


def bson(name: str, value: str | None) -> bytes:
    """A document with one field: text, or the number 1."""
    kind, body = (b"\x10", struct.pack("<i", 1)) if value is None else (b"\x02", text(value))
    fields = kind + name.encode() + b"\0" + body + b"\x02$db\0" + text("shop")
    return struct.pack("<i", len(fields) + 5) + fields + b"\0"


def text(value: str) -> bytes:
    return struct.pack("<i", len(value.encode()) + 1) + value.encode() + b"\0"


def mo(number: int, body: bytes, *, kind: int = 2013, answers: int = 0) -> bytes:
    return struct.pack("<iiii", 16 + len(body), number, answers, kind) + body


def command(number: int, name: str, value: str | None, *, flags: int = 0, before: bytes = b"") -> bytes:
    return mo(number, struct.pack("<I", flags) + before + b"\0" + bson(name, value))


def sequence(*documents: bytes) -> bytes:
    body = b"documents\0" + b"".join(documents)
    return b"\x01" + struct.pack("<i", len(body) + 4) + body


HELLO = mo(1, bytes(4) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + bson("ismaster", None), kind=2004)
MONGODB = (
    HELLO
    + command(2, "insert", "item", before=sequence(bson("sku", "commitTransaction")))
    + command(3, "find", "ärtikel")
    + command(4, "commitTransaction", None)
    + command(5, "insert", "item", flags=2)
    + command(6, "sku c4n4ry", "item")
    + mo(7, b"\x01\x02\x03\x04", kind=2012)
)
MONGODB_REQUESTS = ["ismaster", "insert", "find", "COMMIT", "?", "?"]


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut *data* at the given places."""
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return (data[start:end] for start, end in pairwise(places))


def messages(framing: Framing, data: Iterable[bytes]) -> list[Message]:
    found = []
    for piece in data:
        framing.client_said(piece)
        for message in framing.messages():
            framing.forwarded(message)
            found.append(message)
    return found


def replies(framing: Framing, data: Iterable[bytes]) -> list[Reply]:
    found = []
    for piece in data:
        framing.server_said(piece)
        found.extend(framing.replies())
    return found


def told(found: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(message.command, message.sql, message.raw, message.is_request) for message in found]


def logged_in(*said: bytes) -> tuple[MariaDbFraming, list[Message]]:
    """A MariaDB connection after its login, and what the client said then."""
    framing = MariaDbFraming()
    replies(framing, [greeting(1)])
    messages(framing, [LOGIN])
    replies(framing, [my(OK, 2)])
    return framing, messages(framing, said)


# --- any pieces ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, len(POSTGRESQL)), max_size=40))
def test_any_pieces_of_postgresql_are_the_same_messages(cuts: list[int]) -> None:
    whole, cut = PostgresFraming(), PostgresFraming()
    expected = messages(whole, [POSTGRESQL])
    found = messages(cut, pieces(POSTGRESQL, cuts))
    assert told(found) == told(expected)
    assert b"".join(message.raw for message in found) == POSTGRESQL.removeprefix(SSL_REQUEST + GSS_REQUEST)
    assert cut.said_instead == b"NN"
    assert [message.word for message in found if message.is_request] == POSTGRESQL_REQUESTS


@given(st.lists(st.integers(0, len(MARIADB)), max_size=40))
def test_any_pieces_of_mariadb_are_the_same_messages(cuts: list[int]) -> None:
    framing = MariaDbFraming()
    replies(framing, [greeting(1)])
    found = []
    for piece in pieces(MARIADB, cuts):
        framing.client_said(piece)
        for message in framing.messages():
            framing.forwarded(message)
            found.append(message)
            if message.command == "login":
                replies(framing, [my(OK, 2)])
            if message.command == "COM_QUERY":
                replies(framing, [my(OK, 1)])
            if message.command == "COM_STMT_PREPARE":
                replies(framing, [my(b"\x00" + struct.pack("<IHHBH", 7, 0, 0, 0, 0), 1)])
    assert b"".join(message.raw for message in found) == MARIADB
    assert [message.word for message in found if message.is_request] == MARIADB_REQUESTS


@given(st.lists(st.integers(0, len(MONGODB)), max_size=40))
def test_messages_of_mongodb_are_found_in_any_pieces(cuts: list[int]) -> None:
    found = messages(MongoFraming(), pieces(MONGODB, cuts))
    assert b"".join(message.raw for message in found) == MONGODB
    assert [message.word for message in found if message.is_request] == MONGODB_REQUESTS
    assert [message.collection for message in found] == ["", "item", "ärtikel", "", "item", "", ""]
    assert [message.is_commit for message in found].count(True) == 1


MONGODB_ANSWERS = (
    mo(101, struct.pack("<iqii", 8, 0, 0, 1) + bson("ok", None), kind=1, answers=1)
    + mo(102, struct.pack("<I", 2) + b"\0" + bson("ok", None), answers=2)
    + mo(103, struct.pack("<I", 0) + b"\0" + bson("ok", None), answers=102)
    + mo(104, struct.pack("<I", 0) + b"\0" + bson("ok", None), answers=4)
    + mo(105, struct.pack("<I", 0) + b"\0" + bson("ok", None), answers=99)
)


@given(st.lists(st.integers(0, len(MONGODB_ANSWERS)), max_size=20))
def test_the_end_of_an_answer_of_mongodb_is_found_in_any_pieces(cuts: list[int]) -> None:
    """An answer that goes on in a second one, and one that nobody asked for."""
    framing = MongoFraming()
    messages(framing, [MONGODB])
    found = replies(framing, pieces(MONGODB_ANSWERS, cuts))
    assert b"".join(reply.raw for reply in found) == MONGODB_ANSWERS
    words = [reply.request.word if reply.request else None for reply in found]
    assert words == ["ismaster", "insert", "insert", "COMMIT", None]
    assert [reply.is_last for reply in found] == [True, False, True, True, False]


def test_bytes_that_are_no_message_of_mongodb_pass() -> None:
    tls = b"\x16\x03\x01\x02\x00\x01\x00" + bytes(range(100))
    framing = MongoFraming()
    found = messages(framing, [tls, b"more"])
    assert not any(message.is_request for message in found)
    assert b"".join(message.raw for message in found) == tls + b"more"
    assert [reply.raw for reply in replies(framing, [b"\x16", b"\x03"])] == [b"\x16", b"\x03"]


ANSWER = my(b"\x01", 1) + my(b"column", 2) + my(EOF_PACKET, 3) + my(b"\x0242", 4) + my(b"\xfb", 5) + my(EOF_PACKET, 6)


@given(st.lists(st.integers(0, 200), max_size=20))
def test_the_end_of_an_answer_of_mariadb_is_found_in_any_pieces(cuts: list[int]) -> None:
    framing, (first, second) = logged_in(my(b"\x03select 42"), my(b"\x03commit"))
    found = replies(framing, pieces(ANSWER + my(OK, 1), cuts))
    assert [reply.request for reply in found] == [first] * 6 + [second]
    assert [reply.is_last for reply in found] == [False] * 5 + [True, True]


BACKEND = (
    pg(b"C", b"BEGIN\0") + pg(b"Z", b"T")
    + pg(b"1") + pg(b"N", b"notice") + pg(b"2") + pg(b"n") + pg(b"C", b"INSERT 0 1\0")
    + pg(b"2") + pg(b"n") + pg(b"C", b"COMMIT\0") + pg(b"Z", b"I")
)  # fmt: skip


@given(st.lists(st.integers(0, len(BACKEND)), max_size=20))
def test_the_end_of_an_answer_of_postgresql_is_found_in_any_pieces(cuts: list[int]) -> None:
    framing = PostgresFraming()
    client = STARTUP + pg(b"Q", b"begin\0") + pg(b"P", b"\0insert\0\0\0") + pg_execute(b"")
    client += pg(b"P", b"c\0commit\0\0\0") + pg_execute(b"c") + pg(b"S")
    requests = [message for message in messages(framing, [client]) if message.is_request]
    assert [message.word for message in requests] == ["login", "BEGIN", "INSERT", "COMMIT"]
    replies(framing, [pg(b"R", bytes(4)) + pg(b"Z", b"I")])
    found = replies(framing, pieces(BACKEND, cuts))
    last = [reply.request.word for reply in found if reply.is_last and reply.request]
    assert last == ["BEGIN", "INSERT", "COMMIT", "Sync"]
    assert b"".join(reply.raw for reply in found) == BACKEND
    assert [reply.request for reply in found if reply.raw[:1] == b"N"] == [None]


# --- odd answers ---------------------------------------------------------------------------------


def test_after_an_error_in_a_pipeline_the_sync_answers_for_all() -> None:
    framing = PostgresFraming()
    client = STARTUP + pg(b"P", b"\0insert\0\0\0") + pg_execute(b"") + pg_execute(b"") + pg(b"S") + pg(b"Q", b"end\0")
    messages(framing, [client])
    replies(framing, [pg(b"Z", b"I")])
    found = replies(framing, [pg(b"1") + pg(b"E", b"oops") + pg(b"Z", b"E") + pg(b"C", b"ROLLBACK\0") + pg(b"Z", b"I")])
    assert [reply.request.word for reply in found if reply.request] == ["INSERT"] * 3 + ["COMMIT"] * 2


def test_several_results_are_one_answer() -> None:
    framing, (request,) = logged_in(my(b"\x03select 1; select 2"))
    more = b"\xfe\x00\x00\x0a\x00"
    first = my(b"\x01", 1) + my(b"column", 2) + my(EOF_PACKET, 3) + my(b"\x011", 4) + my(more, 5)
    found = replies(framing, [first + my(b"\x00\x00\x00\x0a\x00\x00\x00", 6) + my(OK, 7)])
    assert [reply.is_last for reply in found] == [False] * 6 + [True]
    assert {reply.request for reply in found} == {request}


def test_an_error_among_rows_ends_the_answer() -> None:
    framing, (first, second) = logged_in(my(b"\x03select 1"), my(b"\x0e"))
    rows = my(b"\x01", 1) + my(b"column", 2) + my(EOF_PACKET, 3) + my(b"\x011", 4) + my(b"\xff\x00\x00oops", 5)
    found = replies(framing, [rows + my(OK, 1)])
    assert [reply.request for reply in found if reply.is_last] == [first, second]


def test_a_prepared_statement_has_its_definitions_in_the_answer() -> None:
    framing, (first, second) = logged_in(my(b"\x16select ?, ?"), my(b"\x0e"))
    prepared = my(b"\x00" + struct.pack("<IHHBH", 1, 2, 2, 0, 0), 1)
    definitions = (my(b"parameter", 2) * 2 + my(EOF_PACKET, 4)) + (my(b"column", 5) * 2 + my(EOF_PACKET, 7))
    found = replies(framing, [prepared + definitions + my(OK, 1)])
    assert [reply.request for reply in found] == [first] * 7 + [second]


def test_a_file_that_the_client_sends_is_no_command() -> None:
    framing, _ = logged_in(my(b"\x03load data local infile 'x' into table item"))
    replies(framing, [my(b"\xfbx", 1)])
    sent = messages(framing, [my(b"\x03commit", 2), my(b"\x03commit", 256), my(b"", 4)])
    assert [message.command for message in sent] == ["file"] * 3
    assert [reply.is_last for reply in replies(framing, [my(OK, 5)])] == [True]
    assert [message.word for message in messages(framing, [my(b"\x03commit")])] == ["COMMIT"]


def test_a_statement_of_more_than_a_packet_is_one_message() -> None:
    sql = b"insert into item values ('" + b"x" * 0x1000000 + b"')"
    data = my(b"\x03" + sql) + my(b"\x03commit")
    _, found = logged_in(*(data[start : start + 1_000_000] for start in range(0, len(data), 1_000_000)))
    assert [message.word for message in found] == ["INSERT", "COMMIT"]
    assert found[0].sql == sql.decode()


def test_the_greeting_loses_what_would_hide_the_words() -> None:
    framing = MariaDbFraming()
    (reply,) = replies(framing, [greeting(0xFFFFFFFF)])
    assert reply.raw == greeting(0xFFFFFFFF & ~(1 << 5 | 1 << 11 | 1 << 24 | 1 << 26))
    (reply,) = replies(MariaDbFraming(), [greeting(0xFFFFFFFE)])
    assert reply.raw == greeting(0xFFFFFFFE & ~(1 << 5 | 1 << 11 | 1 << 24 | 1 << 26), extended=0)


def test_a_greeting_that_is_an_error_passes() -> None:
    refused = my(b"\xff\x10\x04Too many connections")
    assert [reply.raw for reply in replies(MariaDbFraming(), [refused])] == [refused]


# --- what a message is ---------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [
    "commit", " COMMIT ", "Commit;", "commit work ;;", "commit -- done", "/* a /* */ commit", "commit and chain",
    "COMMIT\n/* ; */ ;", "insert into item values ('x; rollback'); commit",
])  # fmt: skip
@pytest.mark.parametrize("protocol", ["postgresql", "mariadb"])
def test_what_is_a_commit(sql: str, protocol: Any) -> None:
    assert Message("Query", sql, protocol=protocol).is_commit
    assert Message("Query", sql, protocol=protocol).word == "COMMIT"


@pytest.mark.parametrize("sql", [
    "", "rollback", "select 'commit'", "select 1 -- ; commit", "select 1 /* ; commit ; */", "commit prepared 'x'",
    "insert into item values ('; commit ;')", "select commit from item", 'select "; commit;"', "committed",
])  # fmt: skip
@pytest.mark.parametrize("protocol", ["postgresql", "mariadb"])
def test_what_is_no_commit(sql: str, protocol: Any) -> None:
    assert not Message("Query", sql, protocol=protocol).is_commit


@pytest.mark.parametrize("protocol", ["postgresql", "mariadb"])
def test_a_commit_of_nothing_is_none(protocol: Any) -> None:
    assert not Message("Query", "commit", protocol=protocol, in_transaction=False).is_commit
    assert Message("Query", "commit", protocol=protocol, in_transaction=False).word == "COMMIT"
    sql = "begin; insert into item values (1); commit"
    assert Message("Query", sql, protocol=protocol, in_transaction=False).is_commit


def test_the_server_says_whether_a_transaction_is_open() -> None:
    begun = b"\x00\x00\x00\x03\x00\x00\x00"
    framing, (commit, _) = logged_in(my(b"\x03commit"), my(b"\x03begin"))
    assert not commit.is_commit
    replies(framing, [my(OK, 1) + my(begun, 1)])
    (commit,) = messages(framing, [my(b"\x03commit")])
    assert commit.is_commit
    replies(framing, [my(OK, 1)])
    assert not messages(framing, [my(b"\x03commit")])[0].is_commit
    other = PostgresFraming()
    messages(other, [STARTUP])
    replies(other, [pg(b"Z", b"I")])
    assert [m.is_commit for m in messages(other, [pg(b"Q", b"commit\0") + pg(b"Q", b"begin\0")])] == [False, False]
    replies(other, [pg(b"Z", b"I") + pg(b"Z", b"T")])
    assert messages(other, [pg(b"Q", b"commit\0")])[0].is_commit


@pytest.mark.parametrize(("sql", "postgresql", "mariadb"), [
    ("end", True, False),
    ("END WORK;", True, False),
    ("begin not atomic start transaction; insert into t values (1); end", True, False),
    ("begin not atomic start transaction; insert into t values (1); commit; end", True, True),
    ("# ours;\ncommit /* x */ # y", False, True),
    ("select 'it\\'; commit; '", True, False),
    ("select $x$; commit; $x$", False, True),
    ("select e'it\\'; commit; '", False, False),
])  # fmt: skip
def test_where_the_two_differ(sql: str, postgresql: bool, mariadb: bool) -> None:
    assert Message("Query", sql, protocol="postgresql").is_commit is postgresql
    assert Message("Query", sql, protocol="mariadb").is_commit is mariadb


@pytest.mark.parametrize(("sql", "parameters", "expected"), [
    ("INSERT INTO prefiq_commit_token (token, written_as) VALUES ('1', 'abandoned')", b"", True),
    ("insert into\n`prefiq_commit_token` values (?, ?)", b"1 abandoned", True),
    ("insert into prefiq_commit_token values (?, ?)", b"1 work", False),
    ("insert into prefiq_commit_token values ('1', 'work')", b"", False),
    ("select written_as = 'abandoned' from prefiq_commit_token", b"", False),
])  # fmt: skip
def test_what_is_a_claim(sql: str, parameters: bytes, expected: bool) -> None:
    assert Message("Query", sql, parameters=parameters).is_claim is expected


def test_a_message_never_prints_its_statement() -> None:
    message = Message("Query", "select 'hunter2'", b"Q hunter2", True, parameters=b"hunter2")
    assert "hunter2" not in repr(message)
    assert "hunter2" not in repr(Reply(b"hunter2", message))
    assert Message("Query", "hunter2").word == "?"
    assert Message("Query", "  (select 'x')").word == "SELECT"
