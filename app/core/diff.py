"""Unified diffs: which files a diff touches, and how.

The reader is stricter than the programs that apply diffs, on purpose. Where `git apply` and GNU patch guess (two names
for one file, wrong counts, indented diffs, ed scripts between files: CVE-2018-1000156), an attacker can show one change
and make another; here all of that is refused. Accepted: `git diff`, `git show`, `git format-patch`, `git log -p`,
`diff -u`, `diff -ru`.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from app.core.types import JsonObject
from app.errors import FirewallError, Kind

_POINTER = "/change/diff"
_DEV_NULL = "/dev/null"
_SYMLINK = "120000"
_SUBMODULE = "160000"

# What `git` and `diff` put in front of the old and the new name: their defaults, `--reverse`, `diff.mnemonicPrefix`.
_PREFIXES = (
    ("a/", "b/"),
    ("b/", "a/"),
    ("i/", "w/"),
    ("w/", "i/"),
    ("c/", "i/"),
    ("i/", "c/"),
    ("c/", "w/"),
    ("w/", "c/"),
    ("o/", "w/"),
    ("w/", "o/"),
)

_HUNK = re.compile(r"@@ -([0-9]{1,9})(?:,([0-9]{1,9}))? \+([0-9]{1,9})(?:,([0-9]{1,9}))? @@(?: .*|)")
_MODE = re.compile(r"[0-7]{6}")
_INDEX = re.compile(r"[0-9a-f]{4,64}\.\.[0-9a-f]{4,64}(?: ([0-7]{6}))?")
_PERCENT = re.compile(r"[0-9]{1,3}%")
# Atomic: a word of it that stands in a line thousands of times is tried once, not once for each that stands before it.
_BINARY_FILES = re.compile(r"(?:Binary files|Files) ((?>.+? and ).+) differ", re.DOTALL)
_BINARY_SIZE = re.compile(r"(?:literal|delta) [0-9]{1,12}")
# One letter for the length, then base 85: no blank, so that no line of it can be taken for a header.
_BINARY_LINE = re.compile(r"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]+")
# GNU patch would also read these between files: an indented diff, a context diff, a normal diff, an ed script.
_INDENTED = re.compile(r"[ \tX]+(?:--- |\+\+\+ |@@ -|diff --git |\*\*\* |Index: )")
_OTHER_FORMAT = re.compile(r"\*{15}.*|[0-9]+(?:,[0-9]+)?[acd](?:[0-9]+(?:,[0-9]+)?)?|[0-9]+(?:,[0-9]+)?s/.*")
# What git (`diff.submodule=log`, unmerged paths), GNU diff (`-r` without `-N`) and Subversion say of what differs in
# place of showing it: as free text it would be a change that nobody is asked about.
_UNSHOWN = re.compile(
    r"Submodule .+ (?:[0-9a-f]{4,64}\.{2,3}[0-9a-f]{4,64}.*|contains (?:untracked|modified) content)"
    r"|\* Unmerged path .+|Only in .+: .+|Common subdirectories: .+ and .+|Symbolic links (?>.+? and ).+ differ"
    r"|File (?>.+? is an? )(?>.+? while file )(?>.+? is an? ).+"
    r"|Property changes on: .+|Cannot display: .+"
)
# Every line between files that is not plain text, and some that are: the others are passed over quickly.
_NOTEWORTHY = re.compile(r"[-+@*0-9dGIBFSOCP\x1b]|[ \tX]+[-+@d*I]")
# GNU diff dates what is not there at the start of 1970, in the local time zone.
_EPOCH = re.compile(r"19(?:70-01-01|69-12-31) .*")
_OCTAL = re.compile(r"[0-3][0-7]{2}")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_DRIVE = re.compile(r"[A-Za-z]:")


class FileKind(StrEnum):
    """What a diff does with a file. Whether its content is binary is a flag beside the kind."""

    ADDED = "added"
    DELETED = "deleted"
    MODIFIED = "modified"
    RENAMED = "renamed"
    COPIED = "copied"
    MODE_CHANGED = "mode_changed"


@dataclass(slots=True)
class _File:
    """One file while it is being read. Names are as written, prefixes and all; None where the diff has no such line."""

    line: int
    git: str | None = None
    old: str | None = None
    new: str | None = None
    old_epoch: bool = False
    new_epoch: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    index: str | None = None
    hunks: int = 0
    binary: bool = False
    binary_names: str | None = None
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    context: int = 0


def parse(text: str) -> list[JsonObject]:
    """Read a unified diff into one object per file, in the order of the diff.

    Each has: `path` (for a deleted file the path it had), `old_path` (where it came from; "" for an added file),
    `kind` (a `FileKind`), `added_lines` and `removed_lines` (counts), `added_text` and `removed_text` (the lines,
    without their mark and line ending), `old_mode` and `new_mode` (six octal digits, "" where the diff does not say),
    and the booleans `binary`, `executable`, `symlink`, `submodule`, `escapes`. `escapes`: the path, the old path or the
    target of a symlink may lead out of the tree (absolute, a drive letter, `..`, a backslash) or into `.git`.

    A path loses the prefixes `a/` and `b/` (and those of `diff.mnemonicPrefix`) when both are there; without them it is
    what the diff says. Renames and copies are of both paths: look at `old_path` too. Texts are not shortened: the limit
    on the body bounds them.

    Raises: FirewallError(MALFORMED) with the line number in the diff for whatever does not have exactly one reading.
    Does not check: whether the diff applies.
    """
    return _Reader(text).read()


class _Reader:
    """A cursor over the lines of one diff."""

    __slots__ = ("lines", "position")

    def __init__(self, text: str) -> None:
        # Only LF ends a line: `str.splitlines` would also split at form feeds and U+2028, and no diff program does.
        self.lines = text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.position = 0

    def read(self) -> list[JsonObject]:
        """Read the whole diff."""
        files: list[JsonObject] = []
        index_name: str | None = None
        while self.position < len(self.lines):
            line = self.header()
            if _NOTEWORTHY.match(line) is None:
                self.position += 1
            elif line.startswith("diff --git "):
                files.append(_described(self.git_file()))
                index_name = None
            elif line.startswith("--- "):
                plain = _File(line=self.position + 1)
                self.names(plain)
                self.hunks(plain)
                files.append(_described(plain, index_name=index_name))
                index_name = None
            elif (names := _BINARY_FILES.fullmatch(line)) is not None:
                files.append(_described(_File(line=self.position + 1, binary=True, binary_names=names.group(1))))
                self.position += 1
            else:
                self.refuse_disguise(line)
                if line.startswith("Index: "):
                    index_name = line.removeprefix("Index: ")
                self.position += 1
        if not files:
            raise FirewallError(
                Kind.MALFORMED,
                "the diff names no file",
                pointer=_POINTER,
                fix="send the output of `git diff` unchanged",
            )
        return files

    def header(self) -> str:
        """The line under the cursor as a header: a carriage return at its end belongs to the transport."""
        return self.lines[self.position].removesuffix("\r")

    def fail(self, detail: str, *, back: int = 0, fix: str = "send the output of `git diff` unchanged") -> NoReturn:
        """Refuse the diff at the line under the cursor, or `back` lines before it."""
        raise _refusal(detail, line=min(self.position, len(self.lines)) + 1 - back, fix=fix)

    def refuse_disguise(self, line: str) -> None:
        """Text between files is free, but not when a program that applies diffs could read it as one."""
        if line.startswith("@@ -"):
            self.fail("a hunk without a file")
        if line.startswith("+++ "):
            self.fail("`+++` without a line `---` before it")
        if line.startswith(("diff --cc ", "diff --combined ", "@@@ ")):
            self.fail("a combined diff of a merge", fix="send the diff against one parent: `git diff parent commit`")
        if line.startswith("GIT binary patch"):
            self.fail("a binary patch without a file")
        if line.startswith("\x1b"):
            # What says that a binary file differs is not coloured: it alone would be the whole change.
            self.fail("a diff in colours", fix="send it without: `git diff --no-color`")
        if _UNSHOWN.fullmatch(line):
            self.fail(
                "something differs that is not shown", fix="send all of it: `git diff --submodule=short`, `diff -ruN`"
            )
        if _INDENTED.match(line):
            self.fail("an indented diff", fix="remove the indentation, or send the diff alone")
        if _OTHER_FORMAT.fullmatch(line):
            self.fail("looks like another format of diff, or an ed script", fix="send a unified diff: `diff -u`")

    def git_file(self) -> _File:
        """Read from `diff --git` to the last hunk of that file."""
        file = _File(line=self.position + 1, git=self.header().removeprefix("diff --git "))
        self.position += 1
        while self.position < len(self.lines):
            line = self.header()
            if line.startswith("--- "):
                self.names(file)
                self.hunks(file)
                return file
            if line == "GIT binary patch":
                self.position += 1
                self.binary_patch()
                file.binary = True
                return file
            if (names := _BINARY_FILES.fullmatch(line)) is not None:
                file.binary = True
                file.binary_names = names.group(1)
                self.position += 1
                return file
            if not line or line.startswith("diff --git ") or line == "-- ":
                return file
            self.extended_header(file, line)
            self.position += 1
        return file

    def extended_header(self, file: _File, line: str) -> None:
        """Read one line between `diff --git` and `---`."""
        for name, pattern in _EXTENDED_HEADERS.items():
            if line.startswith(name + " "):
                value = line[len(name) + 1 :]
                if name in file.headers:
                    self.fail(f"a second line `{name}` for one file")
                if pattern is not None and pattern.fullmatch(value) is None:
                    self.fail(f"`{name}` with a value that git does not write")
                file.headers[name] = value
                return
        self.refuse_disguise(line)
        self.fail("a line that is no header of git", fix="put an empty line before text that follows a file")

    def names(self, file: _File) -> None:
        """Read the lines `---` and `+++`."""
        file.old, file.old_epoch = self.name("--- ")
        self.position += 1
        if self.position == len(self.lines) or not self.header().startswith("+++ "):
            self.fail("`---` without a line `+++` after it", back=1)
        file.new, file.new_epoch = self.name("+++ ")
        self.position += 1

    def name(self, mark: str) -> tuple[str, bool]:
        """Read a name and whether its time stamp says that there is no file."""
        raw = self.header().removeprefix(mark)
        if raw.startswith('"'):
            name, rest = self.quoted(raw)
            if rest and not rest.startswith("\t"):
                self.fail("text after a quoted name")
            stamp = rest[1:]
        else:
            name, _, stamp = raw.partition("\t")
        if not name:
            self.fail("an empty name")
        return name, _EPOCH.fullmatch(stamp) is not None

    def quoted(self, raw: str) -> tuple[str, str]:
        """Read a name in double quotes with C escapes, as git writes names that are not plain, and what follows it."""
        try:
            return unquote(raw)
        except ValueError as error:
            self.fail(str(error))

    def hunks(self, file: _File) -> None:
        """Read hunks while there are any; the counts in their headers alone say where each ends."""
        while self.position < len(self.lines):
            header = self.header()
            if not header.startswith("@@ "):
                break
            self.hunk(file, header)
        if not file.hunks:
            self.fail("names a file but has no hunk for it", back=1)
        if self.position < len(self.lines):
            line = self.header()
            # `git format-patch` ends with its signature, `-- ` and a version.
            if line.startswith((" ", "+", "-", "\\")) and not line.startswith("--- ") and line not in {"-- ", "--"}:
                self.fail("more lines than the hunk header says")

    def hunk(self, file: _File, header: str) -> None:
        """Read one hunk."""
        match = _HUNK.fullmatch(header)
        if match is None:
            self.fail("a hunk header that cannot be read", fix="write it as `@@ -1,3 +1,4 @@`")
        start = self.position + 1
        counts = [1 if count is None else int(count) for count in (match.group(2), match.group(4))]
        old, new = counts
        self.position += 1
        file.hunks += 1
        while old or new:
            if self.position == len(self.lines):
                self.short(counts, old=old, new=new, start=start)
            line = self.lines[self.position]
            mark = line[:1]
            body = line[1:].removesuffix("\r")
            if mark == "-" and old:
                old -= 1
                file.removed.append(body)
            elif mark == "+" and new:
                new -= 1
                file.added.append(body)
            # Mail programs strip the blank of an empty context line; git and GNU patch both accept that.
            elif (mark == " " or line in {"", "\r"}) and old and new:
                old -= 1
                new -= 1
                file.context += 1
            elif mark == "\\":
                self.no_newline(line)
                continue
            else:
                self.short(counts, old=old, new=new, start=start)
            self.position += 1
        if self.position < len(self.lines) and self.lines[self.position].startswith("\\"):
            self.no_newline(self.lines[self.position])

    def no_newline(self, line: str) -> None:
        r"""Step over `\ No newline at end of file`; its words are translated, its position is not."""
        if not line.startswith("\\ ") or self.lines[self.position - 1][:1] not in {"+", "-", " "}:
            self.fail("a line `\\` that belongs to no line before it")
        self.position += 1

    def short(self, counts: list[int], *, old: int, new: int, start: int) -> NoReturn:
        """Refuse a hunk whose body does not have the lines that its header promises."""
        self.fail(
            f"the hunk header at line {start} says {counts[0]} old and {counts[1]} new lines,"
            f" but {counts[0] - old} and {counts[1] - new} are found"
        )

    def binary_patch(self) -> None:
        """Step over the one or two blocks of a `GIT binary patch`."""
        blocks = 0
        while self.position < len(self.lines) and _BINARY_SIZE.fullmatch(self.header()):
            self.position += 1
            while self.position < len(self.lines) and self.header():
                if _BINARY_LINE.fullmatch(self.header()) is None:
                    self.fail("a line that is no part of a binary patch")
                self.position += 1
            self.position += 1
            blocks += 1
        if blocks not in {1, 2}:
            self.fail("a binary patch without its content", fix="send the output of `git diff --binary` unchanged")


_EXTENDED_HEADERS = {
    "old mode": _MODE,
    "new mode": _MODE,
    "deleted file mode": _MODE,
    "new file mode": _MODE,
    "copy from": None,
    "copy to": None,
    "rename from": None,
    "rename to": None,
    "similarity index": _PERCENT,
    "dissimilarity index": _PERCENT,
    "index": _INDEX,
}


def _refusal(detail: str, *, line: int, fix: str = "send the output of `git diff` unchanged") -> FirewallError:
    return FirewallError(Kind.MALFORMED, f"{detail}, at line {line} of the diff", pointer=_POINTER, fix=fix)


def unquote(raw: str) -> tuple[str, str]:
    r"""Read a name that git has put in double quotes (`"a/\303\251"`), and return it with the text after it.

    Raises: ValueError for a quote that does not end, an escape that git does not write, a name that is not UTF-8.
    """
    out = bytearray()
    position = 1
    while position < len(raw):
        character = raw[position]
        position += 1
        if character == '"':
            try:
                name = out.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError("a quoted name that is not utf-8") from None
            if "\0" in name:
                raise ValueError("NUL in a quoted name")
            return name, raw[position:]
        if character != "\\":
            out += character.encode("utf-8")
            continue
        escape = raw[position : position + 1]
        if escape in _ESCAPES and escape:
            out.append(_ESCAPES[escape])
            position += 1
        elif _OCTAL.match(raw, position):
            out.append(int(raw[position : position + 3], 8))
            position += 3
        else:
            raise ValueError("an escape in a quoted name that git does not write")
    raise ValueError("a quoted name without its closing quote")


def _described(file: _File, *, index_name: str | None = None) -> JsonObject:
    """Turn what was read about one file into what policies see, once its names agree."""
    old_path, path, kind = _git_identity(file) if file.git is not None else _plain_identity(file)
    if index_name is not None and index_name not in {old_path, path, file.old, file.new}:
        raise _refusal("`Index:` names another file than `---` and `+++`", line=file.line)
    headers = file.headers
    unchanged = headers.get("index", "").partition(" ")[2]
    old_mode = headers.get("old mode") or headers.get("deleted file mode") or unchanged
    new_mode = headers.get("new mode") or headers.get("new file mode") or unchanged
    if kind is FileKind.ADDED:
        old_mode = ""
        if file.removed or file.context:
            raise _refusal("a new file with lines that were there before", line=file.line)
    if kind is FileKind.DELETED:
        new_mode = ""
        if file.added or file.context:
            raise _refusal("a deleted file with lines that are there afterwards", line=file.line)
    return {
        "path": path,
        "old_path": old_path,
        "kind": kind.value,
        "added_lines": len(file.added),
        "removed_lines": len(file.removed),
        "added_text": file.added,
        "removed_text": file.removed,
        "old_mode": old_mode,
        "new_mode": new_mode,
        "binary": file.binary,
        "executable": new_mode.startswith("10") and int(new_mode, 8) & 0o111 != 0,
        "symlink": _SYMLINK in {old_mode, new_mode},
        "submodule": _SUBMODULE in {old_mode, new_mode},
        "escapes": _escapes(path)
        or _escapes(old_path)
        or (new_mode == _SYMLINK and any(_leads_out(path, target) for target in file.added)),
    }


def _git_identity(file: _File) -> tuple[str, str, FileKind]:
    """The old path, the path and the kind of a file with a `diff --git` header, all of whose lines must agree."""
    headers = file.headers
    kind = _git_kind(file)
    header = file.git or ""
    if kind in {FileKind.RENAMED, FileKind.COPIED}:
        verb = "rename" if kind is FileKind.RENAMED else "copy"
        old_path, path = (_plain_name(headers[f"{verb} {end}"], line=file.line) for end in ("from", "to"))
        names = _two_names(header, " ", line=file.line)
        for prefixes in (*_PREFIXES, ("", "")):
            old, new = prefixes[0] + old_path, prefixes[1] + path
            if header == f"{old} {new}" or names == (old, new):
                break
        else:
            raise _refusal(f"`diff --git` and `{verb}` name different files", line=file.line)
    else:
        pair = _two_names(header, " ", line=file.line)
        if pair is None and file.old is not None and header == f"{file.old} {file.new}":
            pair = (file.old, file.new or "")
        if pair is None:
            raise _refusal("`diff --git` and the lines below it name different files", line=file.line)
        old, new = pair
        path = _same_file(old, new, line=file.line)
        old_path = "" if kind is FileKind.ADDED else path
    # Each of the other lines that name the file, where there is one, with /dev/null on the side that is not there.
    expected = ("" if kind is FileKind.ADDED else old, "" if kind is FileKind.DELETED else new)
    expected = (expected[0] or _DEV_NULL, expected[1] or _DEV_NULL)
    if file.old is not None and (file.old, file.new) != expected:
        raise _refusal("`diff --git` and `---`, `+++` name different files", line=file.line)
    if (
        file.binary_names is not None
        and file.binary_names != " and ".join(expected)
        and _two_names(file.binary_names, " and ", line=file.line) != expected
    ):
        raise _refusal("`diff --git` and `Binary files` name different files", line=file.line)
    return old_path, path, kind


def _git_kind(file: _File) -> FileKind:
    """The kind that the extended headers say, if they do not contradict one another."""
    headers = file.headers
    for one, other in (("rename from", "rename to"), ("copy from", "copy to"), ("old mode", "new mode")):
        if (one in headers) != (other in headers):
            raise _refusal(f"`{one}` and `{other}` come in pairs", line=file.line)
    said = {
        FileKind.RENAMED: "rename from" in headers,
        FileKind.COPIED: "copy from" in headers,
        FileKind.ADDED: "new file mode" in headers or file.old == _DEV_NULL,
        FileKind.DELETED: "deleted file mode" in headers or file.new == _DEV_NULL,
    }
    kinds = [kind for kind, is_said in said.items() if is_said]
    if len(kinds) > 1 or (kinds and "old mode" in headers and kinds[0] in {FileKind.ADDED, FileKind.DELETED}):
        raise _refusal("headers that contradict one another", line=file.line)
    if kinds:
        return kinds[0]
    return FileKind.MODE_CHANGED if "old mode" in headers and not (file.hunks or file.binary) else FileKind.MODIFIED


def _plain_identity(file: _File) -> tuple[str, str, FileKind]:
    """The old path, the path and the kind of a file that has only `---` and `+++`, or `Binary files`."""
    if file.old is not None and file.new is not None:
        old, new = file.old, file.new
    else:
        names = _two_names(file.binary_names or "", " and ", line=file.line)
        if names is None:
            raise _refusal("the two names cannot be told apart", line=file.line, fix="send the output of `git diff`")
        old, new = names
    added = old == _DEV_NULL or file.old_epoch
    deleted = new == _DEV_NULL or file.new_epoch
    if added and deleted:
        raise _refusal("a file that is neither there before nor after", line=file.line)
    if old == _DEV_NULL:
        path = new.removeprefix("b/")
    elif new == _DEV_NULL:
        path = old.removeprefix("a/")
    else:
        path = _same_file(old, new, line=file.line)
    if added:
        return "", path, FileKind.ADDED
    return path, path, FileKind.DELETED if deleted else FileKind.MODIFIED


def _plain_name(raw: str, *, line: int) -> str:
    """A name that stands alone on its line, in quotes or not."""
    if not raw.startswith('"'):
        return raw
    try:
        name, rest = unquote(raw)
    except ValueError as error:
        raise _refusal(str(error), line=line) from None
    if rest:
        raise _refusal("text after a quoted name", line=line)
    return name


def _two_names(text: str, separator: str, *, line: int) -> tuple[str, str] | None:
    """Take two names apart, or return None where that can be done in more than one way.

    Without quotes names may hold the separator. Both name one file behind prefixes of one length, so the separator that
    counts is the one in the middle; beside /dev/null it is the only one that can be meant.
    """
    if text.startswith('"'):
        try:
            old, rest = unquote(text)
        except ValueError as error:
            raise _refusal(str(error), line=line) from None
        if not rest.startswith(separator):
            return None
        return old, _plain_name(rest.removeprefix(separator), line=line)
    if text.endswith('"') and (start := text.find(f'{separator}"')) >= 0:
        return text[:start], _plain_name(text[start + len(separator) :], line=line)
    if text.startswith(_DEV_NULL + separator):
        return _DEV_NULL, text.removeprefix(_DEV_NULL + separator)
    if text.endswith(separator + _DEV_NULL):
        return text.removesuffix(separator + _DEV_NULL), _DEV_NULL
    middle, odd = divmod(len(text) - len(separator), 2)
    if odd or middle <= 0 or text[middle : middle + len(separator)] != separator:
        return None
    return text[:middle], text[middle + len(separator) :]


def _same_file(old: str, new: str, *, line: int) -> str:
    """The path that two names agree on: as they stand, without known prefixes, or without their first directories."""
    if old == new:
        return old
    for one, other in _PREFIXES:
        if old.startswith(one) and new.startswith(other) and old[len(one) :] == new[len(other) :]:
            return old[len(one) :]
    old_rest, new_rest = old.partition("/")[2], new.partition("/")[2]
    if old_rest and old_rest == new_rest:
        return old_rest
    raise _refusal(
        "the old and the new name are of different files",
        line=line,
        fix="name one file, or send a rename as `git diff --find-renames` writes it",
    )


def _escapes(path: str) -> bool:
    """Whether a path may lead out of the tree on any system, or into the repository's own `.git`."""
    parts = path.replace("\\", "/").split("/")
    return (
        path.startswith("/")
        or "\\" in path
        or ".." in parts
        or _DRIVE.match(path) is not None
        or any(part.lower() == ".git" for part in parts)
    )


def _leads_out(path: str, target: str) -> bool:
    """Whether a symlink at `path` that points to `target` leads out of the tree."""
    if target.startswith("/") or "\\" in target or _DRIVE.match(target) is not None:
        return True
    depth = path.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False
