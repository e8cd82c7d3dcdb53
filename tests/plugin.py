"""How a run of pytest that a test starts finds our plugin."""

from __future__ import annotations

from importlib.metadata import entry_points


def plugin_arguments() -> list[str]:
    """Return the arguments that load the plugin where this checkout's entry point isn't installed."""
    return [] if entry_points(group="pytest11", name="prefiq_db") else ["-p", "prefiq_db_pytest"]
