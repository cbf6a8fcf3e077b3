"""`mfw tokens rotate`: another secret for tokens, and what to set when so that no token is refused on the way."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, write_json
from app.settings import HMAC_SECRET_BYTES_MIN, JwtSettings, Settings

_NAME: Final = "MFW_AUTH__JWT__"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do; `set` has names of variables and what to write into them, never a secret that is in use."""

    do: str
    set: dict[str, str]
    unset: tuple[str, ...] = ()


def run_rotate(
    *, lifetime: timedelta, switch_within: timedelta, as_json: bool, clock: Callable[[], datetime] | None = None
) -> None:
    """Write a new secret and the steps. Changes nothing. Raises `FirewallError` and `Refused`."""
    now = clock() if clock is not None else datetime.now(UTC)
    jwt = Settings.load(rules_for={"auth"}).auth.jwt
    _check(jwt, now)
    minimum = max(HMAC_SECRET_BYTES_MIN[algorithm] for algorithm in jwt.algorithms if algorithm.symmetric)
    secret = secrets.token_hex(minimum)
    steps = steps_of(jwt, now=now, lifetime=lifetime, switch_within=switch_within)
    if as_json:
        write_json({"secret": secret, "steps": [{"do": s.do, "set": s.set, "unset": list(s.unset)} for s in steps]})
        return
    # The secret alone on standard output, so that it can go straight into a file or a secret store.
    console().print(secret, soft_wrap=True)
    note = console(stderr=True)
    note.print("a new secret is on standard output; nothing was changed. What to do with it:")
    for number, step in enumerate(steps, start=1):
        note.print(plain(f"{number}. {step.do}"))
        for name, value in step.set.items():
            note.print(plain(f"     {name}={value}"))
        for name in step.unset:
            note.print(plain(f"     unset {name}"))
    note.print(
        "if the present secret leaked, do not keep it: leave PREVIOUS_SECRET out of step 1, and its tokens end at once"
    )


def steps_of(jwt: JwtSettings, *, now: datetime, lifetime: timedelta, switch_within: timedelta) -> tuple[Step, ...]:
    """What to do, in the order in which no good token is ever refused.

    Replicas know the new secret before the issuer signs with it; they forget the old one after its last token ended.
    """
    new_id = f"{now:%Y%m%d}-{secrets.token_hex(2)}"
    switched = now + switch_within
    until = switched + lifetime + timedelta(seconds=jwt.leeway_seconds)
    return (
        Step(
            "set these and roll out every replica: from then on both secrets are good",
            {
                f"{_NAME}PREVIOUS_SECRET": "<the present secret>",
                f"{_NAME}PREVIOUS_SECRET_ID": jwt.secret_id or "<empty, as now>",
                f"{_NAME}PREVIOUS_SECRET_UNTIL": _moment(until),
                f"{_NAME}SECRET": "<the new secret>",
                f"{_NAME}SECRET_ID": new_id,
            },
        ),
        Step(
            f"then, before {_moment(switched)}, let the issuer sign with the new secret and the header `kid` {new_id}",
            {},
        ),
        Step(
            f"after {_moment(until)} the old secret is refused by itself; take it away with the next rollout",
            {},
            tuple(f"{_NAME}{name}" for name in ("PREVIOUS_SECRET", "PREVIOUS_SECRET_ID", "PREVIOUS_SECRET_UNTIL")),
        ),
    )


def _check(jwt: JwtSettings, now: datetime) -> None:
    if not jwt.enabled:
        raise Refused(
            ExitCode.BAD_SETTINGS, "tokens are off", fix=f"run this with the settings of the service ({_NAME}...)"
        )
    if jwt.secret is None:
        raise Refused(
            ExitCode.BAD_SETTINGS,
            "tokens are checked with public keys, and there is no secret here",
            fix="rotate at the issuer: a key set that is fetched is followed by itself; with "
            f"{_NAME}PUBLIC_KEYS, add the new key beside the old one under its `kid` first",
        )
    if jwt.previous_secret is None:
        return
    until = jwt.previous_secret_until
    if until is None or until > now:
        # The secret before the present one would have to go, and its tokens with it.
        raise Refused(
            ExitCode.FAILED,
            f"the last rotation goes on until {'somebody ends it' if until is None else _moment(until)}",
            fix=f"wait for it, or unset {_NAME}PREVIOUS_SECRET if it leaked",
        )


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
