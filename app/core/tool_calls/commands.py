"""From simple commands to what they do: wrappers are taken off, and what is run inside is read as well."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final, NamedTuple

from app.core.tool_calls import containers, databases, files, git, infrastructure
from app.core.tool_calls.effects import Effect, command_effect, leads_straight, on_file, path_of
from app.core.tool_calls.parts import Risk, riskier
from app.core.tool_calls.programs import (
    DESTROYERS,
    DESTROYING_SUBCOMMANDS,
    INLINE_CODE,
    INTERPRETERS,
    NAMING_OPTIONS,
    OTHER_SHELLS,
    OWN_WORDS,
    READERS,
    READING_SUBCOMMANDS,
    RUN_ANOTHER,
    RUNNERS,
    SHELLS,
    USUAL_FOLDERS,
    WRAPPERS,
    Wrapper,
    has_word,
    names_program,
    only_reads,
    only_shows,
    steers,
)
from app.core.tool_calls.shell import Assignment, Command, Redirection, Script, read_script
from app.core.tool_calls.words import UnreadableError, Word, set_of

# Shells in shells in shells: beyond this nobody means well.
MAX_NESTING: Final = 5

_NULL: Final = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/stdin", "/dev/zero"})
_MOVES: Final = set_of("cd pushd popd chdir")
# What runs a text in the shell itself, and what may stand before these. A trap for the end is behind all commands.
_SOURCES: Final = set_of("eval source .")
_AT_THE_END: Final = frozenset({"EXIT", "0"})
_BEFORE_BUILTINS: Final = set_of("command builtin time !")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
# Builtins that evaluate a subscript, and with it a command in one.
_EVALUATING: Final = set_of("printf test [ read unset declare typeset local export readonly wait set let")
_DECLARING: Final = set_of("declare typeset export readonly local unset")
_ASSIGNED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\[[0-9]*\])?\+?=")
_NAME_IN: Final = re.compile(r"[\[+=]")
_OWN_VALUE: Final = re.compile(r"\$[?#$!]")
# `set -k` would take every word like `PATH=x` for a variable.
_SETS: Final = re.compile(r"[-+][euxvCfn]*o?|pipefail|errexit|nounset|xtrace|noclobber|noglob|verbose|posix")
_HERE: Final = Word("{}", static=False)
_FIND_RUNS: Final = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
_FIND_WRITES: Final = frozenset({"-fprint", "-fprint0", "-fprintf", "-fls"})
_XARGS: Final = Wrapper(
    # Without `--arg-file`: what it names is shown, and would stand nowhere.
    set_of("-n -I -L -P -d -s -E --max-args --max-procs --delimiter --replace --max-lines"),
    set_of("-0 -r -t -x -p --null --no-run-if-empty --verbose --interactive --exit"),
)
# Options of wrappers by which the command runs in another folder; the value may be in the same word.
_OTHER_FOLDER: Final = ("-C", "-D", "--chdir", "--directory")
_AWK_READS: Final = re.compile(r"(?!.*(?:system|getline|close|printf?\s*\(?.*>|\||>|@))", re.DOTALL)
_SED_READS: Final = re.compile(
    r"(?:(?:[0-9]+|\$|/[^/\\\n]*/)(?:,(?:[+~]?[0-9]+|\$|/[^/\\\n]*/))?)?!?[pdqQ=]"
    r"|(?:[0-9,$]*)s([/|#,:])(?:(?!\1)[^\\\n]|\\[^\n])*\1(?:(?!\1)[^\\\n]|\\[^\n])*\1[gpiI0-9]*"
)


class Around(NamedTuple):
    """What surrounds a command: where it runs, what it is wrapped in, how deep.

    `home` is the folder that the agent works in; `lost` means that the command runs in another, nobody knows which.
    """

    cwd: str | None
    home: str
    depth: int = 0
    wrappers: tuple[str, ...] = ()
    variables: tuple[Assignment, ...] = ()
    least: Risk = Risk.READS
    lost: bool = False

    def said(self) -> Mapping[str, Any]:
        """What of it the change of a command says."""
        said: dict[str, Any] = {}
        if self.wrappers:
            said["wrappers"] = list(self.wrappers)
        if self.variables:
            said["variables"] = {one.name: one.value.text for one in self.variables}
        return said


def script_effects(text: str, *, cwd: str | None, inside: Around | None = None) -> Iterator[Effect]:
    """Give everything that a text would do if a shell ran it; what cannot be read is one effect of unknown risk.

    `inside` is what surrounds a text that is run by another.
    """
    around = _at(cwd) if inside is None else inside._replace(depth=inside.depth + 1, wrappers=(), variables=())
    if around.depth > MAX_NESTING:
        yield _unreadable(text, f"more than {MAX_NESTING} shells in one another")
        return
    try:
        effects = _effects(read_script(text), around._replace(cwd=cwd, least=Risk.READS))
    except UnreadableError as error:
        effects = [_unreadable(text, str(error))]
    yield from effects


def _unreadable(text: str, reason: str) -> Effect:
    return command_effect("unknown", (), Risk.UNKNOWN, text=text, unreadable=reason)


def words_effects(words: tuple[Word, ...], *, cwd: str | None) -> Iterator[Effect]:
    """Give what a command would do that no shell reads: a list of arguments."""
    yield from command_effects(Command(words, (), None, ""), _at(cwd))


def _at(cwd: str | None) -> Around:
    """What surrounds the first command of a call."""
    return Around(cwd, path_of(cwd, None) if cwd else ".")


def _effects(script: Script, around: Around) -> list[Effect]:
    around = _moved(script, around)
    found: list[Effect] = []
    for assignment in script.assignments:
        if steers(assignment.name):
            value = {"name": assignment.name, "value": assignment.value.text}
            found.append(Effect("set", Risk.UNKNOWN, "shell/Variable", assignment.name, {"after": value}))
    for command in script.commands:
        found.extend(command_effects(command, around))
    for redirection in script.redirections:
        found.extend(_redirected(redirection, around.cwd))
    return found


def _moved(script: Script, around: Around) -> Around:
    """Where a script runs: after `cd FOLDER && ...` there, after any other move nobody knows."""
    moves = [
        at
        for at, one in enumerate(script.commands)
        if any(word.text in _MOVES for word in one.words) or _runs_here(one.words)
    ]
    if not moves:
        return around
    words = script.commands[0].words
    known = moves == [0] and script.chained and len(words) == 2 and words[0].text == "cd" and words[1].plain
    if not known or words[1].text.startswith("-"):
        return around._replace(cwd=None, lost=True)
    folder = words[1].text
    return around._replace(cwd=path_of(folder, around.cwd), lost=around.lost or not leads_straight(folder))


def _runs_here(words: tuple[Word, ...]) -> bool:
    """Whether it runs a text in the shell itself, which may move, before another command comes."""
    rest = [word.text for word in words if word.text not in _BEFORE_BUILTINS and not word.text.startswith("-")]
    if rest[:1] == ["trap"]:
        return any(signal not in _AT_THE_END for signal in rest[2:])
    return bool(rest) and rest[0] in _SOURCES


def _redirected(redirection: Redirection, cwd: str | None) -> Iterator[Effect]:
    target = redirection.target
    if target.static and target.text in _NULL:
        return
    if redirection.operator == "<":
        yield files.reading(target, cwd=cwd, program="<")
        return
    yield on_file("write", target, cwd=cwd, risk=Risk.CHANGES, program=redirection.operator)


def command_effects(command: Command, around: Around) -> Iterator[Effect]:
    """Give what one simple command does."""
    words = command.words
    if not words:
        return
    around = around._replace(variables=(*around.variables, *command.assignments))
    if any(steers(one.name) for one in command.assignments):
        around = around._replace(least=Risk.UNKNOWN)
    first = words[0]
    if not first.plain or not first.text or first.text.startswith(("=", "-")):
        yield command_effect("unknown", words, Risk.UNKNOWN, said=around.said(), unreadable="what is run is not known")
        return
    program, rest = _program(first.text), words[1:]
    if program in WRAPPERS:
        yield from _wrapped(program, rest, WRAPPERS[program], command, around)
        return
    if rest and rest[0].plain and (program, rest[0].text) in RUNNERS:
        name = f"{program} {rest[0].text}"
        yield from _wrapped(name, rest[1:], RUNNERS[program, rest[0].text], command, around)
        return
    if program in OWN_WORDS and rest and rest[0].plain and rest[0].text not in OWN_WORDS[program] | {"--version", "-v"}:
        yield from _wrapped(program, rest, Wrapper(raises=True), command, around)
        return
    reader = _SPECIAL.get(program)
    found = reader(program, rest, command, around) if reader is not None else _ordinary(program, rest, around)
    for effect in found:
        yield effect._replace(risk=riskier((effect.risk, around.least)))


def _program(written: str) -> str:
    """The name of a program: without its folder where everybody has it there."""
    folder, slash, name = written.rpartition("/")
    return name if slash and folder in USUAL_FOLDERS and name else written


def _wrapped(
    name: str, words: tuple[Word, ...], wrapper: Wrapper, command: Command, around: Around
) -> Iterator[Effect]:
    """What a wrapper runs; an option of it that is not known here makes all of it unknown."""
    if name == "command" and words and words[0].text in {"-v", "-V"}:
        yield command_effect(name, words, Risk.READS, said=around.said())
        return
    rest = _behind_options(words, wrapper)
    if rest is None or len(rest) < wrapper.operands:
        yield command_effect(name, words, Risk.UNKNOWN, said=around.said())
        return
    rest = rest[wrapper.operands :]
    variables = list(around.variables)
    least = riskier((around.least, Risk.RUNS)) if wrapper.raises else around.least
    while name in {"env", "sudo", "doas"} and rest and (found := _ASSIGNMENT.fullmatch(rest[0].text)):
        variables.append(Assignment(found[1], Word(found[2], static=rest[0].static)))
        least = Risk.UNKNOWN if steers(found[1]) else least
        rest = rest[1:]
    if not rest:
        risk = Risk.READS if name in {"env", "exec", "command", "builtin", "time"} else Risk.UNKNOWN
        yield command_effect(name, words, riskier((risk, least)), said=around.said())
        return
    inner = around._replace(wrappers=(*around.wrappers, name), variables=tuple(variables), least=least)
    if any(word.text.startswith(_OTHER_FOLDER) for word in words[: len(words) - len(rest)]):
        inner = inner._replace(cwd=None, lost=True)
    yield from command_effects(command._replace(words=rest, assignments=()), inner)


def _behind_options(words: tuple[Word, ...], wrapper: Wrapper) -> tuple[Word, ...] | None:
    at = 0
    while at < len(words):
        word = words[at]
        if not word.static:
            return words[at:]
        if word.text == "--":
            return words[at + 1 :]
        if not word.text.startswith("-") or word.text == "-":
            return words[at:]
        if word.text in wrapper.values:
            at += 2
        elif _is_option(word.text, wrapper):
            at += 1
        else:
            return None
    return ()


def _is_option(text: str, wrapper: Wrapper) -> bool:
    """Whether a word is an option that is known here, with its value in it if it takes one."""
    name, equals, _ = text.partition("=")
    if text.startswith("--"):
        return text in wrapper.flags or (bool(equals) and name in wrapper.values | wrapper.flags)
    return (
        text in wrapper.flags
        or re.fullmatch(r"-[0-9]+", text) is not None
        or (len(text) > 2 and text[:2] in wrapper.values)
        or (len(text) > 2 and all(f"-{letter}" in wrapper.flags for letter in text[1:]))
    )


def _ordinary(program: str, words: tuple[Word, ...], around: Around) -> Iterator[Effect]:
    """A program that is known by its name at most."""
    said = around.said()
    if program in RUN_ANOTHER or (program in NAMING_OPTIONS and names_program(program, words)):
        risk = Risk.UNKNOWN
    elif program in READERS:
        risk = Risk.READS if only_reads(READERS[program], words) else Risk.RUNS
        if risk is Risk.RUNS and any(not word.static for word in words):
            risk = Risk.UNKNOWN
        if (
            program in _EVALUATING and any("$(" in word.text or "`" in word.text for word in words if word.static)
        ) or _gives_anything(program, words):
            risk = Risk.UNKNOWN
    elif program in DESTROYERS or has_word(words, DESTROYING_SUBCOMMANDS.get(program, frozenset())):
        risk = Risk.DESTROYS
    elif program in READING_SUBCOMMANDS and words and words[0].plain and words[0].text in READING_SUBCOMMANDS[program]:
        risk = Risk.READS if only_shows(program, words[1:]) else Risk.UNKNOWN
    elif INTERPRETERS.fullmatch(program):
        risk = _interpreted(words)
        if risk is Risk.UNKNOWN:
            said = {**said, "input": "code"}
    elif program in OTHER_SHELLS:
        risk = Risk.RUNS if words and words[0].plain and not words[0].text.startswith("-") else Risk.UNKNOWN
    elif program.startswith("mkfs."):
        risk = Risk.DESTROYS
    elif program in {"source", "."}:
        risk = Risk.RUNS if words and not _is_stream(words[0]) else Risk.UNKNOWN
    else:
        risk = Risk.RUNS
    yield command_effect(program, words, risk, said=said)


def _gives_anything(program: str, words: tuple[Word, ...]) -> bool:
    """Whether a builtin gives a value to a variable that steers, or to one of which the name is not known."""
    texts = [word.text for word in words]
    if program in _DECLARING:
        # `-n` makes one name stand for another, `-i` calculates what is assigned later.
        strange = any(re.fullmatch(r"[-+][A-Za-z]+", one) and set(one[1:]) & {"n", "i"} for one in texts)
        # What the parser took for an assignment is one of the script's.
        others = [word for word in words if word.static or not _ASSIGNED.match(word.text)]
        return strange or any(
            not word.static or "\\" in word.text or steers(_NAME_IN.split(word.text, maxsplit=1)[0]) for word in others
        )
    if program == "read":
        return any(not word.static or steers(_NAME_IN.split(word.text, maxsplit=1)[0]) for word in words)
    if program in {"printf", "wait"}:
        into = "-v" if program == "printf" else "-p"
        named = [texts[at + 1] if one == into else one[2:] for at, one in enumerate(texts[:-1]) if one.startswith(into)]
        return bool(words and not words[0].static) or any(
            steers(_NAME_IN.split(one, maxsplit=1)[0]) or not one.replace("_", "a").isalnum() for one in named
        )
    if program in {"test", "["}:
        first = texts[0] if texts else ""
        # Split into words, what is not in quotes may be `-v` and a name.
        bare = bool(words) and not words[0].static and not first.startswith('"') and not _OWN_VALUE.fullmatch(first)
        return bare or ("-v" in texts and any(not word.static for word in words))
    return program == "set" and not all(
        word.static and _SETS.fullmatch(word.text) for word in itertools.takewhile(lambda one: one.text != "--", words)
    )


def _interpreted(words: tuple[Word, ...]) -> Risk:
    if len(words) == 1 and words[0].plain and words[0].text in {"--version", "-V", "-v", "--help"}:
        return Risk.READS
    for word in words:
        if not word.static:
            return Risk.UNKNOWN
        if word.text == "-m":
            return Risk.RUNS
        if word.text in INLINE_CODE or (re.fullmatch(r"-[A-Za-z]+", word.text) and set(word.text) & set("ceEpn")):
            return Risk.UNKNOWN
        if not word.text.startswith("-"):
            return Risk.UNKNOWN if _is_stream(word) else Risk.RUNS
    return Risk.UNKNOWN


def _shell(program: str, words: tuple[Word, ...], command: Command, around: Around) -> Iterator[Effect]:
    """`sh`, `bash`: the code it is given is read, a file with code is run, and what comes by a pipe is not known."""
    at = 0
    while at < len(words):
        word = words[at]
        text = word.text
        if not word.static:
            break
        if text in {"-o", "+o", "-O", "+O"}:
            at += 2
        elif re.fullmatch(r"[-+][A-Za-z]+", text):
            at += 1
            if "c" in text and text.startswith("-"):
                if at < len(words) and words[at].static and not words[at].text.startswith(("-", "+")):
                    yield from _code(words[at].text, around, program)
                    return
                break
            elif "s" in text:
                at = len(words)
        elif text in {"--login", "--norc", "--noprofile", "--posix", "--verbose"}:
            at += 1
        elif text.startswith("-") and text not in {"-", "--"}:
            break
        else:
            if text in {"-", "--"}:
                at += 1
            if at < len(words) and words[at].static and not _is_stream(words[at]):
                yield command_effect(program, words, Risk.RUNS, said=around.said(), input="file")
                return
            if at < len(words) and words[at].static:
                yield command_effect(program, words, Risk.UNKNOWN, said=around.said(), input="stdin")
                return
            break
    if at >= len(words) and command.stdin is not None:
        yield from _code(command.stdin, around, program)
        return
    yield command_effect(
        program, words, Risk.UNKNOWN, said=around.said(), input="stdin" if at >= len(words) else "code"
    )


def _is_stream(word: Word) -> bool:
    """Whether a file is none: `/dev/stdin` brings what a pipe does."""
    return not word.static or word.text.startswith(("/dev/", "/proc/"))


def _code(text: str, around: Around, name: str) -> Iterator[Effect]:
    """Code that is given as a text: what it does, wrapped in what runs it."""
    least = around.least
    for effect in script_effects(text, cwd=around.cwd, inside=around):
        change = effect.change
        if effect.of == "shell/Command":
            change = {
                "after": {**change["after"], "wrappers": [*around.wrappers, name, *change["after"].get("wrappers", ())]}
            }
        yield effect._replace(risk=riskier((effect.risk, least)), change=change)


def _eval(program: str, words: tuple[Word, ...], _command: Command, around: Around) -> Iterator[Effect]:
    """`eval`, `watch`: the words are put together and read as code."""
    if words and all(word.plain for word in words) and not words[0].text.startswith("-"):
        yield from _code(" ".join(word.text for word in words), around, program)
    else:
        yield command_effect(program, words, Risk.UNKNOWN, said=around.said(), input="code")


def _trap(program: str, words: tuple[Word, ...], _command: Command, around: Around) -> Iterator[Effect]:
    if words and words[0].plain and words[0].text in {"-", "-l", "-p", ""}:
        yield command_effect(program, words, Risk.READS, said=around.said())
    elif words and words[0].static:
        yield from _code(words[0].text, around, program)
    else:
        yield command_effect(program, words, Risk.UNKNOWN, said=around.said(), input="code")


def _xargs(program: str, words: tuple[Word, ...], command: Command, around: Around) -> Iterator[Effect]:
    """`xargs`: a command, and words behind it that nobody knows yet."""
    rest = _behind_options(words, _XARGS)
    if rest is None:
        yield command_effect(program, words, Risk.UNKNOWN, said=around.said())
        return
    # What stands for the words that come can be any text, or a part of one: `-I X sh -c 'rm X'`.
    marks = {"{}"}
    for one, other in pairwise(words):
        if one.text in {"-I", "--replace"}:
            marks.add(other.text)
    marks.update(word.text[2:] for word in words if word.text.startswith(("-I", "-i")) and len(word.text) > 2)
    marks.update(word.text.partition("=")[2] for word in words if word.text.startswith("--replace="))
    run = tuple(
        word._replace(static=False) if any(mark and mark in word.text for mark in marks) else word for word in rest
    )
    inner = around._replace(wrappers=(*around.wrappers, program))
    yield from command_effects(Command((*(run or (Word("echo"),)), _HERE), (), None, command.source), inner)


def _find(program: str, words: tuple[Word, ...], command: Command, around: Around) -> Iterator[Effect]:
    """`find`: what it deletes, what it writes, and what it runs for each file."""
    if any(not word.static for word in words):
        yield command_effect(program, words, Risk.UNKNOWN, said=around.said())
        return
    starts = []
    for word in words:
        if word.text.startswith(("-", "(", "!")):
            break
        starts.append(word)
    yield command_effect(program, words, Risk.READS, said=around.said())
    at = 0
    while at < len(words):
        text = words[at].text
        if text == "-delete":
            for start in starts or [Word(".")]:
                yield on_file("delete", start, cwd=around.cwd, risk=Risk.DESTROYS, program=program, recursive=True)
        elif text in _FIND_WRITES and at + 1 < len(words):
            yield on_file("write", words[at + 1], cwd=around.cwd, risk=Risk.CHANGES, program=program)
        elif text in _FIND_RUNS:
            end = next((i for i in range(at + 1, len(words)) if words[i].text in {";", "+"}), len(words))
            run = tuple(_HERE if "{}" in word.text else word for word in words[at + 1 : end])
            inner = around._replace(wrappers=(*around.wrappers, program), cwd=None, lost=True)
            yield from command_effects(Command(run, (), None, command.source), inner)
            at = end
        at += 1


def _awk(program: str, words: tuple[Word, ...], _command: Command, around: Around) -> Iterator[Effect]:
    """`awk`: its program can write and run, so only one without the words for it reads."""
    rest = list(words)
    while rest and rest[0].plain and re.match(r"-[Fv]", rest[0].text):
        del rest[: 2 if len(rest[0].text) == 2 else 1]
    # To gawk a file of the name `/inet/tcp/0/HOST/PORT` is a connection.
    connects = any("/inet" in word.text for word in rest)
    reads = (
        bool(rest)
        and rest[0].static
        and not connects
        and not rest[0].text.startswith("-")
        and _AWK_READS.match(rest[0].text)
    )
    yield command_effect(program, words, Risk.READS if reads else Risk.UNKNOWN, said=around.said())


def _sed(program: str, words: tuple[Word, ...], _command: Command, around: Around) -> Iterator[Effect]:
    """`sed`: its scripts can write and run, so only plain ones are read; `-i` writes each file."""
    in_place = False
    scripts: list[Word] = []
    operands: list[Word] = []
    at = 0
    while at < len(words):
        text = words[at].text
        if not words[at].static:
            operands.append(words[at])
        elif text in {"-e", "--expression"} and at + 1 < len(words):
            at += 1
            scripts.append(words[at])
        elif re.fullmatch(r"-i\S*|--in-place(=\S*)?", text) and "e" not in text[2:3]:
            in_place = True
        elif text in {"-n", "-E", "-r", "-s", "-u", "-z", "--quiet", "--silent", "--regexp-extended"}:
            pass
        elif text.startswith("-") and text != "-":
            yield command_effect(program, words, Risk.UNKNOWN, said=around.said())
            return
        else:
            operands.append(words[at])
        at += 1
    if not scripts and operands:
        scripts.append(operands.pop(0))
    known = bool(scripts) and all(
        one.static and all(_SED_READS.fullmatch(piece.strip()) for piece in one.text.split(";") if piece.strip())
        for one in scripts
    )
    if not known or not in_place:
        yield command_effect(program, words, Risk.READS if known else Risk.UNKNOWN, said=around.said())
    if in_place:
        for one in operands:
            yield on_file("edit", one, cwd=around.cwd, risk=Risk.CHANGES, program=program)


_Reader = Callable[[str, tuple[Word, ...], Command, Around], Iterator[Effect]]


def _with(reads: Callable[..., Iterator[Effect]]) -> _Reader:
    """A reader of command lines that needs less than all."""

    def read(program: str, words: tuple[Word, ...], command: Command, around: Around) -> Iterator[Effect]:
        return reads(program, words, cwd=around.cwd, stdin=command.stdin, said=around.said())

    return read


def _there(reads: Callable[..., Iterator[Effect]]) -> _Reader:
    """A reader of command lines that mean what the folder says in which they run."""

    def read(program: str, words: tuple[Word, ...], _command: Command, around: Around) -> Iterator[Effect]:
        home = None if around.lost else around.home
        return reads(program, words, cwd=around.cwd, home=home, said=around.said())

    return read


_SPECIAL: Final[Mapping[str, _Reader]] = {
    **dict.fromkeys(SHELLS, _shell),
    "eval": _eval,
    "watch": _eval,
    "trap": _trap,
    "xargs": _xargs,
    "gxargs": _xargs,
    "find": _find,
    "gfind": _find,
    "awk": _awk,
    "gawk": _awk,
    "mawk": _awk,
    "nawk": _awk,
    "sed": _sed,
    "gsed": _sed,
    **dict.fromkeys(files.PROGRAMS, _with(files.effects)),
    "git": _there(git.effects),
    "kubectl": _with(containers.kubectl),
    "oc": _with(containers.kubectl),
    "helm": _with(containers.helm),
    **dict.fromkeys(("terraform", "tofu", "terragrunt"), _there(infrastructure.terraform)),
    **dict.fromkeys(databases.CLIENTS, _with(databases.effects)),
}
