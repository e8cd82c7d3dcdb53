"""The public API besides the database itself: verbs, transactions and attempts, sync and async."""
