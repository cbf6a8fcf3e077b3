"""Programs that change files, one effect for each path."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.core.tool_calls.effects import Effect, command_effect, nothing_differs, on_file
from app.core.tool_calls.parts import Risk
from app.core.tool_calls.words import Word, set_of

PROGRAMS: Final = set_of("rm rmdir unlink shred mv cp install ln mkdir touch chmod chown chgrp tee truncate dd")
# Options with a value behind them.
_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "mkdir": frozenset({"-m", "--mode"}),
    "touch": frozenset({"-d", "-t", "-r", "--date", "--reference"}),
    "truncate": frozenset({"-s", "-r", "--size", "--reference"}),
    "shred": frozenset({"-n", "-s"}),
    "install": frozenset({"-m", "-o", "-g", "--mode", "--owner", "--group", "-S"}),
    "cp": frozenset({"-S"}),
    "mv": frozenset({"-S"}),
    "ln": frozenset({"-S"}),
}
_INTO: Final = frozenset({"-t", "--target-directory"})


def reading(word: Word, *, cwd: str | None, program: str) -> Effect:
    """A file that is read."""
    made = on_file("read", word, cwd=cwd, risk=Risk.READS, program=program)
    return made._replace(change=nothing_differs({"path": made.id}))


def effects(
    program: str, words: tuple[Word, ...], *, cwd: str | None, stdin: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give one effect for each file; where nothing is named, or an option may be anything, the command itself."""
    del stdin
    operands: list[Word] = []
    options: list[str] = []
    into: Word | None = None
    at = 0
    ended = False
    while at < len(words):
        word = words[at]
        name, equals, value = word.text.partition("=")
        if ended or not word.static or not word.text.startswith("-") or word.text == "-":
            operands.append(word)
        elif word.text == "--":
            ended = True
        elif name in _INTO:
            into = Word(value) if equals else (words[at + 1] if at + 1 < len(words) else Word("", static=False))
            at += 0 if equals else 1
        elif word.text in _VALUES.get(program, frozenset()):
            at += 1
        else:
            options.append(word.text)
        at += 1
    if program == "dd":
        yield from _dd(words, cwd=cwd, said=said)
        return
    if program in {"chmod", "chown", "chgrp"} and operands and not any(one.startswith("--ref") for one in options):
        operands = operands[1:]
    if not operands:
        yield command_effect(program, words, Risk.CHANGES if words else Risk.READS, said=said)
        return
    recursive = any(_has(one, "rR", "--recursive") for one in options)
    force = any(_has(one, "f", "--force") for one in options)
    if program in {"rm", "rmdir", "unlink", "shred"}:
        for one in operands:
            yield on_file("delete", one, cwd=cwd, risk=Risk.DESTROYS, program=program, recursive=recursive, force=force)
        return
    if program in {"mv", "cp", "install", "ln"}:
        sources = operands if into is not None else operands[:-1]
        target = into if into is not None else operands[-1]
        for one in sources:
            if program == "mv":
                yield on_file("move", one, cwd=cwd, risk=Risk.CHANGES, program=program)
            else:
                yield reading(one, cwd=cwd, program=program)
        yield on_file("write", target, cwd=cwd, risk=Risk.CHANGES, program=program, recursive=recursive, force=force)
        return
    action, risk = {
        "mkdir": ("create", Risk.CHANGES),
        "touch": ("create", Risk.CHANGES),
        "tee": ("write", Risk.CHANGES),
        "truncate": ("write", Risk.DESTROYS),
    }.get(program, ("update", Risk.CHANGES))
    for one in operands:
        if program == "tee" and one.static and one.text in {"/dev/null", "/dev/stderr", "/dev/tty"}:
            yield command_effect(program, words, Risk.READS, said=said)
            continue
        yield on_file(action, one, cwd=cwd, risk=risk, program=program, recursive=recursive)


def _dd(words: tuple[Word, ...], *, cwd: str | None, said: Mapping[str, Any]) -> Iterator[Effect]:
    target = [word for word in words if word.text.startswith("of=")]
    yield command_effect("dd", words, Risk.DESTROYS if target else Risk.RUNS, said=said)
    for word in target:
        written = word._replace(text=word.text.removeprefix("of="))
        yield on_file("write", written, cwd=cwd, risk=Risk.DESTROYS, program="dd")


def _has(option: str, letters: str, name: str) -> bool:
    """Whether an option is one of these letters, alone or among others, or a name that may be shortened."""
    if option.startswith("--"):
        return len(option) > 2 and name.startswith(option)
    return any(letter in option[1:] for letter in letters)
