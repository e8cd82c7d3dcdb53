"""Names bound to values, or to factories that build their value once."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, overload

from prefiq_db.errors import BindingError, ClosedError, UsageError
from prefiq_db.forks import in_child, renewed
from prefiq_db.unrun import is_coroutine_function, refuse_generator_function, refuse_unrun

if TYPE_CHECKING:
    from prefiq_db.settings import Settings

T = TypeVar("T")

_MISSING: Final = object()


class Bindings:
    """The part of an Application that handles names; it knows nothing of providers."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._factories: dict[str, Callable[[Any], Any]] = {}
        # One lock for all factories: a lock each could deadlock when two threads build A -> B and B -> A.
        self._lock = renewed(self, "_lock", threading.RLock)
        self._building: list[str] = []
        in_child(self, Bindings._forget_building)
        self._closed = False

    def _forget_building(self) -> None:
        """Forget, in a forked child, what other threads of the parent were building."""
        self._building = []

    def bind(self, name: str, value: object, *, replace: bool = False) -> None:
        """Make ``resolve(name)`` return *value*.

        Raises:
            BindingError: *name* is bound already and *replace* is false.
        """
        with self._lock:
            self._make_room(name, replace)
            self._values[name] = value

    def singleton(self, name: str, factory: Callable[[Self], Any], *, replace: bool = False) -> None:
        """Make ``resolve(name)`` return the result of ``factory(app)``, which runs once, at the first call.

        Other threads wait while it runs. A factory that raises is called again next time.

        Raises:
            BindingError: *name* is bound already and *replace* is false.
        """
        if is_coroutine_function(factory):
            raise UsageError(
                f"singleton {name!r}: the factory is a coroutine function; bind its result in boot_async()"
            )
        refuse_generator_function(factory, f"singleton {name!r}")
        with self._lock:
            self._make_room(name, replace)
            self._factories[name] = factory

    @overload
    def resolve(self, name: Literal["settings"]) -> Settings: ...
    @overload
    def resolve(self, name: str, expected: type[T]) -> T: ...
    @overload
    def resolve(self, name: str) -> Any: ...
    def resolve(self, name: str, expected: type[Any] | None = None) -> Any:
        """Return what *name* is bound to; with *expected*, typed and checked: ``resolve("db", Database)``.

        Raises:
            BindingError: *name* isn't bound (the message lists the bound names), its factory needs itself, or the
                value is not an *expected*.
            ClosedError: a factory would have to run after ``shutdown()``.
        """
        value = self._values.get(name, _MISSING)  # one dict look-up: the common case needs no lock
        if value is _MISSING:
            value = self._build(name)
        if expected is not None and not isinstance(value, expected):
            raise BindingError(f"{name!r} is bound to a {type(value).__name__}, not to a {expected.__name__}")
        return value

    def has(self, name: str) -> bool:
        """Return whether *name* is bound; builds nothing."""
        return name in self._values or name in self._factories

    def _make_room(self, name: str, replace: bool) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError("a binding needs a name: a string that is not empty")
        if self.has(name) and not replace:
            raise BindingError(f"{name!r} is bound already; pass replace=True to bind it anew")
        self._factories.pop(name, None)
        self._values.pop(name, None)

    def _build(self, name: str) -> Any:
        with self._lock:
            if name in self._values:  # another thread was first
                return self._values[name]
            if name not in self._factories:
                raise BindingError(unknown_name("the container has no", name, [*self._values, *self._factories]))
            if name in self._building:
                circle = " -> ".join([*self._building[self._building.index(name) :], name])
                raise BindingError(f"the factory of {name!r} needs itself: {circle}")
            if self._closed:
                raise ClosedError(f"{name!r} was never built, and the application has been shut down")
            factory = self._factories[name]
            self._building.append(name)
            try:
                value = factory(self)
                refuse_unrun(value, f"the factory of {name!r}")
            finally:
                self._building.pop()
            if self._factories.get(name) is factory:  # else the factory rebound its own name: keep that
                self._values[name] = value
                del self._factories[name]
            return value


def unknown_name(head: str, name: str, known: Iterable[str]) -> str:
    """Return a message about the unknown *name* that suggests the nearest known one and lists them all."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{head} {name!r}{hint} Known names: {', '.join(names) or 'none'}"
