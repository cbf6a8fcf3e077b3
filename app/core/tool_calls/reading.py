"""From a tool's name and its arguments to what the call would do."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from app.core import members
from app.core.tool_calls.commands import script_effects, words_effects
from app.core.tool_calls.databases import statement_effect
from app.core.tool_calls.editing import FILE_TOOLS, file_effects
from app.core.tool_calls.effects import Effect, command_effect
from app.core.tool_calls.hints import checked_hints, raised
from app.core.tool_calls.names import checked
from app.core.tool_calls.parts import Risk, ToolCall
from app.core.tool_calls.words import Word, set_of
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

TOOL: Final = "tool"
CALL: Final = "call"

# What one call may do at a time; of more it is not looked at what each is.
MAX_PARTS: Final = 64
# As much of a command line as an approver sees beside each thing that it does; the digest is over the change as well.
MAX_SHOWN: Final = 4096

# Without a server these are tools of an agent's own program, and what they do is what their command says.
_SHELLS: Final = set_of("Bash")
# This one runs a command as well, or watches something else: what it reads goes to the model, call by call.
_WATCHES: Final = set_of("Monitor")
# Of its arguments the command stands beside each part, and what the agent says about it is no part of what is done.
_TOLD_ELSEWHERE: Final = frozenset({"command", "description"})
# Elsewhere a tool of such a name, with such an argument, runs a command beside whatever else it does.
_SHELL_NAMES: Final = set_of(
    """
    bash shell sh terminal execute_command run_command run_shell_command run_terminal_cmd run_in_terminal local_shell
    exec execute execute_bash execute_shell shell_exec run_bash run_shell exec_command command powershell
    """
)
_SQL_NAMES: Final = set_of(
    "query sql execute_sql run_query execute_query run_sql read_query write_query query_database pg_query"
)
_SQL_ARGUMENTS: Final = ("sql", "query", "statement")
_DIALECTS: Final[Mapping[str, str]] = {
    "postgres": "postgres",
    "postgresql": "postgres",
    "pg": "postgres",
    "supabase": "postgres",
    "neon": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
    "mssql": "tsql",
    "sqlserver": "tsql",
    "oracle": "oracle",
    "bigquery": "bigquery",
    "snowflake": "snowflake",
    "redshift": "redshift",
    "databricks": "databricks",
    "duckdb": "duckdb",
    "clickhouse": "clickhouse",
    "trino": "trino",
}


def read_tool_call(
    name: str,
    arguments: Any,
    *,
    hints: Mapping[str, Any] | None = None,
    server: str | None = None,
    cwd: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> ToolCall:
    """Say what a tool call would do, as mutations without a subject.

    Of a tool about which nothing is known the one part is: action `call`, resource `tool` with the id `SERVER/NAME` (or
    `NAME` where no server is named; neither can have a slash in it), `change.after` the arguments as they are. The
    tools
    of an agent's own program, which have no server, are known by their exact names: what a shell runs is read, a file
    that is edited has its texts before and after. A tool of a server whose name and arguments look like such a one has
    what could be read beside its call: it may do more than its arguments say, and never gets away with less.
    `context` is what else is known of the call; `tool`, `cwd` and `command` in it are written here.

    Raises: FirewallError(MALFORMED) for a name with more than one reading, arguments that are no object, a hint that is
    no boolean, arguments of a known tool that have not its shape.
    Does not check: the arguments of other tools against their schema.
    """
    checked(name, pointer="/name")
    if server is not None:
        checked(server, pointer="/server", what="server")
    if not isinstance(arguments, dict):
        raise members.refuse_type(arguments, expected="an object", pointer="/arguments")
    told = checked_hints(hints, pointer="/annotations")
    about: JsonObject = {"name": name}
    if server is not None:
        about["server"] = server
    if told:
        about["hints"] = told
    around: JsonObject = {**(context or {}), "tool": about}
    around.pop("command", None)
    if cwd is not None:
        around["cwd"] = cwd
    command = arguments.get("command", arguments.get("cmd"))
    if isinstance(command, str) and command:
        around["command"] = command if len(command) <= MAX_SHOWN else f"{command[: MAX_SHOWN - 1]}…"
    if server is None and name in _SHELLS:
        # How it is run, beside what: whether outside of a sandbox.
        if options := {key: value for key, value in arguments.items() if key not in _TOLD_ELSEWHERE}:
            about["options"] = options
        effects = _shell(arguments, cwd)
    elif server is None and name in FILE_TOOLS:
        effects = file_effects(name, arguments, cwd=cwd)
    else:
        effects = _foreign(name, arguments, server, cwd)
    parts = [effect._replace(risk=raised(effect.risk, told)).part(around) for effect in islice(effects, MAX_PARTS + 1)]
    if len(parts) > MAX_PARTS:
        many = command_effect(
            "unknown", (), Risk.UNKNOWN, text=around.get("command", ""), unreadable="too much at once"
        )
        parts = [many.part(around)]
    if not parts:
        # An empty command, a comment: nothing is done, and somebody asked whether it may be.
        parts = [command_effect(":", (), Risk.READS).part(around)]
    return ToolCall(name, server, tuple(parts))


def _foreign(name: str, arguments: JsonObject, server: str | None, cwd: str | None) -> Iterator[Effect]:
    """A tool of which its name and arguments are known: its call, and what else these say."""
    properties: JsonObject = {"name": name}
    if server is not None:
        properties["server"] = server
    identifier = name if server is None else f"{server}/{name}"
    yield Effect(CALL, Risk.RUNS, TOOL, identifier, {"after": arguments}, properties)
    if name.lower().replace("-", "_") in _SHELL_NAMES or (server is None and name in _WATCHES):
        command = arguments.get("command", arguments.get("cmd"))
        if isinstance(command, str) and command:
            yield from script_effects(command, cwd=cwd)
        elif isinstance(command, list) and command and all(isinstance(word, str) for word in command):
            yield from words_effects(tuple(Word(word) for word in command), cwd=cwd)
        elif command is not None:
            yield command_effect("unknown", (), Risk.UNKNOWN, unreadable="a command that is neither a text nor words")
    if name.lower().replace("-", "_") in _SQL_NAMES:
        text = next((arguments[one] for one in _SQL_ARGUMENTS if isinstance(arguments.get(one), str)), "")
        dialect = _dialect(name, server, arguments)
        if text and dialect is not None:
            yield statement_effect(text, dialect=dialect, database=server or name, program=name)


def _dialect(name: str, server: str | None, arguments: JsonObject) -> str | None:
    """The dialect that a tool names, or its server does; a text in none that is known stays an argument."""
    said = arguments.get("dialect")
    words = f"{said if isinstance(said, str) else ''} {server or ''} {name}".lower()
    for word in words.replace("-", " ").replace("_", " ").replace(".", " ").split():
        if word in _DIALECTS:
            return _DIALECTS[word]
    return None


def _shell(arguments: JsonObject, cwd: str | None) -> Iterator[Effect]:
    command = arguments.get("command")
    if not isinstance(command, str):
        raise FirewallError(
            Kind.MALFORMED, "`command` is not a string", pointer="/arguments/command", fix="send the call as it is"
        )
    return script_effects(command, cwd=cwd)
