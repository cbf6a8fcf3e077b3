"""The text format of Protocol Buffers, as far as the published cases of CEL use it.

A message becomes a dict of its fields, each a list of values in order: `a: 1 a: 2 b { c: "x" }` is
`{"a": [1, 2], "b": [{"c": ["x"]}]}`. Texts stay as `bytes`, for only the reader of a field knows whether it is a string;
a name such as `true`, `STRING` or `NULL_VALUE` is a `Name`.
"""

import re
from typing import Any

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fFuU]?|-\s*(?:inf|nan|infinity)\b)
    |(?P<name>[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<sign>[-:{}<>\[\]/])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_SINGLE = {"n": 10, "r": 13, "t": 9, "a": 7, "b": 8, "f": 12, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}


class Name(str):
    """A word that is no text: a truth value, or a name of an enum."""

    __slots__ = ()


def parse(text: str) -> dict[str, list[Any]]:
    """Read one message.

    Raises:
        ValueError: the text has another form.
    """
    tokens = list(_tokens(text))
    message: dict[str, list[Any]]
    message, at = _message(tokens, 0, end=None)
    if at < len(tokens):
        raise ValueError("something follows the message")
    return message


def _tokens(text):
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not a token in line {text.count(chr(10), 0, at) + 1}: {text[at : at + 20]!r}")
        at = match.end()
        if match.lastgroup != "skip":
            yield str(match.lastgroup), match.group()


def _message(tokens, at, *, end):
    found: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at][1] != end:
        kind, name = tokens[at]
        at += 1
        if name == "[":
            # The name of an extension, or of the type inside a `google.protobuf.Any`.
            name = "["
            while tokens[at][1] != "]":
                name += tokens[at][1]
                at += 1
            name, at = name + "]", at + 1
        elif kind != "name":
            raise ValueError(f"`{name}` is no field")
        if tokens[at][1] == ":":
            at += 1
        values, at = _values(tokens, at)
        found.setdefault(name, []).extend(values)
    return found, at


def _values(tokens, at):
    kind, text = tokens[at]
    if text == "[":
        at += 1
        several: list[Any] = []
        while tokens[at][1] != "]":
            values, at = _values(tokens, at)
            several += values
        return several, at + 1
    if text in {"{", "<"}:
        end = "}" if text == "{" else ">"
        message, at = _message(tokens, at + 1, end=end)
        if at >= len(tokens):
            raise ValueError(f"`{end}` is missing")
        return [message], at + 1
    if kind == "text":
        parts = b""
        while at < len(tokens) and tokens[at][0] == "text":
            parts += _unescaped(tokens[at][1][1:-1])
            at += 1
        return [parts], at
    if kind == "number":
        return [_number(text)], at + 1
    if kind == "name":
        return [float(text) if text in {"inf", "nan", "infinity"} else Name(text)], at + 1
    raise ValueError(f"`{text}` is no value")


def _number(text):
    plain = text.replace(" ", "")
    if re.fullmatch(r"-?0[xX][0-9a-fA-F]+", plain):
        return int(plain, 16)
    if re.fullmatch(r"-?0[0-7]+", plain):
        return int(plain, 8)
    if re.fullmatch(r"-?\d+", plain):
        return int(plain)
    return float(plain) if plain[-1:] in "yn" or plain.endswith("inf") else float(plain.rstrip("fFuU"))


def _unescaped(text):
    def one(match):
        short, long, hexadecimal, octal, single = (part.decode() if part else "" for part in match.groups())
        if short or long:
            return chr(int(short or long, 16)).encode("utf-8", "surrogatepass")
        if hexadecimal or octal:
            return bytes([int(hexadecimal, 16) if hexadecimal else int(octal, 8)])
        return bytes([_SINGLE[single]])

    return _ESCAPE.sub(one, text.encode())
