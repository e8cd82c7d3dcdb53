"""What was counted, timed and noted of statements: statistics, the slow log, plans, budgets."""
