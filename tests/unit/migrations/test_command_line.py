"""The three commands before any database is asked: help, usage, exit codes."""

import pytest

from app.errors import FirewallError, Kind
from app.migrations import apply, command_line, rollback, schema, status
from app.migrations.schema import Status
from app.persistence import revision


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("MFW_DATABASE__URL", "MFW_DATABASE__URL_FILE", "MFW_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", [apply, status, rollback])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("examples:", "exit codes:", "MFW_DATABASE__URL", f"python -m {command.__name__}"):
        assert word in text


@pytest.mark.parametrize("arguments", [["--nonsense"], []])
def test_wrong_usage_is_2(arguments):
    with pytest.raises(SystemExit) as ended:
        rollback.main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("option", ["--wait", "--lock-timeout", "--statement-timeout"])
@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e400", "86401", "soon"])
def test_a_time_that_never_ends_is_none(option, text, capsys):
    with pytest.raises(SystemExit) as ended:
        apply.main(["--database-url", "postgresql://u@h/d", f"{option}={text}"])
    assert ended.value.code == command_line.EXIT_USAGE
    said = capsys.readouterr().err
    assert f"argument {option}: `{text}` is no number of seconds from" in said


@pytest.mark.parametrize("option", ["--lock-timeout", "--statement-timeout"])
@pytest.mark.parametrize("text", ["0", "0.0001"])
def test_what_postgresql_takes_for_no_limit_is_refused(option, text):
    with pytest.raises(SystemExit) as ended:
        rollback.main(["0001", "--database-url", "postgresql://u@h/d", option, text])
    assert ended.value.code == command_line.EXIT_USAGE


@pytest.mark.parametrize("command", [apply, status])
def test_without_a_database_the_answer_names_the_variable(command, capsys):
    assert command.main([]) == command_line.EXIT_USAGE
    assert "MFW_DATABASE__URL" in capsys.readouterr().err


def test_without_a_database_in_development_too(monkeypatch, capsys):
    monkeypatch.setenv("MFW_ENVIRONMENT", "development")
    assert status.main([]) == command_line.EXIT_USAGE
    assert "--database-url" in capsys.readouterr().err


def test_a_url_of_another_database_is_a_usage_error(capsys):
    assert status.main(["--database-url", "mysql://u:hunter2@h/d"]) == command_line.EXIT_USAGE
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.INVALID_SETTINGS, command_line.EXIT_USAGE),
        (Kind.MALFORMED, command_line.EXIT_USAGE),
        (Kind.SCHEMA_MISMATCH, command_line.EXIT_MISMATCH),
        (Kind.TIMEOUT, command_line.EXIT_FAILED),
        (Kind.UNAVAILABLE, command_line.EXIT_FAILED),
        (Kind.CONFLICT, command_line.EXIT_FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(kind, code, capsys):
    async def work(_):
        raise FirewallError(kind, "it went wrong")

    assert command_line.run(work, given="postgresql://h/d") == code
    assert capsys.readouterr().err == "error: it went wrong\n"


@pytest.mark.parametrize(("found", "code"), [("0002", 0), ("0001", 3), (None, 3)])
def test_the_outcome_says_what_to_type_next(found, code, capsys):
    async def work(_):
        pending = tuple(one for one in ("0001", "0002") if found is None or one > found)
        return Status(current=found, newest="0002", minimum="0002", maximum="0002", pending=pending)

    assert command_line.run(work, given="postgresql://h/d") == code
    said = capsys.readouterr().out
    assert ("next: python -m app.migrations.apply" in said) is (code != 0)
    assert ("does not start" in said) is (code != 0)


def test_apply_waits_for_a_database_that_is_away(monkeypatch, capsys):
    done = Status(current="2", newest="2", minimum="2", maximum="2", pending=())
    answers = [FirewallError(Kind.UNAVAILABLE, "the database cannot be reached"), done]

    async def asked(_dsn):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def applied(_dsn, **_options):
        assert not answers, "it did not wait"
        return done

    monkeypatch.setattr(schema, "status", asked)
    monkeypatch.setattr(schema, "apply", applied)
    monkeypatch.setattr(revision, "ASK_EVERY_SECONDS", 0)
    assert apply.main(["--database-url", "postgresql://u@h/d", "--wait", "60"]) == command_line.EXIT_DONE
    assert capsys.readouterr().err == "waiting: the database cannot be reached\n"


def test_apply_does_not_wait_unless_told(monkeypatch, capsys):
    async def away(_dsn):
        raise FirewallError(Kind.UNAVAILABLE, "the database cannot be reached")

    monkeypatch.setattr(schema, "status", away)
    assert apply.main(["--database-url", "postgresql://u@h/d"]) == command_line.EXIT_FAILED
    assert capsys.readouterr().err == "error: the database cannot be reached\n"


@pytest.mark.parametrize(
    ("status", "said", "unsaid"),
    [
        (
            Status("0002", "0003", "0002", "0003", ("0003",)),
            "when no replica of a release before runs any more",
            "later",
        ),
        (Status("0004", "0003", "0002", "0003", (), "0003"), "a later release made it; the service starts", "takes"),
        (Status("0004", "0003", "0002", "0003", (), "0004"), "does not start on this schema", "later release"),
        (Status("0004", "0003", "0002", "0003", ()), "does not start on this schema", "later release"),
    ],
    ids=["a post migration is pending", "later", "too late", "later, without a word"],
)
def test_what_is_said_while_a_release_is_rolled_out(status, said, unsaid, capsys):
    command_line.say(status)
    text = capsys.readouterr().out
    assert said in text
    assert unsaid not in text
