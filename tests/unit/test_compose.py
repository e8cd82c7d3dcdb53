"""compose.yaml can be read, and its clusters fit together. That they start nobody has tried here: it needs Docker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))


_PROFILES = {
    None: {"postgresql", "mariadb"},
    "replica": {"postgresql-primary", "postgresql-standby", "mariadb-primary", "mariadb-replica"},
    "galera": {"galera-0", "galera-1", "galera-2"},
    "patroni": {"patroni-0", "patroni-1", "patroni-2"},
    "mongodb": {"mongodb"},
}


def test_what_the_tests_need_is_in_no_profile_and_each_cluster_in_one(compose: Any) -> None:
    found: dict[str | None, set[str]] = {}
    for name, service in compose["services"].items():
        for profile in service.get("profiles", [None]):
            found.setdefault(profile, set()).add(name)
    assert found == _PROFILES


def test_each_service_waits_for_one_of_its_cluster_and_says_when_it_is_ready(compose: Any) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        for other, how in service.get("depends_on", {}).items():
            assert compose["services"][other]["profiles"] == service["profiles"]
            assert how == {"condition": "service_healthy"}
        for given in service.get("configs", ()):
            assert given["source"] in compose["configs"]


def test_mariadb_is_asked_what_its_check_may_see(compose: Any) -> None:
    """Options of ``healthcheck.sh`` count for the check behind them; some need a user that each node has."""
    for name in ("mariadb-replica", *sorted(_PROFILES["galera"])):
        service = compose["services"][name]
        asked = service["healthcheck"]["test"][2:]
        login = asked[0].removeprefix("--defaults-extra-file=")
        assert login in {given["target"] for given in service["configs"]}
        assert asked[-1] in ("--replication", "--galera_online"), "the check itself comes last"
    given = compose["configs"]["mariadb-login"]["content"]
    assert f"password = {compose['services']['galera-0']['environment']['MARIADB_ROOT_PASSWORD']}\n" in given
    assert "MARIADB_DATABASE" not in compose["services"]["mariadb-replica"]["environment"]


def test_no_two_services_take_a_port_and_none_is_open_to_others(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    published = [port.rpartition(":")[0] for port in ports]
    assert len(set(published)) == len(published)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_nodes_of_patroni_know_each_other(compose: Any) -> None:
    nodes = {name: compose["services"][name]["environment"] for name in _PROFILES["patroni"]}
    for name, node in nodes.items():
        partners = {part.strip("'") for part in node["PATRONI_RAFT_PARTNER_ADDRS"].split(",")}
        assert partners == {other["PATRONI_RAFT_SELF_ADDR"] for other in nodes.values()} - {f"{name}:2222"}
    settings = yaml.safe_load(compose["configs"]["patroni"]["content"])
    dcs = settings["bootstrap"]["dcs"]
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"], "Patroni's rule"


def test_the_nodes_of_galera_know_each_other(compose: Any) -> None:
    text = compose["configs"]["galera"]["content"]
    (address,) = [line.partition("=")[2].strip() for line in text.splitlines() if "wsrep_cluster_address" in line]
    assert set(address.removeprefix("gcomm://").split(",")) == _PROFILES["galera"]
