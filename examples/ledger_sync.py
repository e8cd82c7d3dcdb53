"""The order and stock ledger, from creating tables to the report. ``ledger_async.py`` does the same with ``await``.

On embedded SQLite, in a temporary folder: ``make run-sync-example``.
On a server: ``DB_URL=postgres://user:password@host/name make run-sync-example``, or ``mariadb://...``.
"""

from __future__ import annotations

import tempfile

from sqlalchemy.schema import CreateTable, DropTable

import ledger
from prefiq_db import Database, Transaction, bootstrap
from prefiq_db.events import StatementFinished


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"database": {"mode": "sync", **ledger.place_for(folder)}}
        with bootstrap(arguments=arguments) as app:
            run(app.resolve("db", Database))


def run(db: Database) -> None:
    print(f"Order and stock ledger on {db.settings.engine}, {db.settings.mode}\n")
    count = 0

    @db.hooks.after
    def count_it(event: StatementFinished) -> None:
        nonlocal count
        count += 1

    try:
        create(db)
        receive(db)
        for sku, quantity in ledger.MOVES:
            # The whole function runs again after a deadlock, a conflict or a lost connection.
            print(db.run_in_transaction(move, "warehouse", "shop", sku, quantity))
        for customer, lines in ledger.ORDERS.items():
            order(db, customer, lines)
        stock_lines = db.fetch_all(ledger.STOCK_LINES, into=ledger.StockLine)
        order_lines = db.fetch_all(ledger.ORDER_LINES, into=ledger.OrderLine)
        print(ledger.report(stock_lines, order_lines))
    finally:
        drop(db)
    print(f"\n{count} statements, {db.stats().retry_count} retries")


def create(db: Database) -> None:
    # Not in a transaction: MariaDB commits at each CREATE TABLE.
    for table in ledger.metadata.sorted_tables:
        db.execute(CreateTable(table))


def drop(db: Database) -> None:
    for table in reversed(ledger.metadata.sorted_tables):
        db.execute(DropTable(table, if_exists=True))


def receive(db: Database) -> None:
    with db.transaction():  # both or neither; inside, db uses the transaction's connection
        db.execute_many(ledger.RECEIVE_ITEMS, ledger.ITEMS)
        count = db.execute_many(ledger.RECEIVE_STOCK, ledger.RECEIVED + ledger.SHOP)
    print(f"received    {len(ledger.RECEIVED)} items, {count} places on the shelves")


def move(tx: Transaction, source: str, target: str, sku: str, quantity: int) -> str:
    """Move goods from one place to another."""
    if tx.execute(ledger.take(source, sku, quantity)).rowcount == 0:
        raise ledger.OutOfStockError(sku, quantity)
    tx.execute(ledger.put(target, sku, quantity))
    return f"moved       {quantity} x {sku} from {source} to {target}"


def order(db: Database, customer: str, lines: list[tuple[str, int]]) -> None:
    """Sell all lines of an order, or none."""
    try:
        with db.transaction() as tx:
            # Tell the customer only after the commit.
            tx.on_commit(lambda: print(f"ordered     by {customer}, the receipt is on its way"))
            for sku, quantity in lines:
                if tx.execute(ledger.take("shop", sku, quantity)).rowcount == 0:
                    raise ledger.OutOfStockError(sku, quantity)
                price = tx.fetch_value(ledger.price_of(sku))
                tx.execute(ledger.sell(customer, sku, quantity, price))
    except ledger.OutOfStockError as error:
        print(f"refused     the order of {customer}, all of it: {error}")


if __name__ == "__main__":
    main()
