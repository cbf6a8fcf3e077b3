"""What one evaluation may cost: a unit is one node of an expression in a loop, or ten characters walked over.

The counter is a list of one number, for a list can be passed around and counted down without an attribute.
"""

from app.core.cel.values import BudgetError

# As in Kubernetes: a limit per expression. It bounds the time (about a tenth of a second) and, since what is produced
# is paid for as well, the memory: no more than ten million characters come out of one expression.
STEPS_MAX = 1_000_000
# As in Kubernetes: a limit per policy, for all of its expressions and the variables they read together. It bounds a
# policy to about a second; whoever has more than ten expressions cannot make a decision take ten times as long.
POLICY_STEPS_MAX = 10_000_000
CHARACTERS_PER_STEP = 10

Budget = list[int]


def spend(budget: Budget, steps: int) -> None:
    """Pay for steps.

    Raises:
        BudgetError: nothing is left.
    """
    budget[0] -= steps
    if budget[0] < 0:
        raise too_expensive()


def too_expensive() -> BudgetError:
    """Make the error of an evaluation that has nothing left to spend."""
    return BudgetError(f"the evaluation takes more than {STEPS_MAX} steps")


def charge(allowance: Budget, budget: Budget) -> None:
    """Take what an evaluation that began with `STEPS_MAX` has spent from the allowance of its policy.

    Raises:
        BudgetError: the policy has nothing left.
    """
    allowance[0] -= STEPS_MAX - budget[0]
    if allowance[0] < 0:
        raise policy_too_expensive()


def policy_too_expensive() -> BudgetError:
    """Make the error of a policy that has nothing left to spend."""
    return BudgetError(f"the policy takes more than {POLICY_STEPS_MAX} steps in all")


def spend_characters(budget: Budget, characters: int) -> None:
    """Pay for walking over, or making, a text, bytes or a list of this length.

    Raises:
        BudgetError: nothing is left.
    """
    if characters >= CHARACTERS_PER_STEP:
        budget[0] -= characters // CHARACTERS_PER_STEP
        if budget[0] < 0:
            raise too_expensive()
