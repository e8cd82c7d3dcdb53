"""What connects prefiq_db with the rest of a service: tracing, metrics, logs and health endpoints.

Each module is imported by whoever wants it, and nothing else here imports it. Those that need a further package name
the extra that brings it when it is missing.
"""
