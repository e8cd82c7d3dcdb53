"""The order and stock ledger, from creating tables to the report. ``ledger_sync.py`` does the same without ``await``.

On embedded SQLite, in a temporary folder: ``make run-async-example``.
On a server: ``DB_URL=postgres://user:password@host/name make run-async-example``, or ``mariadb://...``.
"""

from __future__ import annotations

import asyncio
import tempfile

from sqlalchemy.schema import CreateTable, DropTable

import ledger
from prefiq_db import AsyncDatabase, AsyncTransaction, bootstrap_async
from prefiq_db.events import StatementFinished


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"database": {"mode": "async", **ledger.place_for(folder)}}
        async with await bootstrap_async(arguments=arguments) as app:
            await run(app.resolve("db", AsyncDatabase))


async def run(db: AsyncDatabase) -> None:
    print(f"Order and stock ledger on {db.settings.engine}, {db.settings.mode}\n")
    count = 0

    @db.hooks.after
    def count_it(event: StatementFinished) -> None:
        nonlocal count
        count += 1

    try:
        await create(db)
        await receive(db)
        for sku, quantity in ledger.MOVES:
            # The whole function runs again after a deadlock, a conflict or a lost connection.
            print(await db.run_in_transaction(move, "warehouse", "shop", sku, quantity))
        for customer, lines in ledger.ORDERS.items():
            await order(db, customer, lines)
        stock_lines = await db.fetch_all(ledger.STOCK_LINES, into=ledger.StockLine)
        order_lines = await db.fetch_all(ledger.ORDER_LINES, into=ledger.OrderLine)
        print(ledger.report(stock_lines, order_lines))
    finally:
        await drop(db)
    print(f"\n{count} statements, {db.stats().retry_count} retries")


async def create(db: AsyncDatabase) -> None:
    # Not in a transaction: MariaDB commits at each CREATE TABLE.
    for table in ledger.metadata.sorted_tables:
        await db.execute(CreateTable(table))


async def drop(db: AsyncDatabase) -> None:
    for table in reversed(ledger.metadata.sorted_tables):
        await db.execute(DropTable(table, if_exists=True))


async def receive(db: AsyncDatabase) -> None:
    async with db.transaction():  # both or neither; inside, db uses the transaction's connection
        await db.execute_many(ledger.RECEIVE_ITEMS, ledger.ITEMS)
        count = await db.execute_many(ledger.RECEIVE_STOCK, ledger.RECEIVED + ledger.SHOP)
    print(f"received    {len(ledger.RECEIVED)} items, {count} places on the shelves")


async def move(tx: AsyncTransaction, source: str, target: str, sku: str, quantity: int) -> str:
    """Move goods from one place to another."""
    if (await tx.execute(ledger.take(source, sku, quantity))).rowcount == 0:
        raise ledger.OutOfStockError(sku, quantity)
    await tx.execute(ledger.put(target, sku, quantity))
    return f"moved       {quantity} x {sku} from {source} to {target}"


async def order(db: AsyncDatabase, customer: str, lines: list[tuple[str, int]]) -> None:
    """Sell all lines of an order, or none."""
    try:
        async with db.transaction() as tx:
            # Tell the customer only after the commit.
            tx.on_commit(lambda: print(f"ordered     by {customer}, the receipt is on its way"))
            for sku, quantity in lines:
                if (await tx.execute(ledger.take("shop", sku, quantity))).rowcount == 0:
                    raise ledger.OutOfStockError(sku, quantity)
                price = await tx.fetch_value(ledger.price_of(sku))
                await tx.execute(ledger.sell(customer, sku, quantity, price))
    except ledger.OutOfStockError as error:
        print(f"refused     the order of {customer}, all of it: {error}")


if __name__ == "__main__":
    asyncio.run(main())
