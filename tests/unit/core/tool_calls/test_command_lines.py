import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from app.core.canonical import canonical
from app.core.normalise import normalise
from app.core.tool_calls import Risk, read_tool_call
from app.core.tool_calls.commands import MAX_NESTING
from app.core.tool_calls.reading import MAX_PARTS, MAX_SHOWN
from app.core.tool_calls.shell import MAX_TEXT, read_script
from app.core.tool_calls.words import UnreadableError

AGENT = {"type": "agent", "id": "coder", "properties": {}}
CASES = YAML(typ="safe").load((Path(__file__).parent / "command_lines.yaml").read_text())


def parts_of(line, cwd="/srv/app"):
    return read_tool_call("Bash", {"command": line}, cwd=cwd).parts


def told(line):
    return [
        f"{part.action['properties']['risk']} {part.action['name']} {part.resource['type']} {part.resource['id']}"
        for part in parts_of(line)
    ]


@pytest.mark.parametrize("case", CASES, ids=[case["line"][:40].encode("unicode_escape").decode() for case in CASES])
def test_a_command_line_does_what_it_says(case):
    assert told(case["line"]) == case["does"]
    for part in parts_of(case["line"]):
        assert part.context["tool"] == {"name": "Bash"}
        assert canonical(part.context)
        normalise(part.mutation(AGENT))


def only(line):
    (part,) = parts_of(line)
    return part


def test_a_command_says_how_it_is_run():
    after = only("sudo FOO=1 nice make -j4 $X").change["after"]
    assert after == {
        "program": "make",
        "arguments": ["-j4", "$X"],
        "wrappers": ["sudo", "nice"],
        "variables": {"FOO": "1"},
        "dynamic": True,
    }
    assert only("ls *.py").change["after"]["pattern"] is True
    assert only("bash -c 'sudo ls x'").change["after"]["wrappers"] == ["bash", "sudo"]


def test_the_whole_line_stands_beside_each_thing_that_it_does():
    for part in parts_of("ls && rm x"):
        assert part.context["command"] == "ls && rm x"
    long = "ls " + "x" * (MAX_SHOWN + 1)
    shown = only(long).context["command"]
    assert len(shown) == MAX_SHOWN
    assert shown.endswith("…")


def test_a_file_that_is_deleted_says_how():
    part = only("rm -rf ./a")
    assert part.action == {
        "name": "delete",
        "properties": {"program": "rm", "recursive": True, "force": True, "risk": "destroys"},
    }
    assert part.resource == {"type": "file", "id": "/srv/app/a", "properties": {"path": "./a"}}
    assert only("rm --recursive x*").resource["properties"] == {"pattern": True, "path": "x*"}
    assert only("rm $X").resource["properties"] == {"dynamic": True}
    assert only("rm --rec x").action["properties"]["recursive"] is True
    (windows,) = parts_of(r"rm 'C:\x'", cwd=None)
    assert windows.resource["id"] == r"C:\x"
    (relative,) = parts_of("rm ../x", cwd=None)
    assert relative.resource["id"] == "../x"


def test_objects_of_a_cluster_are_as_the_api_server_names_them():
    assert only("kubectl delete pod x -n prod").change == {
        "before": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "prod"}}
    }
    scaled = only("kubectl scale deploy/web --replicas=5 -n prod --context east")
    assert scaled.change == {"patch": [{"op": "replace", "path": "/spec/replicas", "value": 5}]}
    assert scaled.resource["properties"] == {"context": "east"}
    assert scaled.action["properties"]["verb"] == "scale"
    read = only("kubectl get deploy web")
    assert read.change["before"] == read.change["after"]
    assert only("kubectl get pods").change == {}


def test_a_plan_that_nobody_has_to_confirm_says_so():
    assert only("terraform apply -auto-approve").change["after"]["auto_approve"] is True


def test_a_push_says_where_and_how():
    part = only("git push --force origin HEAD:refs/heads/main")
    assert part.resource == {
        "type": "git/Branch",
        "id": "origin/main",
        "properties": {"repository": "/srv/app", "remote": "origin"},
    }
    assert part.action["properties"] == {"program": "git", "force": True, "risk": "destroys"}


def test_what_is_too_long_too_deep_or_too_much_is_unknown():
    assert only("ls " + "x" * MAX_TEXT).action["properties"]["risk"] == "unknown"
    nested = "rm x"
    for _ in range(MAX_NESTING + 2):
        nested = f"bash -c {quoted(nested)}"
    assert "unknown" in told(nested)[0]
    many = only(" ".join(["rm", *(f"f{i}" for i in range(MAX_PARTS + 1))]))
    assert many.change["after"]["unreadable"] == "too much at once"
    with pytest.raises(UnreadableError):
        read_script("$(" * 200 + ")" * 200)
    with pytest.raises(UnreadableError):
        read_script("a;" * 8000)


@pytest.mark.parametrize(
    "line", ["git -C made status", "cd made && git status", "git --git-dir=made --work-tree=. status"]
)
def test_a_repository_runs_what_it_names_and_is_not_only_read(line, tmp_path):
    """The trick itself, with git; without it nobody would know that the line has to be refused."""
    (tmp_path / "made").mkdir()
    for name in ("objects", "refs"):
        (tmp_path / "made" / name).mkdir()
    (tmp_path / "made" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "made" / "config").write_text(
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n"
        f"\tfsmonitor = \"touch '{tmp_path}/ran'; false\"\n"
    )
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env=clean, capture_output=True, check=False)
    assert (tmp_path / "ran").exists()
    call = read_tool_call("Bash", {"command": line}, cwd=str(tmp_path))
    assert call.risk is Risk.UNKNOWN


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


TOKENS = st.sampled_from(
    [
        *"abx1=/-.,:@%+~!?*[]^#\t\n ",
        "'",
        '"',
        "\\",
        "`",
        "$",
        "$(",
        ")",
        ";",
        "&",
        "|",
        "<",
        ">",
        "&&",
        "||",
        "$x",
        "${x}",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=14).map("".join) | st.text(max_size=12))
def test_any_text_is_read_as_something(line):
    call = read_tool_call("Bash", {"command": line})
    assert call.parts
    assert call.risk in set(Risk)
    for part in call.parts:
        assert 0 < len(part.resource["id"]) <= 512


PROBE = 'command_not_found_handle() { printf "%s\\0" RAN "$@" END >&2; return 1; }\n'


@settings(max_examples=250, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=10).map("".join))
@pytest.mark.skipif(shutil.which("bash") is None and not os.environ.get("MFW_REQUIRE_ALL"), reason="needs bash")
def test_what_bash_runs_is_what_was_read(line):
    """Whatever bash runs of a text that was read, with words that are known, is a command that was read."""
    try:
        script = read_script(line)
    except UnreadableError:
        return
    if any(not word.plain for command in script.commands for word in command.words):
        return
    read = {tuple(word.text for word in command.words) for command in script.commands}
    with tempfile.TemporaryDirectory() as folder:
        # Restricted: it writes no file and leaves its path as it is, which is empty.
        ran = subprocess.run(
            [shutil.which("bash") or "bash", "--noprofile", "--norc", "-r", "-c", PROBE + line],
            env={"PATH": "", "HOME": folder},
            cwd=folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        ).stderr
    for piece in ran.split(b"RAN\0")[1:]:
        words = piece.split(b"\0END\0")[0].decode(errors="replace").split("\0")
        expanded = {tuple(word.replace("~", folder) if word.startswith("~") else word for word in one) for one in read}
        assert tuple(words) in read | expanded, (line, words, read)
