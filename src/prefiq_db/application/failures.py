"""Turn a provider's failure into one ProviderError that names the provider and carries no value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePath
from typing import Any

from prefiq_db.application.order import Ordered
from prefiq_db.errors import PrefiqDbError, ProviderError, SettingsError
from prefiq_db.translation.cleaning import clean


def attempt(step: Callable[[], object]) -> Exception | None:
    """Return the exception of *step*: an error raised from it later, outside the handler, has no ``__context__``."""
    try:
        step()
    except Exception as error:  # noqa: BLE001 - a provider is the user's code and may raise anything
        return error
    return None


async def attempt_async(step: Callable[[], Awaitable[object]]) -> Exception | None:
    """Return the exception of awaiting *step*, as :func:`attempt` does."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


def provider_error(
    provider: Ordered, verb: str, failure: Exception, while_stopping: Sequence[tuple[Ordered, Exception]] = ()
) -> Exception:
    """Return the exception to raise for *failure*: a ProviderError, or the SettingsError itself."""
    if isinstance(failure, SettingsError):  # it names every variable, which says more than a provider's name
        return clean(failure)
    after = "".join(f"; then provider {p.name!r} failed to shut down: {_tell(error)}" for p, error in while_stopping)
    return failed_error(provider.name, verb, failure, after)


def failed_error(name: str, verb: str, failure: Exception, after: str = "") -> ProviderError:
    """Return the error that provider *name* failed to *verb*, with the kind of *failure*."""
    message = f"provider {name!r} failed to {verb}: {_tell(failure)}{after}"
    return ProviderError(message, provider=name, original=clean(failure), **_copy_classification(failure))


def raise_collected(failures: Sequence[tuple[Ordered, Exception]]) -> None:
    """Raise one error that names every provider that failed to shut down; do nothing when none did."""
    if not failures:
        return
    names = ", ".join(provider.name for provider, _ in failures)
    message = "; ".join(
        f"provider {provider.name!r} failed to shut down: {_tell(error)}" for provider, error in failures
    )
    errors = [clean(error) for _, error in failures]
    original = errors[0] if len(errors) == 1 else ExceptionGroup("providers failed to shut down", errors)
    raise ProviderError(message, provider=names, original=original, **_copy_classification(errors[0]))


def _copy_classification(failure: Exception) -> dict[str, Any]:
    if not isinstance(failure, PrefiqDbError):
        return {}
    return {
        "kind": failure.kind,
        "code": failure.code,
        "database": failure.database,
        "classification": failure.classification,
    }


def _tell(failure: Exception) -> str:
    """Describe *failure* without values: our own message; for a foreign exception only its type and place."""
    if isinstance(failure, PrefiqDbError):
        return str(failure)
    trace = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(failure).__name__
    code = trace.tb_frame.f_code
    return f"{type(failure).__name__} at {PurePath(code.co_filename).name}:{trace.tb_lineno}, in {code.co_name}"
