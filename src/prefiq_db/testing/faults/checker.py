"""Find anomalies in a history of appends and reads.

A list shows who wrote before whom, which a plain value doesn't: the longest read of a key gives the order of its
versions, and that order shows which transaction depends on which (Kingsbury and Alvaro, "Elle", 2020).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from prefiq_db.errors import UsageError
from prefiq_db.testing.faults.cycles import Dependencies
from prefiq_db.testing.faults.histories import Anomaly, Append, HistoryReport, HistoryTransaction, Read

_AT_THE_END = 0


def check_history(
    history: Sequence[HistoryTransaction], final: Mapping[int, Sequence[int]] | None = None, *, seconds: float = 0.0
) -> HistoryReport:
    """Return the anomalies of a history.

    Args:
        history: every attempt, whatever its outcome.
        final: the lists after all transactions have ended; without them a lost append can't be detected.
        seconds: copied to the report.

    Raises:
        UsageError: if two appends have the same value, or two attempts the same number.
    """
    told = Counter(transaction.committed for transaction in history)
    anomalies = tuple(_History(history, final).anomalies())
    return HistoryReport(told[True], told[False], told[None], anomalies, seconds)


class _History:
    def __init__(self, history: Sequence[HistoryTransaction], final: Mapping[int, Sequence[int]] | None) -> None:
        self._transactions = {transaction.number: transaction for transaction in history}
        if len(self._transactions) != len(history) or _AT_THE_END in self._transactions:
            raise UsageError("each attempt needs a number of its own, from 1")
        self._writer: dict[tuple[int, int], int] = {}
        self._last_append: dict[tuple[int, int], int] = {}  # a transaction's last append to a key
        for transaction in history:
            for operation in transaction.operations:
                if isinstance(operation, Append):
                    if (operation.key, operation.value) in self._writer:
                        raise UsageError("each append to a list needs a value of its own")
                    self._writer[operation.key, operation.value] = transaction.number
                    self._last_append[transaction.number, operation.key] = operation.value
        self._final = final
        if final is not None:
            look = tuple(Read(key, tuple(values)) for key, values in final.items())
            self._transactions[_AT_THE_END] = HistoryTransaction(_AT_THE_END, look)
        self._reads = list(self._find_committed_reads())
        self._order = self._version_order()

    def _find_committed_reads(self) -> Iterator[tuple[int, Read, int]]:
        """Yield reader, read, and how many of its last values are the reader's own."""
        for transaction in self._transactions.values():
            if not transaction.committed:
                continue
            own: dict[int, list[int]] = defaultdict(list)
            for operation in transaction.operations:
                if isinstance(operation, Append):
                    own[operation.key].append(operation.value)
                else:
                    yield transaction.number, operation, len(own[operation.key])

    def _version_order(self) -> dict[int, tuple[int, ...]]:
        longest: dict[int, tuple[int, ...]] = {}
        for _, read, _ in self._reads:
            if len(read.values) > len(longest.get(read.key, ())):
                longest[read.key] = read.values
        return longest

    def anomalies(self) -> Iterator[Anomaly]:
        yield from self._of_values()
        yield from self._of_reads()
        yield from self._lost_updates()
        yield from self._dependencies().anomalies()

    # --- values ----------------------------------------------------------------------------------

    def _of_values(self) -> Iterator[Anomaly]:
        for key, order in self._order.items():
            for value, count in Counter(order).items():
                writer = self._writer.get((key, value))
                if writer is None:
                    yield Anomaly("unknown value", (), key, f"the list of {key} has a value that nobody appended")
                elif count > 1:
                    yield Anomaly("doubled append", (writer,), key, f"{writer} appended it once, and it is there twice")
        if self._final is None:
            return
        for (key, value), writer in self._writer.items():
            if self._transactions[writer].committed and value not in self._final.get(key, ()):
                yield Anomaly("lost append", (writer,), key, f"{writer} committed, and its append is not there")

    def _of_reads(self) -> Iterator[Anomaly]:
        aborted: set[tuple[int, int]] = set()
        for reader, read, own in self._reads:
            if read.values != self._order.get(read.key, ())[: len(read.values)]:
                yield Anomaly("incompatible order", (reader,), read.key, f"{reader} read another order than others")
            if own and self._own_is_missing(reader, read, own):
                yield Anomaly("internal", (reader,), read.key, f"{reader} does not read its own append last")
            for value in read.values:
                writer = self._writer.get((read.key, value))
                if writer is None or (reader, writer) in aborted:
                    continue
                if self._transactions[writer].committed is False:
                    aborted.add((reader, writer))
                    yield Anomaly("G1a", (reader, writer), read.key, f"{reader} read what {writer} rolled back")
            seen = self._external(read, own)
            writer = self._writer.get((read.key, seen[-1])) if seen else None
            if writer is not None and writer != reader and self._last_append[writer, read.key] != seen[-1]:
                yield Anomaly("G1b", (reader, writer), read.key, f"{reader} read what {writer} had only begun")

    def _own_is_missing(self, reader: int, read: Read, own: int) -> bool:
        return [self._writer.get((read.key, value)) for value in read.values[-own:]] != [reader] * own

    def _external(self, read: Read, own: int) -> tuple[int, ...]:
        return read.values[: len(read.values) - own] if own else read.values

    def _lost_updates(self) -> Iterator[Anomaly]:
        """Yield two transactions that read the same version of a list, and both appended to it."""
        readers: dict[tuple[int, tuple[int, ...]], set[int]] = defaultdict(set)
        for reader, read, own in self._reads:
            if not own and (reader, read.key) in self._last_append:
                readers[read.key, read.values].add(reader)
        for (key, _), numbers in readers.items():
            if len(numbers) > 1:
                both = tuple(sorted(numbers))
                yield Anomaly("lost update", both, key, f"{both[0]} and {both[1]} appended to what both had read")

    # --- dependencies ----------------------------------------------------------------------------

    def _dependencies(self) -> Dependencies:
        found = Dependencies()
        for key, order in self._order.items():
            writers = [self._happened(key, value) for value in order]
            for before, after in pairwise(writers):
                if before is not None and after is not None:
                    found.add(before, "ww", after)
        for reader, read, own in self._reads:
            if reader == _AT_THE_END:
                continue
            seen = self._external(read, own)
            order = self._order.get(read.key, ())
            if seen and (writer := self._happened(read.key, seen[-1])) is not None:
                found.add(writer, "wr", reader)
            if seen == order[: len(seen)] and len(order) > len(seen):
                overwriter = self._happened(read.key, order[len(seen)])
                if overwriter is not None:
                    found.add(reader, "rw", overwriter)
        return found

    def _happened(self, key: int, value: int) -> int | None:
        """Return the transaction that appended a value that was read, unless it is known as aborted."""
        writer = self._writer.get((key, value))
        return None if writer is None or self._transactions[writer].committed is False else writer
