"""Integrations with the rest of a service: tracing, metrics, logs and health endpoints.

Import the modules you need; nothing else imports them. If a module needs a package that is missing, the error names the
extra to install.
"""
