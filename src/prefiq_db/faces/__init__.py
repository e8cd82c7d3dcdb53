"""What people call besides the database itself: verbs, transactions and attempts, for threads and for tasks."""
