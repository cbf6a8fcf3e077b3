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
_WITH_INTO: Final = frozenset({"mv", "cp", "install", "ln"})


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
        elif program in _WITH_INTO and len(name) > 3 and "--target-directory".startswith(name):
            into = Word(value) if equals else (words[at + 1] if at + 1 < len(words) else Word("", static=False))
            at += 0 if equals else 1
        elif program in _WITH_INTO and name[1] != "-" and "t" in name[1:]:
            # Among other letters, and with its value in one word: `-ft/etc`.
            letters, _, folder = word.text.partition("t")
            options.append(letters)
            if "S" in letters:
                into = Word(word.text, static=False)
            elif folder:
                into = Word(folder)
            else:
                at += 1
                into = words[at] if at < len(words) else Word("", static=False)
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
            if program == "ln":
                yield _linked(one, target, cwd=cwd)
            elif program == "mv":
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


def _linked(source: Word, target: Word, *, cwd: str | None) -> Effect:
    """What a link leads to: whoever writes to the link later writes there."""
    seen_from = cwd
    if source.static and not source.text.startswith(("/", "~")) and (".." in source.text or "/" in target.text):
        # A symbolic link is read from where it lies, which depends on whether its target is a folder.
        seen_from = None
    return on_file("link", source, cwd=seen_from, risk=Risk.CHANGES, program="ln")


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
