"""A database whose settings say ``read_only``: each of its sessions refuses writes by itself, from connecting on."""

from __future__ import annotations

from typing import Any


class ReadOnlySessions:
    """Mixed in before :class:`~prefiq_db.dialects.base.PrefiqDialect`."""

    #: set once by engines.make_engine; the connector tells each session
    read_only: bool = False

    def began_read_only(self, proxied: Any) -> bool:
        """Return whether a write was refused by us: then no other server is better, and nothing is worth repeating."""
        if self.read_only:
            return True
        ours: bool = super().began_read_only(proxied)  # type: ignore[misc]
        return ours
