"""What a call costs at the wire and in instructions stays below benchmarks/gates.toml, whatever the machine's load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks import documents_cost, gates, instructions, valgrind, workload
from benchmarks.contenders import OURS, PLAIN
from benchmarks.places import Place, fill
from benchmarks.worlds import AsyncWorld, SyncWorld

from prefiq_db.testing.servers import is_required
from tests.conftest import Backend

_ON_A_WIRE = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


@pytest.fixture
def place(backend: Backend) -> Place:
    return fill(Place(backend.name, backend.url, "" if backend.server is None else backend.server.version))


@_ON_A_WIRE
def test_a_call_costs_the_round_trips_of_its_gate(place: Place) -> None:
    """And plain SQLAlchemy the two or three that it is known for: the control that the wire is looked at."""
    with asyncio.Runner() as runner:
        for world in (SyncWorld(), AsyncWorld(runner)):
            found = world.count_round_trips(place, {OURS, PLAIN})
            assert found[OURS] == gates.round_trips(place.name, world.name), world.name
            assert found[PLAIN][workload.POINT] == {"postgresql": 3, "mariadb": 2}[place.name]


@pytest.mark.timeout(900)  # valgrind takes fifty times as long as Python alone, and the machine may be busy
def test_a_call_costs_no_more_instructions_than_its_gate(place: Place) -> None:
    if reason := valgrind.why_not():
        if is_required("valgrind"):
            pytest.fail(f"valgrind is demanded, but {reason}")
        pytest.skip(reason)
    if not gates.instructions(place.name, "sync"):
        pytest.skip(f"nobody has measured {gates.interpreter()} yet: see benchmarks/gates.toml")
    counted = instructions.count(place.name, place, ours_only=True)
    measured = {name: next(iter(found.values())) for name, found in counted.items()}  # one contender each
    for world in ("sync", "async"):
        prefix = f"{place.name} {world} "
        mine = {name.removeprefix(prefix): found for name, found in measured.items() if name.startswith(prefix)}
        assert list(gates.exceeded(mine, gates.instructions(place.name, world))) == [], world
    # The control: a listener is more work, and the counter sees it.
    listened, silent = (f"{place.name} sync {each}" for each in (workload.LISTENED, workload.POINT))
    assert measured[listened] > measured[silent] > 1000


@pytest.mark.timeout(900)
def test_a_document_costs_no_more_instructions_over_bare_pymongo_than_its_gate() -> None:
    if reason := valgrind.why_not():
        if is_required("valgrind"):
            pytest.fail(f"valgrind is demanded, but {reason}")
        pytest.skip(reason)
    if not (most := gates.instructions("mongodb", "sync")):
        pytest.skip(f"nobody has measured {gates.interpreter()} yet: see benchmarks/gates.toml")
    with documents_cost.server() as url:
        counted = documents_cost.count(url)
    added = counted[documents_cost.OURS] - counted[documents_cost.BARE]
    assert list(gates.exceeded({"find_one over bare PyMongo": added}, most)) == []
    # The control: the driver's own part is counted, and ours is more work.
    assert counted[documents_cost.OURS] > counted[documents_cost.BARE] > 100_000


def test_control_a_dearer_call_a_new_one_and_a_lost_one_are_found() -> None:
    assert list(gates.exceeded({"a": 10, "b": 5}, {"a": 10, "b": 6})) == []
    assert list(gates.exceeded({"a": 11, "c": 1}, {"a": 10, "b": 6})) == [
        "a: 11 instead of 10",
        "b: there is no measurement",
        "c: there is no gate",
    ]


def test_control_a_window_counts_what_is_in_it(tmp_path: Path) -> None:
    """Ten times the work is ten times the instructions, and what stands between two windows is in neither."""
    if reason := valgrind.why_not():
        pytest.skip(reason)
    program = tmp_path / "program.py"
    program.write_text(
        "from benchmarks.valgrind import window\n"
        "work = lambda times: [sum(range(100)) for _ in range(times)]\n"
        "work(50)\n"
        "for times in (100, 1000):\n"
        "    with window(str(times)):\n"
        "        work(times)\n"
        "    work(5000)\n"
    )
    found = valgrind.count([str(program)])
    assert found.keys() == {"100", "1000"}
    assert 9 < found["1000"] / found["100"] < 11
