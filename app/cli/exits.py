"""The exit codes of the command: a closed set, documented in docs/cli.md, that scripts may rely on."""

from enum import IntEnum
from typing import assert_never

from app.core.types import Effect
from app.errors import Kind


class ExitCode(IntEnum):
    """What a shell sees. From 64 on the numbers are those of sysexits.h; 0 alone means "go ahead"."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DENY = 10
    HOLD = 11
    BAD_DATA = 65
    NO_INPUT = 66
    UNREACHABLE = 69
    TRY_AGAIN = 75
    BAD_SCHEMA = 76
    NOT_PERMITTED = 77
    BAD_SETTINGS = 78


MEANINGS = {
    ExitCode.OK: "done; for `decide` and `check`: allow",
    ExitCode.FAILED: "it failed in a way that has no number of its own",
    ExitCode.USAGE: "the command line cannot be understood",
    ExitCode.DENY: "`decide`, `check`, `policies activate`: deny",
    ExitCode.HOLD: "`decide`, `check`, `policies activate`: hold, people have to approve first",
    ExitCode.BAD_DATA: "what was given is not valid: a mutation, a policy, an answer",
    ExitCode.NO_INPUT: "a file or directory that was named cannot be read",
    ExitCode.UNREACHABLE: "nobody answers at that address, or the database is away",
    ExitCode.TRY_AGAIN: "the service is busy or limits the rate; the same command may work later",
    ExitCode.BAD_SCHEMA: "the database schema does not fit this version",
    ExitCode.NOT_PERMITTED: "the key or the role is missing or wrong",
    ExitCode.BAD_SETTINGS: "settings are wrong",
}


def of_effect(effect: Effect) -> ExitCode:
    """The exit code of a decision."""
    match effect:
        case Effect.ALLOW:
            return ExitCode.OK
        case Effect.DENY:
            return ExitCode.DENY
        case Effect.HOLD:
            return ExitCode.HOLD
        case _:
            assert_never(effect)


def of_kind(kind: Kind) -> ExitCode:
    """The exit code of a failure that has a name."""
    match kind:
        case (
            Kind.MALFORMED
            | Kind.TOO_LARGE
            | Kind.UNSUPPORTED_MEDIA_TYPE
            | Kind.UNSUPPORTED_ENCODING
            | Kind.INVALID_POLICY
            | Kind.INVALID_SIGNATURE
        ):
            return ExitCode.BAD_DATA
        case Kind.UNAUTHENTICATED | Kind.TOKEN_EXPIRED | Kind.FORBIDDEN:
            return ExitCode.NOT_PERMITTED
        case Kind.RATE_LIMITED | Kind.OVERLOADED | Kind.TIMEOUT:
            return ExitCode.TRY_AGAIN
        case Kind.UNAVAILABLE:
            return ExitCode.UNREACHABLE
        case Kind.INVALID_SETTINGS:
            return ExitCode.BAD_SETTINGS
        case Kind.SCHEMA_MISMATCH:
            return ExitCode.BAD_SCHEMA
        case Kind.NOT_FOUND | Kind.METHOD_NOT_ALLOWED | Kind.NOT_ACCEPTABLE | Kind.CONFLICT:
            return ExitCode.FAILED
        case _:
            assert_never(kind)
