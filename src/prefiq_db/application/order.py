"""The order in which providers start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from prefiq_db.application.bindings import unknown_name
from prefiq_db.errors import BindingError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel


class Ordered(Protocol):
    """The attributes that determine the order of start."""

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> Sequence[str]: ...
    @property
    def provides(self) -> Sequence[str]: ...
    @property
    def schema_namespace(self) -> str | None: ...
    @property
    def schema_model(self) -> type[BaseModel] | None: ...


P = TypeVar("P", bound=Ordered)


def start_order(providers: Iterable[P], bound: Collection[str] = ()) -> list[P]:
    """Return *providers* sorted so that each comes after those it requires; otherwise their order stays.

    A requirement is the name of a provider, a name that a provider ``provides`` (``db`` stands for ``db.analytics``
    too), or a name in *bound*. A provider with settings of its own requires ``settings`` implicitly.

    Raises:
        BindingError: a requirement isn't met, or providers require each other in a circle.
    """
    providers = list(providers)
    by_name: dict[str, P] = {}
    for provider in providers:
        for provided in provider.provides:
            by_name.setdefault(provided, provider)
    by_name.update({provider.name: provider for provider in providers})
    ordered: list[P] = []

    def place(provider: P, waiting: list[P]) -> None:
        if provider in ordered:
            return
        if provider in waiting:
            circle = [p.name for p in [*waiting[waiting.index(provider) :], provider]]
            raise BindingError(f"providers need each other in a circle: {' -> '.join(circle)}")
        for requirement in requirements(provider):
            needed = by_name.get(requirement)
            if needed is None and requirement not in bound:
                needed = by_name.get(requirement.partition(".")[0])
                if needed is None:
                    head = f"provider {provider.name!r} requires"
                    raise BindingError(unknown_name(head, requirement, [*by_name, *bound]))
            if needed is not None:
                place(needed, [*waiting, provider])
        ordered.append(provider)

    for provider in providers:
        place(provider, [])
    return ordered


def requirements(provider: Ordered) -> tuple[str, ...]:
    """Return what *provider* requires, explicitly or implicitly."""
    if isinstance(provider.requires, str):
        raise UsageError(f"provider {provider.name!r}: `requires` is a sequence of names, not one string")
    has_settings = provider.schema_namespace is not None and "settings" not in (provider.name, *provider.provides)
    return ("settings", *provider.requires) if has_settings else tuple(provider.requires)
