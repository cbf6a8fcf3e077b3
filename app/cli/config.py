"""`mfw config`: the settings in force, and the reference of all there are."""

import os
from dataclasses import asdict
from functools import reduce

from app.cli.exits import ExitCode
from app.cli.output import console, plain, table, write_json
from app.cli.reference import settings_reference
from app.settings import Settings, SettingsError, Variable, advice, value_text, variables


def run_check(*, as_json: bool) -> ExitCode:
    """Show the settings of this environment. Raises `SettingsError` with everything that is wrong, except for JSON."""
    settings, findings = Settings.examine(os.environ)
    problems = [finding.problem for finding in findings]
    hints = advice(settings)
    values = {variable.name: effective(settings, variable) for variable in variables()}
    if as_json:
        write_json(
            {
                "ok": not problems,
                "environment": settings.environment.value,
                "problems": [asdict(problem) for problem in problems],
                "advice": [asdict(hint) for hint in hints],
                "settings": values,
            }
        )
        return ExitCode.BAD_SETTINGS if problems else ExitCode.OK
    if problems:
        raise SettingsError(problems)
    listing = table("variable", "value", "", title=f"settings for {settings.environment.value}")
    for name, value in values.items():
        listing.add_row(name, plain(value), "set" if name in os.environ or f"{name}_FILE" in os.environ else "")
    out = console()
    out.print(listing)
    for hint in hints:
        out.print(f"advice: {hint}")
    out.print("the settings are complete")
    return ExitCode.OK


def effective(settings: Settings, variable: Variable) -> str:
    """One setting's value in force; a secret is masked."""
    if variable.name == "MFW_DATABASE__EMBEDDED":
        return value_text(settings.embedded_database)
    return value_text(reduce(getattr, variable.path, settings))


def run_reference(*, as_json: bool) -> None:
    """Write the table of every setting."""
    if as_json:
        write_json([asdict(variable) for variable in variables()])
    else:
        console().file.write(settings_reference())
