"""What is remembered of texts: bounded in number and in bytes, whoever makes up how many."""

from __future__ import annotations

import sys
import threading

from prefiq_db.memory import Memory


def test_it_remembers() -> None:
    """What was kept is found, and kept once."""
    memory: Memory[int] = Memory(10)
    assert memory.keep("a", 1, "a") == 1
    assert memory.kept.get("a") == 1
    assert memory.size_bytes == sys.getsizeof("a")


def test_the_number_is_bounded_and_the_oldest_go() -> None:
    """The newest is always there."""
    memory: Memory[int] = Memory(10)
    for number in range(1000):
        memory.keep(number, number, "x")
        assert len(memory.kept) <= 10
        assert memory.kept[number] == number
    assert memory.size_bytes == len(memory.kept) * sys.getsizeof("x")


def test_the_bytes_are_bounded() -> None:
    """Texts of any length: together no more than allowed, and one that is too long for the rest is not kept."""
    memory: Memory[int] = Memory(1000, 10_000)
    for number in range(300):
        memory.keep(number, number, "x" * (number * 7 % 2000))
        assert memory.size_bytes <= 10_000
    before = dict(memory.kept)
    assert memory.keep("long", 1, "x" * 2600) == 1
    assert memory.kept == before


def test_threads_may_share_it() -> None:
    """Whatever they do at once, it stays within its bounds, and nobody gets an error."""
    memory: Memory[int] = Memory(50, 20_000)
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(3000):
                memory.keep((seed, number), number, "x" * (number % 500))
                memory.kept.get((1 - seed, number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    memory.keep("last", 0, "x" * 1000)
    assert len(memory.kept) <= 51
    assert memory.size_bytes <= 21_000


def test_what_is_kept_again_counts_once() -> None:
    memory: Memory[str] = Memory(10)
    for _ in range(3):
        memory.keep("a", "value", "text")
    assert memory.size_bytes == sys.getsizeof("text")
