"""`mfw check terraform`: every change of a plan, before it is applied."""

from typing import Final

from app.cli.checking.asking import Asked, Asks
from app.cli.checking.reading import Proposal, read_input
from app.cli.checking.results import Report
from app.core import strict_json
from app.core.plan import read_plan

# A plan of some ten thousand resources. What is read becomes ten times as much memory.
PLAN_BYTES_MAX: Final = 67_108_864
# A value may be as deep as in a mutation, and stands some levels below the plan.
_DEPTH_MAX: Final = strict_json.MAX_DEPTH + 6


def check_plan(file: str, *, proposal: Proposal, stack: str | None, asks: Asks) -> Report:
    """Ask about every change of a plan; `stack` goes before each address, so that ids say which stack they are of.

    Raises `Refused` and `FirewallError`.
    """
    body = read_input(file, most=PLAN_BYTES_MAX, what="plan", example="terraform show -json plan > plan.json")
    plan = read_plan(strict_json.parse(body, max_depth=_DEPTH_MAX, max_values=None).tree)
    places = () if file == "-" else (file,)
    asked = [
        Asked(
            one.address,
            one.action,
            proposal.mutation(
                action={"name": one.action, "properties": one.action_properties},
                resource={
                    "type": one.type,
                    "id": f"{stack}/{one.address}" if stack else one.address,
                    "properties": one.properties,
                },
                change=one.change,
                context={"terraform": {**one.context, **({"stack": stack} if stack else {})}},
            ),
            places,
        )
        for one in plan.changes
    ]
    notes = [f"resources that stay as they are: {plan.unchanged}"] if plan.unchanged else []
    return Report("plan", asks.ask(asked), notes)
