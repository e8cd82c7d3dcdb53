"""Log in where others may listen: send only a hash of the password with the server's challenge.

A server names the login method, and anything that answers first can pose as the server. Why we don't follow it
everywhere: docs/decisions/0096-why-a-password-is-not-sent-in-clear.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from prefiq_db.errors import AuthenticationError, UnsupportedError

#: MariaDB's and MySQL's methods that a driver answers with a hash. The second may fall back to the password itself.
CHALLENGES: Final = (b"mysql_native_password", b"caching_sha2_password", b"client_ed25519")

#: libpq's option for the methods that a server may ask for; libpq before 16 doesn't have it
REQUIRE_AUTH: Final = "require_auth"
NO_PASSWORD: Final = "!password"
_KNOWS_REQUIRE_AUTH: Final = 160_000

_WAYS_OUT: Final = (
    "say ssl_mode=require, or better verify-full, so that nobody can read it; or allow_cleartext_password=yes where"
    " nobody can listen"
)
_NAME: Final = re.compile(r"\w{1,64}")


def refusal(method: bytes | None = None) -> AuthenticationError:
    """Return the error for a server that asks for the password itself; *method* is the method that it named."""
    name = "" if method is None else method.decode("ascii", "replace")
    by = f" ({name})" if _NAME.fullmatch(name) else ""
    return AuthenticationError(
        f"the server asks for the password itself{by}, not for the answer to a challenge, over a connection that is not"
        f" encrypted; it was not sent: {_WAYS_OUT}"
    )


def challenges_only(asked: str | None, libpq_version: int, *, has_password: bool) -> str | None:
    """Return the value of libpq's ``require_auth`` with which it never sends the password itself.

    Args:
        asked: the user's own setting; if it lists allowed methods, it is used unchanged.
        libpq_version: libpq's version number, such as ``160004``.
        has_password: whether there is a password to send.

    Raises:
        UnsupportedError: libpq is too old for the option, and has a password that it could send.
    """
    if asked and not asked.lstrip().startswith("!"):
        return asked
    if libpq_version < _KNOWS_REQUIRE_AUTH:
        if not has_password:
            return asked
        raise UnsupportedError(
            f"libpq {libpq_version // 10_000} sends the password in clear to whoever asks for it, and only 16 and later"
            f" can be told not to: pip install 'psycopg[binary]', which brings its own; or {_WAYS_OUT}"
        )
    return ",".join(filter(None, (NO_PASSWORD, asked)))


def is_refused(error: Exception, arguments: Mapping[str, Any]) -> bool:
    """Return whether libpq gave up because the server asked for the password itself, which we forbid."""
    required = arguments.get(REQUIRE_AUTH) or ""
    # In any language: the message quotes the requirement as we gave it.
    return required.startswith(NO_PASSWORD) and f'"{required}"' in str(error)


def in_tls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return *arguments* for a second attempt over TLS, where the server may ask for any method: nobody can listen."""
    rest = arguments[REQUIRE_AUTH].removeprefix(NO_PASSWORD).removeprefix(",")
    return {**arguments, "sslmode": "require", REQUIRE_AUTH: rest or None}
