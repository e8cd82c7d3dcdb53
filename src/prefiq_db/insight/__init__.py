"""Records about statements: statistics, the slow log, plans, budgets."""
