"""The forms in which findings are written; on its own, so that the command line starts without the policies."""

from enum import StrEnum


class Format(StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"
