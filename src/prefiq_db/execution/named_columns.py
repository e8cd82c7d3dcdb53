"""The columns of a row for the functions in ``update=``, by every name that the rows may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefiq_db.errors import UsageError
from prefiq_db.execution.target_tables import Target


class NamedColumns:
    """Columns as attributes and as items: ``stored.qty``, ``stored["qty"]``, ``stored[Item.qty]``.

    It has no other public attribute, so a column may have any name. An unknown name is a ``UsageError`` that lists the
    names that exist.
    """

    __slots__ = ("__columns", "__target")

    def __init__(self, target: Target, columns: Any) -> None:
        self.__target = target
        self.__columns = columns

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # Python and SQLAlchemy ask whether there is such a method
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: Any) -> Any:
        try:
            key = self.__target.column(name).key
        except UsageError as error:
            refused = error
        else:
            return self.__columns[key]
        refused.args = (f"update: {refused}",)
        raise refused

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__columns)

    def __contains__(self, name: object) -> bool:
        return name in self.__target.names
