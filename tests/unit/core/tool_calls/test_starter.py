"""The cases of the starter policies for agents' tools are what the firewall makes of calls."""

import pytest

from app.core.tool_calls import read_tool_call
from tests.corpus.cases import load

CASES = [case for case in load() if "command" in case.mutation.get("context", {})]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_a_part_of_the_call_that_it_names(case):
    context = case.mutation["context"]
    call = read_tool_call("Bash", {"command": context["command"]}, cwd=context["cwd"])
    parts = [
        {"action": part.action, "resource": part.resource, "change": part.change, "context": part.context}
        for part in call.parts
    ]
    assert {name: value for name, value in case.mutation.items() if name != "subject"} in parts
    assert context["command"] in case.name


def test_there_are_such_cases():
    assert len(CASES) > 80
