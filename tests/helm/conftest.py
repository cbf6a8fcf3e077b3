"""The DSN fixtures of the integration tests: the jobs of the chart run against a real PostgreSQL."""

from tests.integration.conftest import _template, empty_database_dsn, server_dsn  # noqa: F401
