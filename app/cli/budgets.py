"""`--budget POLICY/BUDGET=USED`: how much of budgets a rehearsal assumes to be used."""

import re
from collections.abc import Sequence
from typing import Final

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.budgets import Assumed, Count
from app.core.index import CompiledPolicySet
from app.policies.budgets import unknown_budgets

_WRITTEN: Final = re.compile(r"([^/=\s]+)/([^/=\s]+)=([0-9]{1,7})(,seen)?\Z")


def read_used(texts: Sequence[str], *, policy_set: CompiledPolicySet) -> Assumed:
    """Read the values of the option; what is not named is unused. Raises `Refused`."""
    counters = Assumed()
    for text in texts:
        match = _WRITTEN.match(text)
        if match is None:
            raise Refused(
                ExitCode.USAGE,
                f"`{text[:80]}` does not say how much of which budget is used",
                fix="write POLICY/BUDGET=USED, for example `prod-changes/objects-per-hour=20`; with `,seen` behind it "
                "the value of this mutation is among those that are counted",
            )
        policy, budget, used, seen = match.groups()
        counters[policy, budget] = Count(int(used), seen is not None)
    if unknown := unknown_budgets(counters, policy_set):
        raise Refused(ExitCode.USAGE, f"there is no budget `{unknown[0]}`", fix="look for `budgets` in the policies")
    return counters
