"""How the answers to a check are written; apart, so that `mfw --help` need not load what decides."""

from enum import StrEnum


class Format(StrEnum):
    """How the answers are written."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"
    SARIF = "sarif"
