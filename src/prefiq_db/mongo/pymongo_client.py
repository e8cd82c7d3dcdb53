"""Make PyMongo's client."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

from prefiq_db.errors import Problem, SettingsError
from prefiq_db.mongo.client_options import client_options
from prefiq_db.settings import DatabaseSettings
from prefiq_db.silence import hush


def make_client(settings: DatabaseSettings, listeners: Sequence[Any], *, is_async: bool) -> Any:
    """Return PyMongo's client for *settings*; it connects when it is first used.

    Raises:
        SettingsError: PyMongo refuses an option.
    """
    kind: Any = AsyncMongoClient if is_async else MongoClient
    try:
        with warnings.catch_warnings():
            # It only warns of a bad value in a URL, and goes on without the option.
            warnings.simplefilter("error", UserWarning)
            return kind(**client_options(settings), event_listeners=listeners)
    except (PyMongoError, ValueError, TypeError, UserWarning) as error:
        hush(error)
        what = "name service" if isinstance(error, ConfigurationError) and settings.target.is_srv else "driver"
    # PyMongo's text quotes the value that it refuses.
    raise SettingsError(
        [
            Problem(
                "url",
                f"options that MongoDB's {what} accepts",
                "compare names and values of the URL's options with MongoDB's connection string options",
            )
        ]
    )
