"""`mfw policies`: what the service would say about a directory of policies, before it has to."""

from pathlib import Path

from app.cli.output import console, write_json
from app.policies.load import load_directory


def run_check(directory: Path, *, as_json: bool) -> None:
    """Show what a directory holds. Raises `PolicyErrors` with everything that is wrong."""
    policy_set = load_directory(directory)
    policies, rules = len(policy_set.policies), len(policy_set.rules)
    if as_json:
        write_json({"ok": True, "policies": policies, "rules": rules, "policy_set": policy_set.digest})
    else:
        console().print(f"{policies} policies with {rules} rules are good\npolicy set {policy_set.digest}")
