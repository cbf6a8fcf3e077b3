"""Stands in for the library `re2` until it is among the requirements: RE2 by way of the engine, positions by Python.

Only as much of its interface as `patterns` uses.
"""

import re
from enum import Enum
from typing import Any

from cel_expr_python import cel

_ENVIRONMENT = cel.NewEnv(variables={"t": cel.Type.STRING, "p": cel.Type.STRING})
_MATCHES = _ENVIRONMENT.compile("t.matches(p)")


class error(Exception):  # noqa: N801, N818 - the library's name
    """A text that is no pattern."""


class Options:
    """What `patterns` sets."""

    log_errors = True
    max_mem = 0
    never_capture = False


class _Anchor(Enum):
    UNANCHORED = 0


class _Native:
    class RE2:
        Anchor = _Anchor


_re2 = _Native


class _Regexp:
    def __init__(self, pattern: bytes, *, captures: bool) -> None:
        self._pattern = pattern.decode()
        self._captures = captures
        self._regexp = self
        value = self._native("")
        if value.type() != cel.Type.BOOL:
            raise error(str(value.value()).partition("invalid regular expression: ")[2].encode())
        self._compiled = re.compile(self._pattern) if captures else None

    def _native(self, text: str) -> Any:
        return _MATCHES.eval(_ENVIRONMENT.Activation({"t": text, "p": self._pattern}))

    def NumberOfCapturingGroups(self) -> int:  # noqa: N802 - the library's name
        return self._compiled.groups if self._compiled else 0

    def Match(self, _anchor: object, data: bytes, start: int, _end: int) -> list[tuple[int, int]]:  # noqa: N802
        if self._compiled is None:
            return [(0, 0)] if self._native(data.decode()).value() is True else [(-1, -1)]
        text = data.decode()
        match = self._compiled.search(text, len(data[:start].decode()))
        if match is None:
            return [(-1, -1)]
        spans = [match.span(group) for group in range(self._compiled.groups + 1)]
        return [(-1, -1) if a < 0 else (len(text[:a].encode()), len(text[:b].encode())) for a, b in spans]


def compile(pattern: bytes, options: Options) -> _Regexp:  # noqa: A001 - the library's name
    """Compile a pattern."""
    return _Regexp(pattern, captures=not options.never_capture)
