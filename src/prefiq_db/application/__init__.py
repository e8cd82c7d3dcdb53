"""The container: names bound to values or factories, and providers that start in order and stop in reverse.

Nothing here is global: everything an :class:`Application` knows lives in that one object.
"""

from prefiq_db.application.application import Application, Provider
from prefiq_db.application.order import start_order

__all__ = ["Application", "Provider", "start_order"]
