"""The connection pool: waiting callers, current holders, and checks of connections before a checkout."""
