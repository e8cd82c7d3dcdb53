"""MongoDB's fail points, as its specifications describe them: a server that is told what goes wrong, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Codes after which the server itself says that a retryable write may be sent again (Retryable Writes, "Determining
# Retryable Errors").
_RETRYABLE: Final = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
# Codes after which the whole transaction may run again, also after COMMIT: WriteConflict, SnapshotUnavailable,
# LockTimeout, NoSuchTransaction, PreparedTransactionInProgress (Transactions, "TransientTransactionError").
_TRANSIENT: Final = frozenset({24, 112, 246, 251, 267})
_ENDS: Final = frozenset({"commitTransaction", "abortTransaction"})
_WRITES: Final = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})


@dataclass
class FailPoint:
    """One fail point that is set.

    Attributes:
        name: ``failCommand`` or ``onPrimaryTransactionalWrite``.
        left: how often it still hits; ``None``: always.
        skip: how many commands pass before.
    """

    name: str
    data: Mapping[str, Any]
    left: int | None
    skip: int = 0

    @classmethod
    def of(cls, command: Mapping[str, Any]) -> FailPoint | None:
        """Return the fail point that a ``configureFailPoint`` command sets; ``None``: it switches it off."""
        mode = command["mode"]
        if mode == "off":
            return None
        times = mode.get("times") if isinstance(mode, Mapping) else None
        skip = mode.get("skip", 0) if isinstance(mode, Mapping) else 0
        return cls(command["configureFailPoint"], command.get("data", {}), times, skip)

    def hits(self, name: str, command: Mapping[str, Any]) -> bool:
        """Return whether it hits this command, and count it."""
        if self.name == "onPrimaryTransactionalWrite":
            concerned = "txnNumber" in command and "autocommit" not in command and name in _WRITES
        else:
            concerned = name in self.data["failCommands"]
        if not concerned or self.left == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.left is not None:
            self.left -= 1
        return True


def labels(name: str, command: Mapping[str, Any], code: int) -> list[str]:
    """Return the labels that the server itself puts on an error of *code*."""
    found = []
    in_transaction = command.get("autocommit") is False
    retried = "txnNumber" in command and (not in_transaction or name in _ENDS)
    if retried and code in _RETRYABLE:
        found.append("RetryableWriteError")
    # One that isn't carried out may run again after a retryable error, too; of a COMMIT that says nothing.
    transient = in_transaction and (code in _TRANSIENT or (name not in _ENDS and code in _RETRYABLE))
    return [*found, "TransientTransactionError"] if transient else found
