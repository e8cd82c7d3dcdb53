"""Run one statement: analyse it, decide where it may run, and convert its rows."""
