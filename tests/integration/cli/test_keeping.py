"""`mfw ledger partitions` and what else keeps the ledger in order."""

import json


def test_partitions_are_made(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    made = commands.run("ledger", "partitions", "--ahead", 5, **settings)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("made ledger_") >= 2
    assert "this month and the 5 after it" in made.stdout
    again = commands.run("ledger", "partitions", "--ahead", 5, "--json", **settings)
    assert json.loads(again.stdout) == {"made": [], "moved": 0}


def test_a_database_that_is_away_has_its_exit_code(commands):
    refused = commands.run("ledger", "partitions", MFW_DATABASE__URL="postgresql://u@/d?host=/nowhere")
    assert refused.returncode == 69
    assert "cannot be reached" in refused.stderr
