"""The wire counter counts round trips by order, not by time, and passes everything on unchanged."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from prefiq_db.testing import WireCounter
from prefiq_db.testing.machine import free_port
from prefiq_db.testing.processes import wait_until


class ScriptedServer:
    """A server whose every word the test decides: it only accepts."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in (*self.connections, self.listener):
            connection.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with closing(ScriptedServer()) as scripted:
        yield scripted


@pytest.fixture
def wire(server: ScriptedServer) -> Iterator[WireCounter]:
    with WireCounter("127.0.0.1", server.port) as counter:
        yield counter


@pytest.fixture
def client(wire: WireCounter) -> Iterator[socket.socket]:
    with socket.create_connection((wire.host, wire.port), timeout=10) as connection:
        yield connection


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        assert chunk, "the connection ended"
        data += chunk
    return data


def test_a_question_and_its_answer_are_one_round_trip(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    for number in range(1, 4):
        client.sendall(b"question")
        assert receive(there, 8) == b"question"
        there.sendall(b"answer")
        assert receive(client, 6) == b"answer"
        assert wire.round_trips == number


def test_a_message_in_many_packets_counts_once(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    for byte in b"question":
        client.sendall(bytes([byte]))
        receive(there, 1)  # so the packets can't merge
    assert wire.round_trips == 1


def test_an_answer_in_many_packets_counts_once(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    client.sendall(b"?")
    receive(there, 1)
    for byte in b"answer":
        there.sendall(bytes([byte]))
        receive(client, 1)
    client.sendall(b"?")
    assert wire.round_trips == 2


def test_a_server_that_speaks_first_adds_nothing(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    server.accept().sendall(b"greeting")
    receive(client, 8)
    assert wire.round_trips == 0
    client.sendall(b"?")
    assert wire.round_trips == 1


def test_bytes_that_nobody_answers_are_seen_before_the_number_is_read(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    for _ in range(50):
        wire.reset()
        client.sendall(b"goodbye")
        assert wire.round_trips == 1
        there.sendall(b"!")
        receive(client, 1)


def test_connections_are_counted_apart(server: ScriptedServer, wire: WireCounter) -> None:
    def ask() -> socket.socket:
        connection = socket.create_connection((wire.host, wire.port), timeout=10)
        connection.sendall(b"?")
        return connection

    with ask(), ask():
        assert wire.round_trips == 2
        assert wire.connections == 2
        assert wire.connections_seen == 2
    for _ in range(2):
        server.accept().close()
    assert wait_until(lambda: wire.connections == 0, timeout_seconds=10)
    assert wire.connections_seen == 2


def test_a_block_is_counted_alone(server: ScriptedServer, wire: WireCounter, client: socket.socket) -> None:
    there = server.accept()
    client.sendall(b"?")
    receive(there, 1)
    with wire.count() as count:
        there.sendall(b"!")
        receive(client, 1)
        client.sendall(b"?")
    assert count.round_trips == 1
    assert wire.round_trips == 2
    wire.reset()
    assert wire.round_trips == 0


def test_megabytes_pass_in_both_directions_at_once(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    upwards, downwards = bytes(range(256)) * 40_000, bytes(reversed(range(256))) * 40_000
    senders = [
        threading.Thread(target=client.sendall, args=(upwards,)),
        threading.Thread(target=there.sendall, args=(downwards,)),
    ]
    for sender in senders:
        sender.start()
    assert receive(there, len(upwards)) == upwards
    assert receive(client, len(downwards)) == downwards
    for sender in senders:
        sender.join()


def test_the_end_of_one_side_reaches_the_other_after_its_last_word(
    server: ScriptedServer, client: socket.socket
) -> None:
    there = server.accept()
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert receive(there, 4) == b"last"
    assert there.recv(1) == b""
    there.sendall(b"answer")
    there.close()
    assert receive(client, 6) == b"answer"
    assert client.recv(1) == b""


def test_cut_all_resets_both_sides_and_new_connections_work(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    client.sendall(b"?")
    receive(there, 1)
    wire.cut_all()
    for side in (client, there):
        with pytest.raises(ConnectionResetError):
            side.recv(1)
    assert wire.connections == 0
    with socket.create_connection((wire.host, wire.port), timeout=10) as second:
        second.sendall(b"?")
        assert receive(server.accept(), 1) == b"?"


def test_refuse_refuses_new_connections_and_leaves_open_ones(
    server: ScriptedServer, wire: WireCounter, client: socket.socket
) -> None:
    there = server.accept()
    wire.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((wire.host, wire.port), timeout=10)
    client.sendall(b"?")
    assert receive(there, 1) == b"?"
    port = wire.port
    wire.accept()
    wire.accept()
    assert wire.port == port
    with socket.create_connection((wire.host, wire.port), timeout=10):
        server.accept()


def test_a_server_that_is_down_resets_the_client() -> None:
    # The reset may be there before connect() has returned.
    with (
        WireCounter("127.0.0.1", free_port()) as wire,
        pytest.raises(ConnectionResetError),
        socket.create_connection((wire.host, wire.port), timeout=10) as client,
    ):
        client.recv(1)


def test_numbers_can_be_read_after_the_end(server: ScriptedServer) -> None:
    with (
        WireCounter("127.0.0.1", server.port) as wire,
        socket.create_connection((wire.host, wire.port), timeout=10) as client,
    ):
        client.sendall(b"?")
        assert wire.round_trips == 1
    assert wire.round_trips == 1
    assert wire.connections == 0


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("postgresql://u:p%40@db:5432/x?sslmode=disable", "postgresql://u:p%40@127.0.0.1:{port}/x?sslmode=disable"),
        ("mariadb://db/x", "mariadb://127.0.0.1:{port}/x"),
    ],
)
def test_url_puts_the_proxy_in_the_servers_place(wire: WireCounter, original: str, expected: str) -> None:
    assert wire.url(original) == expected.format(port=wire.port)
