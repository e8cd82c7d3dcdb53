"""Ports of private servers: different ones, and those that are used now and then from a range of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefiq_db.testing import machine
from prefiq_db.testing.machine import PORTS, QUIET_PORTS, free_port, free_ports


def test_ports_where_nothing_listens_yet_are_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Iterator[int] = iter([15001, 15001, 15002, 15001, 15003])
    monkeypatch.setattr(machine, "free_port", lambda ports: next(drawn))
    assert free_ports(3) == [15001, 15002, 15003]


def test_a_server_never_gets_a_quiet_port() -> None:
    """A node of Galera listens there only when it joins; a server would keep it from doing so."""
    assert not set(PORTS) & set(QUIET_PORTS)
    assert free_port() in PORTS
    assert free_port(QUIET_PORTS) in QUIET_PORTS
