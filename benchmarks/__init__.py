"""prefiq_db measured beside the raw drivers, plain SQLAlchemy and other libraries: ``python -m benchmarks -h``."""
