"""The network of a cluster's nodes: cables are pulled and plugged in, and nothing of it is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prefiq_db.errors import UsageError
from prefiq_db.testing import ServerUnavailableError, cables
from prefiq_db.testing.cables import Cables
from prefiq_db.testing.processes import wait_until
from tests.clusters import find

_PORT = 9000
_LISTEN = f"import signal, socket; s = socket.create_server(('', {_PORT})); print(flush=True); signal.pause()"
_REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)"
_PATIENCE_SECONDS = 30.0
_NODES = range(3)


@pytest.fixture
def bare() -> Iterator[Cables]:
    """Three nodes on which nothing runs."""
    made = find("cables", Cables, count=len(_NODES))
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def network(bare: Cables) -> Iterator[Cables]:
    """Three nodes, on each of which something listens."""
    with ExitStack() as stack:
        for number in _NODES:
            command = bare.command_of(number, [sys.executable, "-I", "-c", _LISTEN], None)
            listener = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(listener.kill)
            assert listener.stdout is not None
            listener.stdout.readline()
        yield bare


def reaches(network: Cables, number: int, host: str) -> bool:
    command = [sys.executable, "-I", "-c", _REACH, host, str(_PORT)]
    done = subprocess.run(network.command_of(number, command, None), capture_output=True, check=False)
    return done.returncode == 0


def is_reached(network: Cables, number: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_PATIENCE_SECONDS)
        return probe.connect_ex((network.host(number), _PORT)) == 0


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_a_node_whose_cable_is_pulled_is_reached_by_clients_only(network: Cables) -> None:
    """The others still reach each other, and nothing leads around the switch."""
    pairs = [(one, other) for one in _NODES for other in _NODES if one != other]

    def meet(*expected: tuple[int, int]) -> bool:
        return wait_until(
            lambda: [pair for pair in pairs if reaches(network, pair[0], network.peer_host(pair[1]))] == [*expected],
            timeout_seconds=_PATIENCE_SECONDS,
        )

    assert meet(*pairs)
    network.pull(0)
    assert meet((1, 2), (2, 1))
    assert all(is_reached(network, number) for number in _NODES)
    network.plug(0)
    assert meet(*pairs)
    assert not reaches(network, 0, network.host(1))


def test_nothing_of_it_is_left(bare: Cables) -> None:
    """It is gone with the process that holds it, however that ends."""
    assert sum(name.startswith(bare._name) for name in interfaces()) == len(_NODES)
    assert bare._child is not None
    bare._child.kill()
    assert wait_until(
        lambda: not any(name.startswith(bare._name) for name in interfaces()), timeout_seconds=_PATIENCE_SECONDS
    )
    with pytest.raises(UsageError, match="never started, or was closed"):
        bare.pull(0)


def test_without_rights_or_programs_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test which needs it is skipped by name, or fails where it is required."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(ServerUnavailableError, match="from root"):
            Cables(1)
    find("cables", Cables, count=1)
    with monkeypatch.context() as patch:
        patch.setattr(cables, "_PROGRAMS", ("ip", "no-such-program"))
        with pytest.raises(ServerUnavailableError, match=r"no no-such-program .*apt-get install .*iproute2"):
            Cables(1)
    with monkeypatch.context() as patch:
        patch.setattr(cables, "_PROBE", ("link add port type no-such-type",))
        with pytest.raises(ServerUnavailableError, match=r"no network namespaces on this machine: .+"):
            Cables(1)
