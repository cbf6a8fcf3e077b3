"""Unified diffs as git and GNU diff write them, and as attackers would."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.diff import FileKind, parse
from app.errors import FirewallError, Kind

_GIT = (Path(__file__).parents[2] / "vectors" / "diffs" / "git.diff").read_bytes().decode()


def _one(text: str) -> dict[str, Any]:
    (file,) = parse(text)
    return file


def _refused(text: str) -> str:
    with pytest.raises(FirewallError) as caught:
        parse(text)
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.pointer == "/change/diff"
    assert caught.value.fix
    return caught.value.detail


def test_everything_that_git_writes():
    found = [
        (
            file["kind"], file["old_path"], file["path"], file["added_lines"], file["removed_lines"], file["old_mode"], file["new_mode"],
            [flag for flag in ("binary", "executable", "symlink", "submodule", "escapes") if file[flag]],
        )
        for file in parse(_GIT)
    ]  # fmt: skip
    assert found == [
        ("modified", "bin", "bin", 0, 0, "100644", "100644", ["binary"]),
        ("renamed", "ren", "copy1", 1, 1, "100644", "100644", []),
        ("modified", "crlf.txt", "crlf.txt", 1, 1, "100644", "100644", []),
        ("modified", "dashes", "dashes", 0, 2, "100644", "100644", []),
        ("renamed", "emptygone", "emptynew", 0, 0, "", "", []),
        ("deleted", "gone", "gone", 0, 1, "100644", "", []),
        ("modified", "link", "link", 1, 1, "120000", "120000", ["symlink", "escapes"]),
        ("mode_changed", "mode.sh", "mode.sh", 0, 0, "100644", "100755", ["executable"]),
        ("added", "", "new.sh", 1, 0, "", "100755", ["executable"]),
        ("added", "", "newbin", 0, 0, "", "100644", ["binary"]),
        ("modified", "nonl", "nonl", 1, 1, "100644", "100644", []),
        ("added", "", "out", 1, 0, "", "120000", ["symlink", "escapes"]),
        ("modified", "plain.txt", "plain.txt", 2, 1, "100644", "100644", []),
        ("added", "", "re named", 10, 0, "", "100644", []),
        ("modified", "sp ace", "sp ace", 1, 1, "100644", "100644", []),
        ("modified", 'é"q', 'é"q', 1, 1, "100644", "100644", []),
    ]


def test_a_diff_reads_the_same_with_crlf():
    assert parse(_GIT.replace("\r\n", "\n").replace("\n", "\r\n")) == parse(_GIT)


def test_the_texts_of_a_hunk():
    file = _one(
        "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@ def f():\n one\n-two\r\n+2\x0b\u2028\n three\n\\ No newline at end of file\n"
    )
    assert (file["removed_text"], file["added_text"]) == (["two"], ["2\x0b\u2028"])


def test_lines_that_look_like_headers_belong_to_their_hunk():
    file = _one("--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n--- a/g\n+++ b/g\n+@@ -1 +1 @@\n-diff --git a/h b/h\n+x\n")
    assert file["removed_text"] == ["-- a/g", "diff --git a/h b/h"]
    assert file["added_text"] == ["++ b/g", "@@ -1 +1 @@", "x"]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("a/src/x.py", "b/src/x.py", "src/x.py"),
        ("b/x", "a/x", "x"),
        ("i/x", "w/x", "x"),
        ("src/x", "src/x", "src/x"),
        ("a/x", "a/x", "a/x"),
        ("v1/x/y", "v2/x/y", "x/y"),
        ("a/x\t2024-01-01 00:00:00.000000000 +0000", "b/x\t2024-01-02 00:00:00 +0000", "x"),
        ('"a/\\303\\251 \\"\\\\\\t"', '"b/\\303\\251 \\"\\\\\\t"', 'é "\\\t'),
        ('"a/x"\t2024-01-01', "b/x", "x"),
        ("a/with space\t", "b/with space\t", "with space"),
    ],
)
def test_names(old, new, path):
    file = _one(f"--- {old}\n+++ {new}\n@@ -1 +1 @@\n-a\n+b\n")
    assert (file["path"], file["old_path"], file["kind"]) == (path, path, "modified")


@pytest.mark.parametrize(
    ("text", "kind", "old_path", "path"),
    [
        ("--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+a\n", "added", "", "new"),
        ("--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "deleted", "old", "old"),
        ("--- A/n\t1970-01-01 01:00:00.000000000 +0100\n+++ B/n\t2024-05-05 05:05:05 +0000\n@@ -0,0 +1 @@\n+a\n", "added", "", "n"),
        ("--- A/n\t2024-05-05 05:05:05 +0000\n+++ B/n\t1969-12-31 19:00:00.000000000 -0500\n@@ -1 +0,0 @@\n-a\n", "deleted", "n", "n"),
        ("Binary files A/x and B/x differ\n", "modified", "x", "x"),
        ("Files a/x and b/x differ\n", "modified", "x", "x"),
        ("Binary files /dev/null and b/x and y differ\n", "added", "", "x and y"),
        ("Binary files a/x and /dev/null differ\n", "deleted", "x", "x"),
        ('Binary files "a/\\303\\251" and "b/\\303\\251" differ\n', "modified", "é", "é"),
        ("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "mode_changed", "x", "x"),
        ("diff --git a/x b/x\nnew file mode 100644\nindex 0000000..e69de29\n", "added", "", "x"),
        ("diff --git a/x b/x\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n", "added", "", "x"),
        ("diff --git a/x y b/x y\ndeleted file mode 100644\nindex e69de29..0000000\n", "deleted", "x y", "x y"),
        ("diff --git a/x b/y z\nsimilarity index 100%\nrename from x\nrename to y z\n", "renamed", "x", "y z"),
        ('diff --git "a/\\303\\251" b/y\nsimilarity index 100%\ncopy from "\\303\\251"\ncopy to y\n', "copied", "é", "y"),
        ('diff --git a/y "b/\\303\\251"\nrename from y\nrename to "\\303\\251"\n', "renamed", "y", "é"),
        ("diff --git x y\nrename from x\nrename to y\n", "renamed", "x", "y"),
        ("diff --git a/x b/y\nrename from x\nrename to y\nindex 1234567..89abcde 100644\nBinary files a/x and b/y differ\n", "renamed", "x", "y"),
        ("diff --git old/x brandnew/x\n--- old/x\n+++ brandnew/x\n@@ -1 +1 @@\n-a\n+b\n", "modified", "x", "x"),
        ("diff --git a/x b/x\nindex 1234567..89abcde\n", "modified", "x", "x"),
        ("diff --git a/x b/x\n", "modified", "x", "x"),
        ("Index: x\n====\n--- x\t(revision 1)\n+++ x\t(working copy)\n@@ -1 +1 @@\n-a\n+b\n", "modified", "x", "x"),
    ],
)  # fmt: skip
def test_kinds(text, kind, old_path, path):
    file = _one(text)
    assert (file["kind"], file["old_path"], file["path"]) == (kind, old_path, path)
    assert kind in list(FileKind)


def test_submodules_and_modes():
    file = _one(
        "diff --git a/m b/m\nindex 1234567..89abcde 160000\n--- a/m\n+++ b/m\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n"
    )
    assert (file["submodule"], file["executable"], file["new_mode"]) == (True, False, "160000")
    file = _one(
        "diff --git a/l b/l\ndeleted file mode 120000\n--- a/l\n+++ /dev/null\n@@ -1 +0,0 @@\n-/etc/passwd\n\\ No newline at end of file\n"
    )
    assert (file["symlink"], file["escapes"], file["old_mode"], file["new_mode"]) == (True, False, "120000", "")
    file = _one(
        "diff --git a/l b/l\nold mode 100644\nnew mode 100755\nindex 1234567..89abcde\n--- a/l\n+++ b/l\n@@ -1 +1 @@\n-a\n+b\n"
    )
    assert (file["kind"], file["executable"]) == ("modified", True)


@pytest.mark.parametrize(
    "path", ["../x", "x/../../y", "/etc/passwd", "C:x", "x\\..\\y", ".git/hooks/pre-commit", "x/.GIT/config"]
)
def test_paths_that_escape(path):
    assert _one(
        f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+a\n"
        if path[0] != "/"
        else f"--- {path}\n+++ {path}\n@@ -1 +1 @@\n-a\n+b\n"
    )["escapes"]
    assert _one(f"diff --git a/x b/{path}\nrename from x\nrename to {path}\n")["escapes"]
    assert _one(f"diff --git a/{path} b/x\nrename from {path}\nrename to x\n")["escapes"]


@pytest.mark.parametrize(
    ("target", "escapes"),
    [
        ("../x", False),
        ("./a/../b", False),
        ("../../x", True),
        ("/x", True),
        ("a/../../../x", True),
        ("C:/x", True),
        ("a\\b", True),
    ],
)
def test_symlinks_that_escape(target, escapes):
    text = f"diff --git a/d/l b/d/l\nnew file mode 120000\n--- /dev/null\n+++ b/d/l\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n"
    assert _one(text)["escapes"] is escapes


def test_text_around_files():
    text = (
        "From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n f | 2 +-\n\n"
        "diff --git a/f b/f\nindex 1234567..89abcde 100644\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39.5\n\n"
        "From 4567\n\ndiff --git a/g b/g\nold mode 100644\nnew mode 100755\n\ncommit 89ab\n\n    message\n\n"
        "diff --git a/h b/h\nold mode 100644\nnew mode 100755\n-- \n2.39.5\n"
    )
    assert [file["path"] for file in parse(text)] == ["f", "g", "h"]


def test_an_empty_context_line_that_lost_its_blank():
    file = _one("--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n-a\n+b\n\n c\n")
    assert file["added_lines"] == 1


_F = "--- a/f\n+++ b/f\n"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "the diff names no file"),
        ("just text\n", "the diff names no file"),
        (_F + "@@ -1,3 +1,3 @@\n a\n-b\n+c\n", "the hunk header at line 3 says 3 old and 3 new lines, but 2 and 2 are found, at line 7 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n+b\n+evil\n", "more lines than the hunk header says, at line 6 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n-b\n", "the hunk header at line 3 says 1 old and 1 new lines, but 1 and 0 are found, at line 5 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n+b\n\\ No newline\n\\ No newline\n", "more lines than the hunk header says, at line 7 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n\\ No\n\\ No\n+b\n", "a line `\\` that belongs to no line before it, at line 6 of the diff"),
        (_F + "@@ -1 +1 @@\n\\ No newline\n-a\n+b\n", "a line `\\` that belongs to no line before it, at line 4 of the diff"),
        (_F + "@@ -1,2 +1,2 @@\n-a\n", "the hunk header at line 3 says 2 old and 2 new lines, but 1 and 0 are found, at line 5 of the diff"),
        (_F + "@@ -1 +1 @@evil\n-a\n+b\n", "a hunk header that cannot be read, at line 3 of the diff"),
        (_F + "@@ -١ +1 @@\n-a\n+b\n", "a hunk header that cannot be read, at line 3 of the diff"),
        (_F + "@@ -1,99999999999999 +1 @@\n-a\n+b\n", "a hunk header that cannot be read, at line 3 of the diff"),
        (_F + "text\n", "names a file but has no hunk for it, at line 2 of the diff"),
        (_F, "names a file but has no hunk for it, at line 2 of the diff"),
        ("--- a/f\n", "`---` without a line `+++` after it, at line 1 of the diff"),
        ("--- a/f\ntext\n", "`---` without a line `+++` after it, at line 1 of the diff"),
        ("+++ b/f\n@@ -1 +1 @@\n", "`+++` without a line `---` before it, at line 1 of the diff"),
        ("@@ -1 +1 @@\n-a\n+b\n", "a hunk without a file, at line 1 of the diff"),
        ("--- \n+++ b/f\n", "an empty name, at line 1 of the diff"),
        ("--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n", "the old and the new name are of different files, at line 1 of the diff"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "a file that is neither there before nor after, at line 1 of the diff"),
        ("--- /dev/null\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", "a new file with lines that were there before, at line 1 of the diff"),
        ("--- a/f\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "a deleted file with lines that are there afterwards, at line 1 of the diff"),
        ("Index: g\n" + _F + "@@ -1 +1 @@\n-a\n+b\n", "`Index:` names another file than `---` and `+++`, at line 2 of the diff"),
        ("diff --git a/f b/f\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n", "`diff --git` and `---`, `+++` name different files, at line 1 of the diff"),
        ("diff --git a/f b/f\n--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n", "`diff --git` and `---`, `+++` name different files, at line 1 of the diff"),
        ("diff --git a/f b/f\nnew file mode 100644\n--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+b\n", "`diff --git` and `---`, `+++` name different files, at line 1 of the diff"),
        ("diff --git a/f b/g\nold mode 100644\nnew mode 100755\n", "the old and the new name are of different files, at line 1 of the diff"),
        ("diff --git a/f b/long\nold mode 100644\nnew mode 100755\n", "`diff --git` and the lines below it name different files, at line 1 of the diff"),
        ("diff --git a/f b/g\nrename from f\nrename to h\n", "`diff --git` and `rename` name different files, at line 1 of the diff"),
        ("diff --git a/f b/g\nrename from f\n", "`rename from` and `rename to` come in pairs, at line 1 of the diff"),
        ("diff --git a/f b/f\nold mode 100644\n", "`old mode` and `new mode` come in pairs, at line 1 of the diff"),
        ("diff --git a/f b/g\nrename from f\nrename to g\ncopy from f\ncopy to g\n", "headers that contradict one another, at line 1 of the diff"),
        ("diff --git a/f b/f\nnew file mode 100644\ndeleted file mode 100644\n", "headers that contradict one another, at line 1 of the diff"),
        ("diff --git a/f b/f\nnew file mode 100644\nold mode 100644\nnew mode 100755\n", "headers that contradict one another, at line 1 of the diff"),
        ("diff --git a/f b/f\nold mode 100644\nold mode 100755\n", "a second line `old mode` for one file, at line 3 of the diff"),
        ("diff --git a/f b/f\nold mode 644\n", "`old mode` with a value that git does not write, at line 2 of the diff"),
        ("diff --git a/f b/f\nevil\n", "a line that is no header of git, at line 2 of the diff"),
        ("diff --git a/f b/f\n@@ -1 +1 @@\n-a\n+b\n", "a hunk without a file, at line 2 of the diff"),
        ("diff --git a/f b/f\nBinary files a/g and b/g differ\n", "`diff --git` and `Binary files` name different files, at line 1 of the diff"),
        ('diff --git "a/f b/f\n', "a quoted name without its closing quote, at line 1 of the diff"),
        ('diff --git "a/f"b/f\n', "`diff --git` and the lines below it name different files, at line 1 of the diff"),
        ('diff --git a/f "b/f" x"\n', "text after a quoted name, at line 1 of the diff"),
        ('diff --git a/f "b/\\q"\n', "an escape in a quoted name that git does not write, at line 1 of the diff"),
        ('--- "a/\\377"\n+++ b/f\n', "a quoted name that is not utf-8, at line 1 of the diff"),
        ('--- "a/\\000"\n+++ b/f\n', "NUL in a quoted name, at line 1 of the diff"),
        ('--- "a/f" x\n+++ b/f\n', "text after a quoted name, at line 1 of the diff"),
        ("diff --git a/f b/f\nGIT binary patch\nevil\n", "a binary patch without its content, at line 3 of the diff"),
        ("diff --git a/f b/f\nGIT binary patch\nliteral 3\ndiff --git a/g b/g\n", "a line that is no part of a binary patch, at line 4 of the diff"),
        ("GIT binary patch\nliteral 3\n", "a binary patch without a file, at line 1 of the diff"),
        ("Binary files a/f and b/long differ\n", "the two names cannot be told apart, at line 1 of the diff"),
        ("diff --cc f\n", "a combined diff of a merge, at line 1 of the diff"),
        ("@@@ -1 -1 +1 @@@\n", "a combined diff of a merge, at line 1 of the diff"),
        ("  --- a/f\n  +++ b/f\n  @@ -1 +1 @@\n", "an indented diff, at line 1 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n+b\n3c3\n", "looks like another format of diff, or an ed script, at line 6 of the diff"),
        ("1,5s/a/b/\n", "looks like another format of diff, or an ed script, at line 1 of the diff"),
        ("Submodule sub a887f93..843c83f (rewind):\n" + _F, "something differs that is not shown, at line 1 of the diff"),
        ("Submodule a b 0000000...843c83f (new submodule)\n", "something differs that is not shown, at line 1 of the diff"),
        ("* Unmerged path a b\n", "something differs that is not shown, at line 1 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n+b\nOnly in new/s: o\n", "something differs that is not shown, at line 6 of the diff"),
        ("Symbolic links a/l and b/l differ\n", "something differs that is not shown, at line 1 of the diff"),
        ("Common subdirectories: a/s and b/s\n", "something differs that is not shown, at line 1 of the diff"),
        ("File a is a directory while file b is a regular file\n", "something differs that is not shown, at line 1 of the diff"),
        ("diff --git a/f b/f\nold mode 100644\nnew mode 100755\nSubmodule s a887f93..843c83f:\n", "something differs that is not shown, at line 4 of the diff"),
        ("***************\n", "looks like another format of diff, or an ed script, at line 1 of the diff"),
        (_F + "@@ -1 +1 @@\n-a\n+b\n\nProperty changes on: f\n", "something differs that is not shown, at line 7 of the diff"),
        ("Index: b\nCannot display: file marked as a binary type.\n" + _F, "something differs that is not shown, at line 2 of the diff"),
        ("Binary files a/f and b/f differ\n\x1b[1mdiff --git a/g b/g\x1b[m\n", "a diff in colours, at line 2 of the diff"),
        ("\x1b[1m--- a/f\x1b[0m\n\x1b[1m+++ b/f\x1b[0m\n" + _F, "a diff in colours, at line 1 of the diff"),
        ("diff --git a/f b/f\n\x1b[1mindex 1111..2222 100644\x1b[m\n", "a diff in colours, at line 2 of the diff"),
    ],
)  # fmt: skip
def test_what_has_no_single_reading_is_refused(text, detail):
    assert _refused(text) == detail


@pytest.mark.parametrize(
    "line",
    [
        "Symbolic links x" + " and" * 300_000,
        "File x" + " is a" * 150_000 + " while file" * 75_000,
        "Files x" + " and" * 300_000,
        "Only in x" + ":" * 1_000_000,
        "Submodule x" + " abcdef0" * 150_000,
    ],
)
def test_a_line_costs_what_it_is_long(line):
    # Where each of its words is looked for behind each other one, every one of these takes minutes at the least.
    assert _refused(line) == "the diff names no file"


_LINES = [
    "diff --git a/f b/f", "diff --git a/f b/g", 'diff --git "a/\\303" b/f', "--- a/f", "+++ b/f", "--- /dev/null", "+++ /dev/null", "@@ -1 +1 @@", "@@ -0,0 +1 @@",
    "@@ -1,2 +1,2 @@", "@@ -1 +0,0 @@", "-a", "+b", " c", "", "\\ No newline at end of file", "rename from f", "rename to g", "copy from f", "copy to g", "old mode 100644",
    "new mode 120000", "new file mode 100644", "deleted file mode 160000", "index 1234567..89abcde 100644", "GIT binary patch", "literal 3", "Kcmabc", "-- ", "Index: f", "text",
    "Binary files a/f and b/f differ", '--- "a/\\', "similarity index 100%", "\r", "+b\r",
]  # fmt: skip


@given(st.lists(st.sampled_from(_LINES), max_size=14).map("\n".join))
def test_any_lines_are_read_or_refused(text):
    try:
        files = parse(text)
    except FirewallError as error:
        assert error.kind is Kind.MALFORMED  # noqa: PT017 - a refusal is one of two good outcomes
    else:
        assert files
        for file in files:
            assert (file["added_lines"], file["removed_lines"]) == (len(file["added_text"]), len(file["removed_text"]))


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        parse(text)
    except FirewallError as error:
        assert error.pointer == "/change/diff"  # noqa: PT017


@given(st.integers(0, len(_GIT)), st.integers(0, 30), st.text(max_size=5))
def test_a_damaged_diff_is_read_or_refused(position, length, damage):
    try:
        parse(_GIT[:position] + damage + _GIT[position + length :])
    except FirewallError as error:
        assert error.pointer == "/change/diff"  # noqa: PT017
