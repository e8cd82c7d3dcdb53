"""Compare what came with what a specification test expects: the matching rules of the unified test format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bson import Int64, ObjectId

_MISSING: Final = object()
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,),
    "long": (Int64, int),
    "double": (float,),
    "string": (str,),
    "object": (Mapping,),
    "array": (list,),
    "objectId": (ObjectId,),
    "bool": (bool,),
}
#: Fields that our verbs add to a command on purpose, where a specification test expects none: the concern of writes is
#: a majority, and each call has a time limit (docs/databases/mongodb.md).
_ADDED: Final = frozenset({"writeConcern", "maxTimeMS"})
#: Fields that ours need not have: PyMongo leaves ``wtimeout`` out within a time limit, which bounds the same wait
#: (Client Side Operations Timeout); and a transaction of ours has a session of its own, so it is after no earlier one.
_MAY_LACK: Final = frozenset({"wtimeout", "afterClusterTime"})


class MismatchError(AssertionError):
    """What came is not what was expected; the message says where."""


class Matcher:
    """The rules, with what one test has bound so far.

    Args:
        lsid_of: checks the session of a command against that of an entity: (name of the entity, session).
    """

    def __init__(self, lsid_of: Callable[[str, Any], bool]) -> None:
        self._lsid_of = lsid_of
        self._numbers: dict[int, tuple[bytes, int]] = {}
        self._session: bytes = b""

    def check_command(self, expected: Mapping[str, Any], command: Mapping[str, Any], where: str) -> None:
        """Raise if a *command* isn't as *expected*."""
        lsid = command.get("lsid")
        self._session = b"" if lsid is None else bytes(lsid["id"])
        self.check(expected, command, where, root=True)

    def check(self, expected: Any, actual: Any, where: str = "", *, root: bool = False) -> None:
        """Raise if *actual* is not as *expected*; a *root* may have further fields.

        Raises:
            MismatchError: it isn't.
        """
        if isinstance(expected, Mapping):
            if len(expected) == 1 and next(iter(expected)).startswith("$$"):
                self._check_special(*next(iter(expected.items())), actual, where)
            else:
                self._check_mapping(expected, actual, where, root=root)
        elif isinstance(expected, list):
            if not isinstance(actual, Sequence) or isinstance(actual, str) or len(actual) != len(expected):
                raise MismatchError(f"{where}: expected {len(expected)} elements, not {actual!r}")
            for index, each in enumerate(expected):
                self.check(each, actual[index], f"{where}[{index}]", root=root)
        elif isinstance(expected, bool) or isinstance(actual, bool) or not isinstance(expected, (int, float)):
            if (type(expected) is not type(actual) and not isinstance(actual, type(expected))) or expected != actual:
                raise MismatchError(f"{where}: expected {expected!r}, not {actual!r}")
        elif expected != actual:
            raise MismatchError(f"{where}: expected {expected!r}, not {actual!r}")

    def _check_mapping(self, expected: Mapping[str, Any], actual: Any, where: str, *, root: bool) -> None:
        if not isinstance(actual, Mapping):
            raise MismatchError(f"{where}: expected a document, not {actual!r}")
        for key, value in expected.items():
            found = actual.get(key, _MISSING)
            place = f"{where}.{key}"
            if key == "txnNumber" and isinstance(value, int):
                self._check_number(value, found, place)
            elif (_is_absent(value) and key in _ADDED) or (
                found is _MISSING and (key in _MAY_LACK or _is_all_that_may_lack(value))
            ):
                continue
            elif found is _MISSING and not _may_be_absent(value):
                raise MismatchError(f"{place}: missing")
            else:
                self.check(value, found, place)
        further = set(actual) - set(expected)
        if further and not root:
            raise MismatchError(f"{where}: did not expect {sorted(further)}")

    def _check_number(self, expected: int, found: Any, where: str) -> None:
        """Compare numbers of transactions: ours may begin higher, so equal ones must stay equal."""
        if found is _MISSING:
            raise MismatchError(f"{where}: missing")
        key = (self._session, int(found))
        known = self._numbers.setdefault(int(expected), key)
        if known != key or list(self._numbers.values()).count(known) > 1:
            raise MismatchError(f"{where}: {found} is not the number that {expected} stood for before")

    def _check_special(self, name: str, said: Any, actual: Any, where: str) -> None:
        if name == "$$exists":
            if said is not (actual is not _MISSING):
                raise MismatchError(f"{where}: expected it {'there' if said else 'not to be there'}")
        elif name == "$$unsetOrMatches":
            if actual is not _MISSING and actual is not None:
                self.check(said, actual, where)
        elif name == "$$type":
            kinds = [said] if isinstance(said, str) else said
            if not any(isinstance(actual, _TYPES[kind]) for kind in kinds):
                raise MismatchError(f"{where}: expected {said}, not {type(actual).__name__}")
        elif name == "$$sessionLsid":
            if actual is _MISSING or not self._lsid_of(said, actual):
                raise MismatchError(f"{where}: another session")
        elif name == "$$lte":
            if not actual <= said:
                raise MismatchError(f"{where}: expected at most {said}")
        elif name in ("$$matchAsRoot", "$$matchAsDocument"):
            self.check(said, actual, where, root=name == "$$matchAsRoot")
        else:
            raise NotImplementedError(name)


def _is_absent(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("$$exists") is False


def _is_all_that_may_lack(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= _MAY_LACK


def _may_be_absent(value: Any) -> bool:
    return _is_absent(value) or (isinstance(value, Mapping) and "$$unsetOrMatches" in value)
