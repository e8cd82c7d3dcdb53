"""A stock service in Flask: a transaction per request, a hook, health endpoints, and the status page ``/db``.

Run it with any WSGI server: ``flask --app examples/service_flask.py run``, then open ``/healthz``, ``/readyz`` and
``/db``. Set ``DB_URL`` to use a server instead of SQLite.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Flask, jsonify, request

from prefiq_db import Database, bootstrap
from prefiq_db.events import StatementFinished
from prefiq_db.integrations.flask import PrefiqDb, mount_health


def make_app(database: dict[str, Any] | None = None, **health: Any) -> Flask:
    """Return the service; *database* has settings, *health* options of the health endpoints."""
    service = Flask("stock")
    prefiq = PrefiqDb(service, lambda: bootstrap(arguments={"database": database or {}}), timeout=10)
    db: Database = prefiq.db
    operations: Counter[str] = Counter()

    @db.hooks.after
    def count(event: StatementFinished) -> None:
        operations[event.operation] += 1

    db.execute("create table if not exists stock (sku varchar(20) primary key, quantity integer not null)")
    # The page shows statements and lines of code: in production, put it behind your own login.
    mount_health(service, prefiq.container, page=True, **health)

    @service.put("/stock/<sku>")
    @prefiq.transactional
    def put(sku: str) -> Any:
        quantity = int(request.args["quantity"])
        db.execute("delete from stock where sku = :sku", {"sku": sku})
        db.execute("insert into stock (sku, quantity) values (:sku, :quantity)", {"sku": sku, "quantity": quantity})
        return jsonify(sku=sku, quantity=quantity)

    @service.get("/stock")
    def stock() -> Any:
        return jsonify(db.fetch_all("select sku, quantity from stock order by sku", into=dict))

    @service.get("/operations")
    def counted() -> Any:
        return jsonify(operations)

    return service
