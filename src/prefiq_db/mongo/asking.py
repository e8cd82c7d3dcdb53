"""Ask MongoDB something: within a time limit, noted for the listeners, with our errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

import pymongo
from pymongo import ReadPreference
from pymongo.errors import ConnectionFailure, OperationFailure, WaitQueueTimeoutError

from prefiq_db.deadline import CONNECT_TIMEOUT, Deadline
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.mongo.mongo_instance import MongoInstance
from prefiq_db.mongo.running_calls import Attempt, running
from prefiq_db.translation.classify import leaves_unknown
from prefiq_db.translation.connecting import Connecting, note

# To PyMongo, 0 means no limit.
_LEAST_SECONDS: Final = 0.001

# The server refused before anything ran: it isn't the primary, or can't serve yet.
_NOT_STARTED: Final = frozenset({10107, 13435, 10058, 13436, 133})
# The server stopped an operation in the middle: a write of many documents may be half done.
_INTERRUPTED: Final = frozenset({11600, 11602, 91, 189})
_NOTHING_DONE: Final = ("NoWritesPerformed", "SystemOverloadedError")


def ask(
    instance: MongoInstance,
    told: Attempt,
    seconds: float,
    action: Callable[..., Any],
    *given: Any,
    is_probe: bool = False,
) -> Any:
    """Return the result of ``action(*given)``, which calls PyMongo once; it may take *seconds* in all.

    Within a time limit PyMongo looks for a server as long as the limit allows, not ``serverSelectionTimeoutMS``. So
    while no server is known, one is looked for first, by a ping within ``connect_timeout_seconds``.

    Args:
        is_probe: *action* is such a ping itself.

    Raises:
        PrefiqDbError: of the class that fits the kind.
    """
    before = running.get()
    running.set(told)
    caught: BaseException
    try:
        if instance.client.topology_description is not instance.fit_topology and not _knows_server(instance):
            limit = min(seconds, instance.settings.connect_timeout_seconds)
            running.set(None)  # neither what this sends nor the tasks that PyMongo starts are part of the call
            seconds = _prepare(instance, limit) if is_probe else seconds - _find_server(instance, limit)
            running.set(told)
        with pymongo.timeout(seconds if seconds > _LEAST_SECONDS else _LEAST_SECONDS):
            found = action(*given)
            return instance.settle(found) if instance.is_async else found
    except BaseException as error:  # noqa: BLE001 - the border judges it below, once this block has ended
        caught = error
    finally:
        running.set(before)
    # Only what fails crosses the border: it is for SQLAlchemy's sake that a call is inside it from the start.
    try:
        # A COMMIT that is not sent isn't told from one whose reply is lost: PyMongo may have sent it before.
        unsent = told.phase != "commit" and not told.sent
        if unsent and isinstance(caught, ConnectionFailure) and not isinstance(caught, WaitQueueTimeoutError):
            told.phase = "connect"
            note(caught, _tried(instance))
        return instance.border.cross(partial(_raise, caught), lambda: told.phase)
    finally:
        del caught


def _raise(error: BaseException) -> NoReturn:
    raise error


def _knows_server(instance: MongoInstance) -> bool:
    """Return whether there is a server that takes what most calls ask, as far as PyMongo knows."""
    description = instance.client.topology_description
    if _has_fit_server(description):
        instance.fit_topology = description  # PyMongo makes another one when something changes
        return True
    return False


def _has_fit_server(description: Any) -> bool:
    servers = description.server_descriptions().values()
    if description.topology_type_name == "Single":
        return any(server.is_server_type_known for server in servers)
    return any(server.is_writable for server in servers)


def _find_server(instance: MongoInstance, limit: float) -> float:
    """Wait until PyMongo knows a server; return how many seconds that took."""
    started, client = time.monotonic(), instance.client
    with pymongo.timeout(max(_LEAST_SECONDS, limit)):
        # Any member will do: which one a call needs, PyMongo finds out by itself.
        instance.settle(client.admin.command("ping", read_preference=ReadPreference.PRIMARY_PREFERRED))
    return time.monotonic() - started


def _prepare(instance: MongoInstance, limit: float) -> float:
    """Let PyMongo start its tasks, which keep the context that they are started in; return the rest of *limit*."""
    if not instance.is_async:
        return limit  # threads start with a context of their own
    started = time.monotonic()
    with pymongo.timeout(max(_LEAST_SECONDS, limit)):
        instance.settle(instance.client.aconnect())
    return limit - (time.monotonic() - started)


def _tried(instance: MongoInstance) -> Connecting:
    settings = instance.settings
    place = ", ".join(host.host if settings.target.is_srv else str(host) for host in settings.target.hosts)
    return Connecting(place, deadline=Deadline.after(settings.connect_timeout_seconds, CONNECT_TIMEOUT))


def may_write_again(error: PrefiqDbError, told: Attempt) -> bool:
    """Return whether a write that failed with *error* certainly had no effect, so that it may be sent again."""
    if not told.sent:
        return error.classification.retry_statement
    if told.done:
        return False  # the error is of a later command of a bulk: again would be twice for those before
    return error.code in _NOT_STARTED or _says_nothing_was_done(error)


def may_read_again(error: PrefiqDbError) -> bool:
    """Return whether a read that failed with *error* may succeed when it is sent again."""
    found = error.classification
    return found.retry_statement or found.retry_transaction


def fate_unknown(error: PrefiqDbError, told: Attempt) -> bool:
    """Return whether a write that failed with *error* may have been done, wholly or in part."""
    if not told.sent or error.kind is ErrorKind.OUTCOME_UNKNOWN:
        return False
    if told.done:
        # The first commands of a bulk are done. Only the server's word about the bulk itself says how far it came.
        refused = error.code in _NOT_STARTED or _says_nothing_was_done(error) or error.classification.transient
        if refused or not isinstance(error.original, OperationFailure):
            return True
    elif _says_nothing_was_done(error):
        return False
    return leaves_unknown(error.classification) or error.code in _INTERRUPTED


def _says_nothing_was_done(error: PrefiqDbError) -> bool:
    said = getattr(error.original, "has_error_label", None)
    return callable(said) and any(said(label) for label in _NOTHING_DONE)
