"""The container: names bound to values or factories, and providers that start in order and stop in reverse.

Nothing here is global: all state belongs to one :class:`Application` object.
"""

from prefiq_db.application.application import Application, Provider
from prefiq_db.application.order import start_order

__all__ = ["Application", "Provider", "start_order"]
