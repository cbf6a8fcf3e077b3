"""Command lines of database clients, and tools that are given SQL: statements that the SQL normaliser reads."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from app.core.tool_calls.effects import Effect, command_effect
from app.core.tool_calls.parts import Risk
from app.core.tool_calls.words import Word, set_of

DATABASE: Final = "sql/Database"


class Client(NamedTuple):
    """A client: its dialect, the options that hold statements, those that name the database, and all others."""

    dialect: str
    statements: frozenset[str]
    database: frozenset[str]
    values: frozenset[str]
    flags: frozenset[str]
    # Whether statements follow the database as operands.
    behind: bool = False


_MYSQL: Final = Client(
    "mysql",
    set_of("-e --execute"),
    set_of("-D --database"),
    set_of("-h --host -P --port -u --user -S --socket --protocol --default-character-set"),
    set_of(
        "-N -B -s -t -r -v -f --batch --skip-column-names --silent --table --raw --force -p --password --vertical -E"
    ),
)
CLIENTS: Final[Mapping[str, Client]] = {
    "psql": Client(
        "postgres",
        set_of("-c --command"),
        set_of("-d --dbname"),
        set_of("-h --host -p --port -U --username -v --set --variable -P --pset -F -R -T"),
        set_of(
            """
            -A -a -b -E -e -H -n -q -S -t -w -W -X -x -1 -z -0 --no-psqlrc --quiet
            --tuples-only --no-align --csv --expanded --echo-all --single-transaction
            --no-password
            """
        ),
    ),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite3": Client(
        "sqlite",
        set_of("-cmd"),
        frozenset(),
        set_of("-separator -nullvalue -newline -maxsize"),
        set_of(
            "-batch -bail -column -csv -header -noheader -html -json -line -list -markdown -readonly -table -box -echo"
        ),
        behind=True,
    ),
    "duckdb": Client(
        "duckdb",
        set_of("-c -s"),
        frozenset(),
        set_of("-separator -nullvalue"),
        set_of("-batch -bail -column -csv -header -json -line -list -markdown -readonly -table -box -echo"),
        behind=True,
    ),
}


def effects(
    program: str, words: tuple[Word, ...], *, cwd: str | None, stdin: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give one effect for each text of statements; where one may come from elsewhere, a command of unknown risk."""
    del cwd
    client = CLIENTS[program]
    if len(words) == 1 and words[0].text in {"--version", "-V", "--help"}:
        yield command_effect(program, words, Risk.READS, said=said)
        return
    texts: list[str] = []
    names: list[str] = []
    known = all(word.static for word in words)
    at = 0
    while at < len(words) and known:
        text = words[at].text
        name, equals, value = text.partition("=")
        short = text[:2] if len(text) > 2 and text[1] != "-" else ""
        if not text.startswith("-") or text == "-":
            (texts if client.behind and names else names).append(text)
        elif equals and name.startswith("--") and name in client.statements:
            texts.append(value)
        elif equals and name.startswith("--") and name in client.database:
            names.append(value)
        elif equals and name.startswith("--") and name in client.values | client.flags:
            pass
        elif text in client.statements | client.database | client.values:
            at += 1
            if at >= len(words):
                known = False
            elif text in client.statements:
                texts.append(words[at].text)
            elif text in client.database:
                names.append(words[at].text)
        elif text in client.flags or (short in client.values) or short == "-p":
            pass
        elif short and f"-{text[-1]}" in client.statements and all(f"-{one}" in client.flags for one in text[1:-1]):
            at += 1
            if at >= len(words):
                known = False
            else:
                texts.append(words[at].text)
        elif short in client.statements:
            texts.append(text[2:])
        elif not (short and all(f"-{one}" in client.flags for one in text[1:])):
            known = False
        at += 1
    if not texts and stdin is not None:
        texts.append(stdin)
    # `\!`, `.shell`, `system`: commands of the client, which run programs and read files.
    if not known or not texts or any(_commands(text, client) for text in texts):
        yield command_effect(program, words, Risk.UNKNOWN, said=said, **({} if texts else {"input": "stdin"}))
        return
    for text in texts:
        yield statement_effect(text, dialect=client.dialect, database=names[0] if names else "-", program=program)


def _commands(text: str, client: Client) -> bool:
    # What stands behind a statement is looked at anew by some clients.
    lines = [line.lstrip() for line in re.split(r"[\n\r;]", text)]
    if client.dialect in {"sqlite", "duckdb"}:
        return any(line.startswith((".", "#")) for line in lines)
    return "\\" in text or any(line.lower().startswith(("system", "source", "tee", "pager", "edit")) for line in lines)


def statement_effect(text: str, *, dialect: str, database: str, program: str) -> Effect:
    """SQL that is run on a database; how far it reaches the normaliser says, not this."""
    return Effect(
        "execute",
        Risk.CHANGES,
        DATABASE,
        database,
        {"statement": {"dialect": dialect, "text": text}},
        {},
        {"program": program},
    )
