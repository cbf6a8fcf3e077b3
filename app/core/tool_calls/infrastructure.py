"""Command lines of Terraform and its relatives."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.core.tool_calls.effects import (
    Effect,
    at_least,
    command_effect,
    is_around,
    is_within,
    leads_straight,
    on_file,
    path_of,
)
from app.core.tool_calls.parts import Risk, riskier
from app.core.tool_calls.words import Word, set_of

WORKSPACE: Final = "terraform-workspace"

_READS: Final = set_of("version validate show output providers graph metadata get -version --version -help")
# What they do runs providers, or what a plan holds.
_RISKS: Final[Mapping[str, Risk]] = {
    "plan": Risk.RUNS,
    "init": Risk.RUNS,
    "test": Risk.RUNS,
    "fmt": Risk.CHANGES,
    "apply": Risk.CHANGES,
    "import": Risk.CHANGES,
    "refresh": Risk.CHANGES,
    "taint": Risk.DESTROYS,
    "untaint": Risk.CHANGES,
    "destroy": Risk.DESTROYS,
    "force-unlock": Risk.DESTROYS,
    "state": Risk.DESTROYS,
    "workspace": Risk.CHANGES,
}
_READING_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "state": frozenset({"list", "show", "pull"}),
    "workspace": frozenset({"list", "show"}),
    "fmt": frozenset({"-check"}),
}

# They read, by the providers that lie in the folder.
_ASKS_PROVIDERS: Final = frozenset({"validate", "show", "graph"})
# Options of `init` that copy a state elsewhere, bring code with them, or say where both come from.
_MOVES: Final = set_of("migrate-state force-copy from-module plugin-dir backend-config")
# Options with a file that is written.
_WRITES: Final = frozenset({"out", "generate-config-out"})


def _beyond(program: str, verb: str, options: list[str]) -> Risk:
    """What options add to a subcommand, and a wrapper of terraform to all of them."""
    names = {option.lstrip("-").partition("=")[0] for option in options if option.startswith("-")}
    if program == "terragrunt" or (verb == "init" and names & _MOVES):
        # Its configuration runs commands before and after every one of these.
        return Risk.UNKNOWN
    if verb in _ASKS_PROVIDERS or (verb in {"providers", "state"} and options[:1] in (["schema"], ["show"])):
        return Risk.RUNS
    if verb == "get" or (verb == "providers" and options[:1] in (["mirror"], ["lock"])):
        return Risk.CHANGES
    return Risk.READS


def terraform(
    program: str, words: tuple[Word, ...], *, cwd: str | None, home: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give what a command line does to the workspace in its folder; what would change, only a plan says.

    A folder has the providers that are run in it, so one outside of `home` may run anything.
    """
    folder, rest, strange = cwd, list(words), home is None
    while rest and rest[0].plain and rest[0].text.startswith("-chdir="):
        written = rest.pop(0).text.removeprefix("-chdir=")
        folder, strange = path_of(written, cwd), strange or not leads_straight(written)
    strange = strange or not (is_within(folder or ".", home or "") or is_around(folder or ".", home or ""))
    if not rest or not rest[0].plain:
        yield command_effect(program, words, Risk.UNKNOWN if rest else Risk.READS, said=said)
        return
    verb, options = rest[0].text, [word.text for word in rest[1:]]
    if verb in _READS or (options and options[0] in _READING_WORDS.get(verb, frozenset())):
        risk = Risk.READS
    else:
        risk = _RISKS.get(verb, Risk.UNKNOWN)
    if (
        any(option.lstrip("-").partition("=")[0] in {"destroy", "replace"} for option in options)
        and risk is not Risk.READS
    ):
        risk = Risk.RUNS if verb == "plan" else Risk.DESTROYS
    if verb == "workspace" and "delete" in options[:1]:
        risk = Risk.DESTROYS
    if risk is not Risk.DESTROYS:
        risk = riskier((risk, _beyond(program, verb, options)))
    if strange or any(not word.static for word in rest):
        risk = at_least(risk, Risk.UNKNOWN)
    after: dict[str, Any] = {"arguments": [verb, *options], **said}
    if any(option.lstrip("-").startswith("auto-approve") for option in options):
        after["auto_approve"] = True
    for option in options:
        name, _, file = option.lstrip("-").partition("=")
        if name in _WRITES and file:
            yield on_file("write", Word(file), cwd=folder, risk=Risk.CHANGES, program=program)
    yield Effect(verb.lstrip("-"), risk, WORKSPACE, folder or ".", {"after": after}, {}, {"program": program})
