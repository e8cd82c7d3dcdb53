"""BaseProvider: the base class of the parts of a service that the container starts and stops."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.application import Application
from prefiq_db.application.async_stop import FORWARDS, STOP_NAMES, find_stop
from prefiq_db.deprecations import warn_renamed
from prefiq_db.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

_ADVICE: Final = {
    "register": "register() binds only",
    "boot": "call it boot_async()",
    "shutdown": "call it ashutdown()",
}


def _deprecated_name(owner: type | None) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Return ``shutdown_async`` for *owner*, which has ``ashutdown``; ``None`` stands for BaseProvider."""

    async def shutdown_async(self: Any) -> None:
        """Stop, in an event loop. Deprecated: renamed to :meth:`ashutdown`, like the application's method."""
        warn_renamed("shutdown_async", "ashutdown")
        await _bind("ashutdown", owner or BaseProvider, self)()

    vars(shutdown_async)[FORWARDS] = True
    return shutdown_async


def _new_name(owner: type) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Return ``ashutdown`` for *owner*, which has ``shutdown_async``: its own or a mixin's."""

    async def ashutdown(self: Any) -> None:
        """Stop, in an event loop."""
        await _bind("shutdown_async", owner, self)()

    return ashutdown


def _bind(name: str, owner: type, instance: Any) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return the method *name* that *owner* has now, for *instance*; a subclass's method doesn't count."""
    found = next(each.__dict__[name] for each in owner.__mro__ if name in each.__dict__)
    bound: Callable[[], Coroutine[Any, Any, None]] = (
        found.__get__(instance, type(instance)) if hasattr(type(found), "__get__") else found
    )
    return bound


class BaseProvider:
    """The base class of one part of an :class:`~prefiq_db.Application`. Every method is optional.

    Attributes:
        name: the name that others put in ``requires``. Default: the class's name without ``Provider``, in snake case
            (``MailQueueProvider`` is ``mail_queue``); an explicit name is inherited.
        requires: what must start first: names of providers, or bound names (``db``, ``db.analytics``).
        provides: names that :meth:`register` binds, so that others may require them; ``db`` stands for
            ``db.<anything>`` too.
        schema_namespace: the prefix of its own settings in the environment and in YAML.
        schema_model: the pydantic model of these settings; requires ``schema_namespace``.

    ``register()`` binds names and does no I/O; ``boot()`` opens what it needs; ``shutdown()`` closes it. Their
    async twins call them unless overridden. A ``boot()`` that fails cleans up after itself: its ``shutdown()`` is
    not called.
    """

    name: str = ""
    requires: Sequence[str] = ()
    provides: Sequence[str] = ()
    schema_namespace: str | None = None
    schema_model: type[BaseModel] | None = None

    _name_is_given = False
    _app: Application | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" in cls.__dict__:
            cls._name_is_given = True
        elif not cls._name_is_given:
            cls.name = _snake_case(cls.__name__.removesuffix("Provider") or cls.__name__)
        cls._join_names()

    @classmethod
    def _join_names(cls) -> None:
        """Make a method that this class overrides, itself or by a mixin, available under its old and its new name."""
        name, owner = find_stop(cls) or ("", BaseProvider)
        if all(each in owner.__dict__ for each in STOP_NAMES):
            return
        if name == "ashutdown":
            cls.shutdown_async = _deprecated_name(cls)
        else:
            warn_renamed(f"{cls.__qualname__}.shutdown_async", "ashutdown", stacklevel=3)
            cls.ashutdown = _new_name(cls)  # type: ignore[method-assign,assignment]

    # --- what a provider overrides ---------------------------------------------------------------

    def register(self) -> None:
        """Bind names in ``self.app``. Runs for every provider before the first one boots; no I/O here."""

    def boot(self) -> None:
        """Start. All names are bound, and everything this provider requires has booted."""

    async def boot_async(self) -> None:
        """Start, in an event loop. Calls :meth:`boot` unless overridden."""
        self.boot()

    def shutdown(self) -> None:
        """Stop. Everything this provider requires is still running."""

    async def ashutdown(self) -> None:
        """Stop, in an event loop. Calls :meth:`shutdown` unless overridden."""
        self.shutdown()

    shutdown_async = _deprecated_name(None)

    def async_only(self) -> str:
        """Return why this provider needs an event loop; empty when it does not.

        By default it does if an async method is overridden and its synchronous twin is not.
        """
        for step, *twins in (("boot", "boot_async"), ("shutdown", *STOP_NAMES)):
            twin = next(filter(self._overrides, twins), None)
            if twin is not None and not self._overrides(step):
                return f"it has {twin}() and no {step}()"
        return ""

    # --- what a provider uses ----------------------------------------------------------------------

    @property
    def app(self) -> Application:
        """The application it was registered in."""
        if self._app is None:
            raise UsageError(f"provider {self.name!r} belongs to no application yet: app.register(...) it first")
        return self._app

    @property
    def settings(self) -> Any:
        """Its own settings: the ``schema_model`` read from ``schema_namespace``."""
        if self.schema_namespace is None:
            raise UsageError(
                f"provider {self.name!r} declares no schema_namespace; all settings are app.resolve('settings')"
            )
        return self.app.resolve("settings")[self.schema_namespace]

    def attach(self, app: Application) -> None:
        """Tie this provider to *app*; ``app.register`` calls it.

        Raises:
            UsageError: it belongs to another application, or its attributes are wrong.
        """
        if self._app is not None:
            raise UsageError(f"provider {self.name!r} belongs to an application already: make one for each")
        if (self.schema_namespace is None) != (self.schema_model is None):
            raise UsageError(f"provider {self.name!r}: schema_namespace and schema_model go together, or neither")
        for step, advice in _ADVICE.items():
            if inspect.iscoroutinefunction(getattr(self, step)):
                raise UsageError(f"provider {self.name!r}: {step}() is a coroutine function; {advice}")
        self._app = app

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(BaseProvider, method)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
