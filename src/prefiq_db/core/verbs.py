"""The verbs of an explicit ``tx``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from prefiq_db.call import Call, Shape
from prefiq_db.errors import StatementRefusedError, UsageError
from prefiq_db.execution.facts import reading_facts_of_call
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.shapes import all_rows, executed, one_row, one_value
from prefiq_db.execution.typed import Types, typed
from prefiq_db.reports import ExecuteResult
from prefiq_db.transaction import Block, Savepoint, TransactionOptions

if TYPE_CHECKING:
    from prefiq_db.core.database import DatabaseCore

Params = Mapping[str, Any] | None
T = TypeVar("T")


class TransactionVerbs:
    """The verbs of an explicit ``tx``, for both worlds' shells."""

    def __init__(self, core: DatabaseCore, tx: Block) -> None:
        self.core = core
        self.tx = tx

    def enter(self, shell: T) -> T:
        """Begin and return *shell*; what interrupts on the way leaves nothing begun."""
        self.tx.check_new()
        try:
            self.core.begin(self.tx)
            if self.tx.is_root:
                self.core.instance.retry_budget.successes += 1
            return shell
        except BaseException:
            self.tx.abandon()
            raise

    def fetch_all(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> list[Any]:
        statement, shape = typed(statement, types, all_rows(into))
        rows: list[Any] = self._run("fetch_all", statement, params, shape)
        return rows

    def fetch_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        statement, shape = typed(statement, types, one_row(into))
        return self._run("fetch_one", statement, params, shape)

    def fetch_value(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        statement, shape = typed(statement, types, one_value(into))
        return self._run("fetch_value", statement, params, shape)

    def execute(self, statement: Any, params: Params) -> ExecuteResult:
        result: ExecuteResult = self._run("execute", statement, params, executed)
        return result

    def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        call = self.core.prepare_many("execute_many", statement, rows, self.tx)
        count: int | None = 0 if call is None else self.core.carry_out(call)
        return count

    def _run(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        return self.core.carry_out(self.core.prepare(verb, statement, params, shape, self.tx))

    def nested(self, options: TransactionOptions) -> Savepoint:
        """Return a savepoint in this transaction that has not begun."""
        self.core.check_usable()
        return Savepoint(self.tx.instance, options, self.tx.root.scope)


def check_read_only(call: Call, options: TransactionOptions, dialect: Any) -> None:
    """Raise if a read-only view or scope would write in a transaction that may: the server can't refuse it there."""
    if call.given.read_only and not options.read_only and not reading_facts_of_call(call, dialect).reads_only:
        raise StatementRefusedError(
            "read_only: this statement may write, and the server would let it: the open transaction isn't read-only; "
            "run it outside the read-only scope, or open transaction(read_only=True)"
        )


def checked_rows(rows: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return *rows* as a list, or raise if they aren't mappings."""
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise UsageError("rows: expected a sequence of mappings, one per row; for a single one use execute")
    made = list(rows)
    for number, row in enumerate(made):
        if not isinstance(row, Mapping):
            raise UsageError(f"rows[{number}]: expected a mapping of bind names to values, not {type(row).__name__}")
    return made
