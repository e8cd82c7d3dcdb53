"""The tags of a request, for events, spans and SQL comments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn


class Tags(dict[str, str]):
    """The tags of a request: immutable, because many events share them.

    A dict, because ``dataclasses.asdict``, ``copy``, ``pickle`` and ``json`` can't handle a ``mappingproxy``.

    Attributes:
        kept_back: the keys that no SQL comment shows: each of their values would make another statement.
    """

    __slots__ = ("kept_back",)

    def __init__(self, tags: Mapping[str, str] = MappingProxyType({}), kept_back: Iterable[str] = ()) -> None:
        super().__init__(tags)
        self.kept_back = frozenset(kept_back)

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("the tags of an event can't be changed; make a dict of them")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (dict(self),)


NO_TAGS: Final[Mapping[str, str]] = Tags()
