"""Run one statement: what it is, where it may run, and what its rows become."""
