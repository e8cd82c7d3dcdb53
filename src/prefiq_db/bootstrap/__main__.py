"""``python -m prefiq_db.bootstrap``: boot everything from the environment, tell how it went, shut down.

Exit codes: 0 all is well; 1 a database is down or a provider failed; 2 the settings are wrong, or ask for a driver
that is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence

from prefiq_db.application import Application
from prefiq_db.bootstrap import assemble
from prefiq_db.errors import PrefiqDbError, ProviderError, SettingsError, UnsupportedError
from prefiq_db.providers import DatabaseProvider
from prefiq_db.reports import HealthReport
from prefiq_db.settings.database import is_production

OK, FAILED, MISCONFIGURED = 0, 1, 2


def main(
    argv: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> int:
    """Boot, report one line per provider and database, shut down; return the exit code. Never raises an Exception."""
    parser = argparse.ArgumentParser(
        prog="python -m prefiq_db.bootstrap",
        description="Boot everything from the environment and tell how each provider and database is.",
        epilog="exit codes: 0 all is well, 1 a database is down or a provider failed, 2 the settings are wrong",
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="import this first: it registers providers")
    options = parser.parse_args(argv)
    # The lines below tell what is logged; without a handler Python would write the errors a second time.
    logging.getLogger("prefiq_db.boot").addHandler(logging.NullHandler())
    for module in options.modules:
        code, why = _imported(module)
        if code != OK:
            sys.stderr.write(f"{module} can't be imported: {why}\n")
            return code
    try:
        app = assemble(environ=environ, directory=directory)
        if app.async_only():
            asyncio.run(_check_async(app))
        else:
            _check(app)
    except Exception as error:  # noqa: BLE001 - a command line ends with a line and an exit code, not a traceback
        sys.stderr.write(f"{_message(error)}\n")
        return MISCONFIGURED if _is_configuration(error) else FAILED
    return OK if all(report.healthy for report in _reports(app)) else FAILED


def _reports(app: Application) -> list[HealthReport]:
    return [r for each in app.providers if isinstance(each, DatabaseProvider) for r in each.reports.values()]


def _imported(module: str) -> tuple[int, str]:
    """Import *module*; return an exit code, and why it can't be, without what may be a value."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        return MISCONFIGURED, f"there is no module {missing}; is this the right directory, and is everything installed?"
    except Exception as error:  # noqa: BLE001 - a module is anybody's code
        last = traceback.extract_tb(error.__traceback__)[-1]
        return FAILED, f"{type(error).__name__} at {last.filename}:{last.lineno}"
    return OK, ""


def _check(app: Application) -> None:
    try:
        app.boot()
    except Exception as error:
        _write(_report(app, error))
        raise
    _write(_report(app))
    app.shutdown()


async def _check_async(app: Application) -> None:
    try:
        await app.boot_async()
    except Exception as error:
        _write(_report(app, error))
        raise
    _write(_report(app))
    await app.ashutdown()


def _write(lines: Iterator[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _report(app: Application, failure: Exception | None = None) -> Iterator[str]:
    failed = failure.provider if isinstance(failure, ProviderError) else None
    state = "ready"
    for provider in app.providers:
        if isinstance(provider, DatabaseProvider):
            if provider.note:
                production = is_production(app.resolve("settings").environment)
                yield f"{'warning: ' if production else ''}{provider.note}"
            for name, report in provider.reports.items():
                settings = provider.databases[name].settings
                yield f"database {name}: {_health(report)}, {settings.target} ({settings.engine}, {settings.mode})"
        if provider.name == failed:
            yield f"provider {provider.name}: failed"
            state = "not started"
        else:
            yield f"provider {provider.name}: {state}"


def _health(report: HealthReport) -> str:
    if not report.healthy:
        return f"{'down' if report.latency_seconds is None else 'answers, but'}: {report.reason}"
    return "healthy" if report.latency_seconds is None else f"healthy in {report.latency_seconds * 1000:.1f} ms"


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, PrefiqDbError) else f"unexpected {type(error).__name__}"


def _is_configuration(error: BaseException | None) -> bool:
    """Return whether *error*, or what it tells of, is for the one who configures: settings, or a missing driver."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_configuration(each) for each in error.exceptions)
    if isinstance(error, (SettingsError, UnsupportedError)):
        return True
    return isinstance(error, ProviderError) and _is_configuration(error.original)


if __name__ == "__main__":
    sys.exit(main())
