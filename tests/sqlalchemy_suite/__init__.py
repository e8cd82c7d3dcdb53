"""SQLAlchemy's own suite for dialects, on our engines. It runs in a process of its own, see ``run.py``."""
