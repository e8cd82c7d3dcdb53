"""Cycles of dependencies between transactions, by their kind (Adya 1999; Elle)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal

from prefiq_db.testing.faults.histories import Anomaly, AnomalyName

#: ``ww``: overwrote what the other wrote. ``wr``: read what the other wrote. ``rw``: the other overwrote what it read.
Kind = Literal["ww", "wr", "rw"]
Step = tuple[int, Kind, int]


class Dependencies:
    """Which transaction must precede which."""

    def __init__(self) -> None:
        self._edges: dict[int, dict[int, set[Kind]]] = {}

    def add(self, before: int, kind: Kind, after: int) -> None:
        if before != after:
            self._edges.setdefault(before, {}).setdefault(after, set()).add(kind)
            self._edges.setdefault(after, {})

    def anomalies(self) -> Iterator[Anomaly]:
        """Yield one cycle of each name for each set of transactions that depend on each other, the worst first."""
        for name, kinds, closing in (
            ("G0", {"ww"}, "ww"),
            ("G1c", {"ww", "wr"}, "wr"),
            ("G-single", {"ww", "wr"}, "rw"),
        ):
            yield from self._name_anomalies(name, kinds, closing)  # type: ignore[arg-type]  # names and kinds are literals
        yield from self._with_several_rw()

    def _name_anomalies(self, name: AnomalyName, kinds: set[Kind], closing: Kind) -> Iterator[Anomaly]:
        """Yield cycles of one closing edge and a path back by *kinds*."""
        for component in self._components(kinds | {closing}):
            for before, after in self._inside(component, closing):
                way = self._way(after, before, component, kinds, apart=False)
                if way is not None:
                    yield _anomaly(name, [(before, closing, after), *way])
                    break  # one for each component is enough, since the others are similar

    def _with_several_rw(self) -> Iterator[Anomaly]:
        every: set[Kind] = {"ww", "wr", "rw"}
        for component in self._components(every):
            apart = together = None
            for before, after in self._inside(component, "rw"):
                if self._way(after, before, component, {"ww", "wr"}, apart=False) is not None:
                    continue  # reported as G-single
                if apart is None:
                    apart = self._close(before, after, component, every, apart=True)
                if together is None:
                    together = self._close(before, after, component, every, apart=False)
                if apart and together:
                    break
            if apart is not None:
                yield _anomaly("G-nonadjacent", apart)
            if together is not None:
                yield _anomaly("G2-item", together)

    def _close(
        self, before: int, after: int, component: set[int], kinds: set[Kind], *, apart: bool
    ) -> list[Step] | None:
        way = self._way(after, before, component, kinds, apart=apart)
        return None if way is None else [(before, "rw", after), *way]

    def _inside(self, component: set[int], kind: Kind) -> Iterator[tuple[int, int]]:
        for before in sorted(component):
            for after, kinds in self._edges[before].items():
                if kind in kinds and after in component:
                    yield before, after

    def _way(self, start: int, end: int, within: set[int], kinds: set[Kind], *, apart: bool) -> list[Step] | None:
        """Return the shortest path; *apart*: without two ``rw`` in a row, counting the edge before its start."""
        first = (start, apart)  # where, and whether the last step was an rw
        came: dict[tuple[int, bool], tuple[tuple[int, bool], Step] | None] = {first: None}
        waiting = deque([first])
        while waiting:
            here = waiting.popleft()
            node, after_rw = here
            if node == end and not (apart and after_rw):
                return _walk(came, here)
            for target, found in self._edges[node].items():
                for kind in sorted(found & kinds):
                    there = (target, apart and kind == "rw")
                    if target in within and there not in came and not (apart and after_rw and kind == "rw"):
                        came[there] = here, (node, kind, target)
                        waiting.append(there)
        return None

    def _components(self, kinds: set[Kind]) -> Iterator[set[int]]:
        """Yield the sets of transactions that reach each other by *kinds* (Tarjan, without recursion)."""
        index: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        on_stack: set[int] = set()
        for root in self._edges:
            if root in index:
                continue
            work = [(root, self._followers(root, kinds))]
            index[root] = low[root] = len(index)
            stack.append(root)
            on_stack.add(root)
            while work:
                node, followers = work[-1]
                follower = next(followers, None)
                if follower is None:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[node])
                    if low[node] == index[node]:
                        component = set(stack[stack.index(node) :])
                        del stack[stack.index(node) :]
                        on_stack -= component
                        if len(component) > 1:
                            yield component
                elif follower not in index:
                    index[follower] = low[follower] = len(index)
                    stack.append(follower)
                    on_stack.add(follower)
                    work.append((follower, self._followers(follower, kinds)))
                elif follower in on_stack:
                    low[node] = min(low[node], index[follower])

    def _followers(self, node: int, kinds: set[Kind]) -> Iterator[int]:
        return (after for after, found in self._edges[node].items() if found & kinds)


def _walk(came: dict[tuple[int, bool], tuple[tuple[int, bool], Step] | None], here: tuple[int, bool]) -> list[Step]:
    steps: list[Step] = []
    while (link := came[here]) is not None:
        here, step = link
        steps.append(step)
    return steps[::-1]


def _anomaly(name: AnomalyName, steps: list[Step]) -> Anomaly:
    explanation = "".join(f"{before} -{kind}-> " for before, kind, _ in steps) + str(steps[-1][2])
    return Anomaly(name, tuple(before for before, _, _ in steps), None, explanation)
