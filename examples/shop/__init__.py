"""A small service with a history of its own: tables, what it asks, and three revisions, the way of every change.

Release 1 kept prices in cents; release 2 writes cents and :class:`~prefiq_db.types.Money`; release 3 only money. The
revisions go with them: expand before release 2, backfill while it runs, contract when nothing older runs any more.
"""
