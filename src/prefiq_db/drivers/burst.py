"""Requests that travel with one statement, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence


class Burst:
    """The requests that travel with the next statement of a connection.

    Attributes:
        ahead: control statements to send before it.
        behind: a control statement to send after it; the server skips it if one before it fails.
        sent: whether anything was sent.
        refused: whether the server replied that a request in *ahead*, or the statement, failed, so that it did not
            come to *behind*.
        refused_ahead: whether it was one in *ahead*.
        tag: *behind*, once the server has confirmed it; on PostgreSQL its command tag, which may say otherwise.
    """

    __slots__ = ("ahead", "behind", "refused", "refused_ahead", "sent", "tag")

    def __init__(self, ahead: Sequence[str] = (), behind: str | None = None) -> None:
        self.ahead = ahead
        self.behind = behind
        self.sent = self.refused = self.refused_ahead = False
        self.tag: str | None = None
