"""Shell text: the simple commands in it, what they redirect, what they set. Never by looking for substrings.

A parser of ours reads a text that a shell will read, and where the two disagree, something runs that nobody was asked
about. So only what has a form that is known counts as read: any node that is not, an error anywhere, a gap between two
tokens that a shell would not skip, a character that terminals hide, makes the whole text unreadable.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from app.core.tool_calls.words import UnreadableError, Word, set_of, word_of

# The parser takes some 2 us a byte, and nothing else runs meanwhile; a longer script is for people.
MAX_TEXT: Final = 16 * 1024
MAX_NODES: Final = 8_000
MAX_DEPTH: Final = 120

_LANGUAGE: Final = Language(tree_sitter_bash.language())

_KNOWN: Final = set_of("""
    program list pipeline subshell compound_statement if_statement elif_clause else_clause while_statement
    for_statement do_group case_statement case_item negated_command function_definition
    test_command unary_expression binary_expression parenthesized_expression test_operator regex
    command command_name redirected_statement declaration_command unset_command comment
    file_redirect file_descriptor herestring_redirect heredoc_redirect heredoc_start heredoc_body heredoc_content
    heredoc_end
    variable_assignment variable_assignments variable_name special_variable_name subscript array
    word number raw_string string string_content ansi_c_string translated_string concatenation brace_expression
    extglob_pattern simple_expansion expansion command_substitution process_substitution arithmetic_expansion
    """)
# What has blanks in it that belong to it.
_WHOLE: Final = frozenset({"string", "raw_string", "ansi_c_string", "heredoc_body", "comment", "regex", "expansion"})
_GAP: Final = re.compile(r"(?:[ \t\n]|(?<=[ \t\n])\\\n|\\\n(?=[ \t\n]))*")
_GAP_IN_COMMAND: Final = re.compile(r"(?:[ \t]|(?<=[ \t])\\\n|\\\n(?=[ \t]))+")
_LOST: Final = re.compile(r"[ \t]+-[ \t]*")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_REDIRECTS: Final = frozenset({"file_redirect", "herestring_redirect", "heredoc_redirect"})
# Texts in which a shell looks for substitutions, and places whose texts it evaluates once more.
_SUBSTITUTED: Final = frozenset({"string", "heredoc_body", "expansion", "arithmetic_expansion", "regex", "subscript"})
_EVALUATED: Final = frozenset({"test_command", "arithmetic_expansion", "subscript", "variable_assignment", "array"})
_SUBSTITUTION: Final = re.compile(r"\$\(|`|\$\[")
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]+|-")
_NETWORK: Final = re.compile(r"/dev/(tcp|udp)/")
# Where a shell calculates, the value of a variable is read as a formula, and a formula runs the substitutions in it:
# `x='a[$(rm y)]'; echo $((x))`. So what is calculated with has to be known to be a number.
_CALCULATED: Final = frozenset({"arithmetic_expansion", "subscript"})
_COMPARED: Final = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge|v)\s|-v\s")
_ASSIGNS: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?:\[[^\]]*\])?:?=")
_TESTED: Final = re.compile(r"\s-v\s")
# Split into words, what is not in quotes may be `-v` and a name.
_BARE: Final = re.compile(r"\[\s+(?:!\s+)?\$[A-Za-z_{@*(]")
_SLICE: Final = re.compile(r"\$\{[#!]?[A-Za-z_0-9@*]+(?:\[[^\]]*\])?:(?![-=?+])(.*)\}", re.DOTALL)
_INDIRECT: Final = re.compile(r"\$\{!(?![A-Za-z_0-9]+\[[@*]\]\})")
_NAMES: Final = re.compile(r"(?<![A-Za-z0-9_#])[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN_VALUE: Final = re.compile(r"\$[({\[@*0-9]|`|(?<!\$)\$\$?['\"]")
_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")
_COUNTED: Final = re.compile(r"-?[0-9]{1,18}|\{[0-9]{1,9}\.\.[0-9]{1,9}\}")
_ALWAYS_NUMBERS: Final = frozenset({"RANDOM", "SECONDS", "LINENO", "EPOCHSECONDS", "BASHPID", "PPID", "UID", "EUID"})
# Programs of the shell that give a variable a value that is known only when they run.
_GIVES: Final = frozenset({"read", "mapfile", "readarray", "getopts", "printf", "wait", "declare", "typeset", "local"})


class Assignment(NamedTuple):
    """`NAME=VALUE`, alone or before a command."""

    name: str
    value: Word


class Redirection(NamedTuple):
    """A file that is opened: for reading where `operator` is `<`, else for writing."""

    operator: str
    target: Word


class Command(NamedTuple):
    """A simple command. `stdin` is the text it is given in place, None where there is none or it is not known."""

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...]
    stdin: str | None
    source: str


class Script(NamedTuple):
    """Everything in a text that does something, in its order; what defines functions or loops has vanished.

    `chained` says that each command runs only after all before it went well: `a && b | c && d`.
    """

    commands: tuple[Command, ...]
    redirections: tuple[Redirection, ...]
    assignments: tuple[Assignment, ...]
    chained: bool


def read_script(text: str) -> Script:
    """Take a text apart. Raises UnreadableError with the reason."""
    if len(text) > MAX_TEXT:
        raise UnreadableError(f"the text has more than {MAX_TEXT} characters")
    for character in text:
        if character not in " \n\t" and unicodedata.category(character) in _HIDDEN:
            raise UnreadableError(f"the character U+{ord(character):04X}")
    source = text.encode()
    root = Parser(_LANGUAGE).parse(source).root_node
    nodes = list(_checked(root))
    _check_gaps(root, source)
    commands: list[Command] = []
    redirections: list[Redirection] = []
    assignments: list[Assignment] = []
    for node in nodes:
        match node.type:
            case "command":
                commands.append(_command(node, source))
            case "declaration_command" | "unset_command":
                commands.append(_declaration(node))
                assignments.extend(_assignment(one) for one in node.named_children if one.type == "variable_assignment")
            case "file_redirect":
                redirections.extend(_redirection(node))
            case "variable_assignment" if node.parent is None or node.parent.type not in {
                "command",
                "declaration_command",
            }:
                assignments.append(_assignment(node))
            case "for_statement":
                name = node.child_by_field_name("variable")
                if name is not None:
                    values = [_text(one) for one in node.children_by_field_name("value")]
                    counted = bool(values) and all(_COUNTED.fullmatch(one) for one in values)
                    assignments.append(Assignment(_text(name), Word("0" if counted else _text(name), static=counted)))
            case "expansion" if (assigned := _ASSIGNS.match(_text(node))) is not None:
                assignments.append(Assignment(assigned[1], Word(_text(node), static=False)))
    _check_calculations(nodes, commands, assignments)
    return Script(tuple(commands), tuple(redirections), tuple(assignments), _chained(root))


def _chained(root: Node) -> bool:
    statements = [node for node in root.named_children if node.type != "comment"]
    if len(statements) != 1 or any(child.type == "&" for child in root.children):
        return False
    stack = statements
    while stack:
        node = stack.pop()
        if node.type == "list" and all(child.is_named or child.type == "&&" for child in node.children):
            stack.extend(node.named_children)
        elif node.type == "redirected_statement":
            stack.extend(child for child in node.named_children if child.type not in _REDIRECTS)
        elif node.type not in {"command", "pipeline"}:
            return False
    return True


def _checked(root: Node) -> Iterator[Node]:
    """Every named node, in the order of the text."""
    stack = [(root, 0)]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if node.is_error or node.is_missing or node.has_error:
            raise UnreadableError("it is not what a shell could read")
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise UnreadableError("it is too long, or nests too deep")
        if not node.is_named:
            continue
        if node.type not in _KNOWN:
            raise UnreadableError(f"`{node.type}` is not known here")
        _check_substitutions(node)
        yield node
        stack.extend((child, depth + 1) for child in reversed(node.children))


def _check_substitutions(node: Node) -> None:
    """See that every `$(` and backquote that a shell would run was found, now or when a text is evaluated later."""
    if node.type == "raw_string":
        holder = node.parent
        while holder is not None and holder.type not in _EVALUATED:
            holder = None if holder.type in {"command", "program"} else holder.parent
        if holder is not None and _SUBSTITUTION.search(_text(node)):
            raise UnreadableError("a substitution in what is evaluated")
        return
    if node.type not in _SUBSTITUTED:
        return
    if node.type == "heredoc_body" and node.parent is not None:
        start = next((child for child in node.parent.children if child.type == "heredoc_start"), None)
        if start is not None and any(mark in _text(start) for mark in "'\"\\"):
            return
    text, at = node.text or b"", 0
    between: list[bytes] = []
    own: list[bytes] = []
    for child in node.named_children:
        between.append(text[at : child.start_byte - node.start_byte])
        at = child.end_byte - node.start_byte
        if child.type in {"string_content", "heredoc_content", "word", "regex"}:
            own.append(child.text or b"")
    between.append(text[at:])
    if _SUBSTITUTION.search(_ESCAPED.sub("", b" ".join([*between, *own]).decode())):
        raise UnreadableError("a substitution that was not found")


def _check_calculations(nodes: list[Node], commands: list[Command], assignments: list[Assignment]) -> None:
    """See that nothing is calculated with but numbers that are known to be such."""
    formulas: list[str] = []
    for node in nodes:
        text = _text(node)
        if node.type in _CALCULATED:
            formulas.append(text.partition("[")[2] if node.type == "subscript" else text[2:])
        elif node.type == "compound_statement" and text.startswith("(("):
            formulas.append(text)
        elif node.type == "test_command" and text.startswith("[") and not text.startswith("[["):
            # It calculates nothing, but for the subscript of a name behind `-v`.
            if _BARE.match(text) or (_TESTED.search(text) and "$" in text):
                raise UnreadableError("a test that may look into a subscript")
        elif node.type == "test_command" and (text.startswith("((") or _COMPARED.search(text)):
            formulas.append(_COMPARED.sub(" ", text))
        elif node.type == "expansion":
            if _INDIRECT.match(text):
                raise UnreadableError("a variable that another one names")
            if (slice_of := _SLICE.fullmatch(text)) is not None:
                formulas.append(slice_of[1])
    numbers = {one.name for one in assignments if _is_number(one.value)}
    numbers -= {one.name for one in assignments if not _is_number(one.value)}
    numbers -= {word.text for one in commands if one.words and one.words[0].text in _GIVES for word in one.words}
    for formula in formulas:
        if _UNKNOWN_VALUE.search(formula):
            raise UnreadableError("a calculation with what is known only when it runs")
        for name in _NAMES.findall(formula):
            if name not in numbers | _ALWAYS_NUMBERS:
                raise UnreadableError(f"a calculation with `{name[:40]}`, which may be no number")


def _is_number(value: Word) -> bool:
    text = value.text
    return bool(_WHOLE_NUMBER.fullmatch(text)) if value.static else text.startswith("$((") and text.endswith("))")


def _check_gaps(root: Node, source: bytes) -> None:
    """See that nothing stands between two tokens but what a shell skips as well."""
    at = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.children and node.type not in _WHOLE:
            if node.type in {"command", "declaration_command", "unset_command"}:
                _check_words(node, source)
            stack.extend(reversed(node.children))
            continue
        # The body of a here-document lies behind what follows its beginning; tokens never lie in one another.
        between = source[at : node.start_byte].decode()
        if node.start_byte > at and not _skipped(between, before=node):
            raise UnreadableError("something between two words that is no blank")
        at = max(at, node.end_byte)
    if _GAP.fullmatch(source[at:].decode()) is None:
        raise UnreadableError("something behind the last word that is no blank")


def _skipped(between: str, *, before: Node) -> bool:
    # The parser loses `-`, an argument, before a here-document; `_command` finds it again.
    return _GAP.fullmatch(between) is not None or (
        before.type in {"<<", "<<-"} and _LOST.fullmatch(between) is not None
    )


def _check_words(node: Node, source: bytes) -> None:
    """See that the words of one command stand apart, and on one line."""
    for one, other in zip(node.children, node.children[1:], strict=False):
        if one.type in _REDIRECTS or other.type in _REDIRECTS:
            continue
        between = source[one.end_byte : other.start_byte].decode()
        if _GAP_IN_COMMAND.fullmatch(between) is None:
            raise UnreadableError("two words that may be one, or two commands")


def _command(node: Node, source: bytes) -> Command:
    words: list[Word] = []
    assignments: list[Assignment] = []
    inputs: list[Node] = []
    for child in node.children:
        if child.type == "variable_assignment":
            assignments.append(_assignment(child))
        elif child.type == "subshell":
            raise UnreadableError("parentheses behind a command")
        elif child.type in _REDIRECTS:
            inputs.append(child)
        elif child.is_named:
            words.append(word_of(child))
        else:
            # `=~` or `==` as an argument: a token without a name.
            words.append(Word(_text(child), static=False))
    holder = node.parent
    if holder is not None and holder.type == "redirected_statement" and holder.child_by_field_name("body") == node:
        behind = [child for child in holder.children if child.type in _REDIRECTS]
        if behind and _LOST.fullmatch(source[node.end_byte : behind[0].start_byte].decode()):
            words.append(Word("-"))
        inputs.extend(behind)
    return Command(tuple(words), tuple(assignments), _stdin(inputs), _text(node))


def _declaration(node: Node) -> Command:
    """`export`, `declare`, `local`, `unset`: commands whose words the parser has in another place."""
    words = [
        Word(_text(child), static=child.type in {"word", "variable_name"} or not child.is_named)
        for child in node.children
    ]
    return Command(tuple(words), (), None, _text(node))


def _assignment(node: Node) -> Assignment:
    name = node.child_by_field_name("name")
    value = node.child_by_field_name("value")
    if name is None:
        raise UnreadableError("an assignment without a name")
    shown = Word("") if value is None else Word(_text(value), static=False)
    if value is not None and value.type != "array" and name.type == "variable_name":
        shown = word_of(value)
    return Assignment(_text(name).partition("[")[0], shown)


def _stdin(inputs: list[Node]) -> str | None:
    """The text that a command is given in place, where it has one that is known, and nothing else."""
    given = [one for one in inputs if one.type != "file_redirect"]
    others = [one for one in inputs if one.type == "file_redirect" and _operator(one).startswith("<")]
    if len(given) != 1 or others:
        return None
    (node,) = given
    if node.type == "herestring_redirect":
        word = word_of(node.named_children[-1])
        return f"{word.text}\n" if word.static else None
    start = next(child for child in node.children if child.type == "heredoc_start")
    body = next((child for child in node.children if child.type == "heredoc_body"), None)
    text = "" if body is None else _text(body)
    quoted = any(mark in _text(start) for mark in "'\"\\")
    if not quoted and any(mark in text for mark in "$`\\"):
        return None
    if any(child.type == "<<-" for child in node.children):
        text = re.sub(r"^\t+", "", text, flags=re.MULTILINE)
    return text


def _operator(node: Node) -> str:
    return next((child.type for child in node.children if not child.is_named), "")


def _redirection(node: Node) -> Iterator[Redirection]:
    operator = _operator(node)
    for target in node.children_by_field_name("destination"):
        word = word_of(target)
        if operator in {">&", "<&", ">&-", "<&-"} and word.static and _NUMBER.fullmatch(word.text):
            continue
        if word.static and _NETWORK.match(word.text):
            raise UnreadableError("a redirection to the network")
        yield Redirection("<" if operator == "<" else operator, word)


def _text(node: Node) -> str:
    return (node.text or b"").decode()
