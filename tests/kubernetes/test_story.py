"""What `make kubernetes-check` tells, and what a stranger types after `docs/install.md`, on the API server of the tests."""

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import Node
from tests.kubernetes.story import Command, commands, told

# A whole installation, from its first pod to its last; far more than it takes.
pytestmark = pytest.mark.timeout(1200, func_only=True)


def test_the_trial_of_the_page(alone: Cluster, server_dsn: str) -> None:
    said: list[str] = []
    with Node(alone, server_dsn) as node:
        told(alone, node, said.append)
    story = "\n".join(said)
    for words in (
        "denied by policy `k8s-deployment`, rule `to-zero`",
        "held by policy `k8s-deployment`, rule `large-scale`",
        "deployment.apps/checkout scaled",
        "Phase:          Succeeded",
        'mfw_decisions_total{effect="deny"} ',
        "nothing: ",
    ):
        assert words in story, words


def test_the_page_has_three_commands_before_the_agent_is_denied() -> None:
    lines = [command.line for command in commands()]
    assert [line.split()[0] for line in lines[:3]] == ["kubectl", "helm", "kubectl"]
    assert "Error from server (Forbidden)" in commands()[2].shown


@pytest.mark.parametrize(
    ("shown", "answer", "fits"),
    [
        ("made\n", "made\n", True),
        ("made\n", "made it\n", True),
        ("made\n", "not made\n", False),
        ("id ..., entry ...\n", "id 4, entry 5)\n", True),
        ("id ..., entry ...\n", "id 4\n", False),
        ("first\n...\nlast\n", "first\nlast\n", True),
        ("first\n...\nlast\n", "first\n1\n2\nlast\n", True),
        ("first\n...\nlast\n", "first\n1\n2\n", False),
        ("...\nlast\n...\n", "first\nlast\nmore\n", True),
        ("...\nlast\n...\n", "last\n", True),
    ],
)
def test_dots_stand_for_anything(shown: str, answer: str, fits: bool) -> None:
    assert Command("", shown).fits(answer) is fits
