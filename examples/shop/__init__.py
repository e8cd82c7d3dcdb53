"""A small service with its own Alembic history: tables, queries, and a schema change in three revisions.

Release 1 stores prices in cents, release 2 in cents and :class:`~prefiq_db.types.Money`, release 3 only as money.
The revisions: expand before release 2, backfill while it runs, contract when no older release runs any more.
"""
