"""The application: holds the bindings, starts the providers in order, and stops them in reverse."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, overload

from prefiq_db.application.async_stop import async_stop, name_of_stop
from prefiq_db.application.bindings import Bindings, unknown_name
from prefiq_db.application.failures import attempt, attempt_async, failed_error, provider_error, raise_collected
from prefiq_db.application.order import Ordered, requirements, start_order
from prefiq_db.deprecations import warn_renamed
from prefiq_db.errors import BindingError, ClosedError, PrefiqDbError, UsageError

logger = logging.getLogger("prefiq_db.boot")

_State = Literal["new", "preparing", "prepared", "booting", "booted", "stopped"]


class Provider(Ordered, Protocol):
    """What an Application requires of a provider. ``prefiq_db.BaseProvider`` implements all of it."""

    def attach(self, app: Application) -> None: ...
    def async_only(self) -> str: ...
    def register(self) -> None: ...
    def boot(self) -> None: ...
    async def boot_async(self) -> None: ...
    def shutdown(self) -> None: ...
    async def ashutdown(self) -> None: ...


P = TypeVar("P", bound=Provider)


class Application(Bindings):
    """The bindings and the providers of one service.

    ``boot()`` orders the providers by what they require, calls every ``register()``, then every ``boot()``;
    ``shutdown()`` stops them in reverse. Two applications in one process share nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._providers: list[Provider] = []
        self._booted: list[Provider] = []
        self._state: _State = "new"

    # --- providers -------------------------------------------------------------------------------

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The registered providers: in order of registration; after :meth:`prepare` in order of start."""
        return tuple(self._providers)

    @overload
    def register(self, provider: type[P]) -> P: ...
    @overload
    def register(self, provider: P) -> P: ...
    def register(self, provider: Any) -> Any:
        """Add a provider, given as a class or an instance, and return the instance. It doesn't run yet.

        Raises:
            BindingError: a provider with that name is registered already.
            UsageError: it isn't a provider, belongs to another application, or this one has booted already.
        """
        self._refuse_when_stopped()
        if self._state != "new":
            raise UsageError("providers are registered before boot()")
        instance = _make(provider) if isinstance(provider, type) else provider
        if not callable(getattr(instance, "attach", None)):
            raise UsageError(f"{type(instance).__name__} is no provider: derive it from prefiq_db.BaseProvider")
        for other in self._providers:
            if other.name == instance.name:
                raise BindingError(
                    f"two providers are called {instance.name!r}: {_class_name(other)} and {_class_name(instance)};"
                    " give one of them another `name`"
                )
        if name_of_stop(instance) == "shutdown_async":  # BaseProvider warned where a class defined it
            warn_renamed(f"{type(instance).__qualname__}.shutdown_async", "ashutdown")
        instance.attach(self)
        self._providers.append(instance)
        return instance

    def prepare(self) -> None:
        """Order the providers and let each register its bindings. ``boot()`` does this by itself.

        Raises:
            BindingError: a requirement isn't met, or providers require each other in a circle.
            SettingsError: the settings are wrong; the message lists every problem.
            ProviderError: a provider failed to register for another reason.
        """
        self._refuse_when_stopped()
        if self._state == "preparing":
            raise UsageError("register() of a provider binds names; it can't boot the application")
        if self._state != "new":
            return
        self._providers = start_order(self._providers, self._values.keys() | self._factories.keys())
        self._state = "preparing"
        try:
            self._register_all()
        except BaseException:
            self._state, self._closed = "stopped", True
            raise
        self._state = "prepared"

    def _register_all(self) -> None:
        for provider in self._providers:
            failure = attempt(provider.register)
            if failure is not None:
                raise provider_error(provider, "register", failure)
        # Only now is every name known: `db.analytics` was ordered after the provider of `db`, but is it configured?
        providers = {provider.name for provider in self._providers}
        for provider in self._providers:
            for requirement in requirements(provider):
                if requirement not in providers and not self.has(requirement):
                    names = [*providers, *self._values, *self._factories]
                    raise BindingError(unknown_name(f"provider {provider.name!r} requires", requirement, names))

    def async_only(self) -> str:
        """Return why only ``await boot_async()`` can boot this application; empty when :meth:`boot` can too."""
        self.prepare()
        reasons = [f"provider {p.name!r}: {reason}" for p in self._providers if (reason := p.async_only())]
        return "; ".join(reasons)

    # --- start and stop: twins, changed together ---------------------------------------------------

    def boot(self) -> None:
        """Start every provider, each after those it requires.

        If one fails, those that have booted are shut down, in reverse order, before the error is raised.

        Raises:
            UsageError: something here is asynchronous (the message says what): use ``await bootstrap_async()``.
            SettingsError, BindingError: see :meth:`prepare`.
            ProviderError: a provider failed; ``provider`` names it, ``kind`` and ``original`` give the reason.
        """
        reason = self.async_only()
        if reason:
            raise UsageError(f"{reason}; boot it with: app = await bootstrap_async()")
        self._begin_boot()
        for provider in self._providers:
            try:
                failure = attempt(provider.boot)
            except BaseException:
                self._stop()
                raise
            if failure is not None:
                raise provider_error(provider, "boot", failure, self._stop())
            self._booted.append(provider)
        self._state = "booted"

    async def boot_async(self) -> None:
        """Start every provider, as :meth:`boot` does; synchronous databases are opened in this thread too."""
        self.prepare()
        self._begin_boot()
        for provider in self._providers:
            try:
                failure = await attempt_async(provider.boot_async)
            except BaseException:
                await self._stop_async()
                raise
            if failure is not None:
                raise provider_error(provider, "boot", failure, await self._stop_async())
            self._booted.append(provider)
        self._state = "booted"

    def shutdown(self) -> None:
        """Stop the booted providers in reverse order; a second call does nothing.

        Every provider is stopped, even if another one fails.

        Raises:
            ProviderError: names each provider that failed to stop; raised after all were stopped.
            UsageError: something here is asynchronous: use ``await app.ashutdown()``.
        """
        reasons = [f"provider {p.name!r}: {reason}" for p in self._booted if (reason := p.async_only())]
        if reasons:
            raise UsageError(f"{'; '.join(reasons)}; shut it down with: await app.ashutdown()")
        raise_collected(self._stop())

    async def ashutdown(self) -> None:
        """Stop the booted providers, as :meth:`shutdown` does; works after ``boot()`` too."""
        raise_collected(await self._stop_async())

    def _refuse_when_stopped(self) -> None:
        if self._state == "stopped":
            raise ClosedError("the application failed to start or was shut down: make a new one")

    def _begin_boot(self) -> None:
        if self._state != "prepared":
            raise UsageError("the application has been booted already")
        self._state = "booting"

    def _stop(self) -> list[tuple[Provider, Exception]]:
        booted, self._booted = self._booted, []
        self._state, self._closed = "stopped", True
        failures: list[tuple[Provider, Exception]] = []
        interrupt: BaseException | None = None
        for provider in reversed(booted):
            try:
                failure = attempt(provider.shutdown)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C must not leave the others running; raised below
                interrupt = interrupt or error
                continue
            if failure is not None:
                failures.append((provider, failure))
        if interrupt is not None:
            raise interrupt
        return failures

    async def _stop_async(self) -> list[tuple[Provider, Exception]]:
        booted, self._booted = self._booted, []
        self._state, self._closed = "stopped", True
        failures: list[tuple[Provider, Exception]] = []
        interrupt: BaseException | None = None
        for provider in reversed(booted):
            try:
                failure = await attempt_async(async_stop(provider))
            except BaseException as error:  # noqa: BLE001 - a cancellation must not leave the others open; raised below
                interrupt = interrupt or error
                continue
            if failure is not None:
                failures.append((provider, failure))
        if interrupt is not None:
            raise interrupt
        return failures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.shutdown()
        except PrefiqDbError as failure:
            # Raise the error of the body; this one would hide it.
            if error is None:
                raise
            logger.error("%s", failure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.ashutdown()
        except PrefiqDbError as failure:
            if error is None:
                raise
            logger.error("%s", failure)


def _class_name(instance: object) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def _make(provider: type[Any]) -> Any:
    name = getattr(provider, "name", None)
    name = name if isinstance(name, str) and name else provider.__name__
    try:
        return provider()
    except Exception as error:  # noqa: BLE001 - a provider is the user's code and may raise anything; raised below
        failure = error
    raise failed_error(name, "be made", failure)
