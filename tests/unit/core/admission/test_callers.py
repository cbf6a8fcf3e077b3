"""Who is an agent, and where something runs, by what was configured."""

import pytest

from app.core.admission.callers import ClusterView, agent_rule, environment_rule, service_account


@pytest.mark.parametrize(
    ("rule", "user", "matches"),
    [
        ("user=system:serviceaccount:ops:bot-*", {"username": "system:serviceaccount:ops:bot-1"}, True),
        ("user=bot", {"username": "bots"}, False),
        ("group=ai", {"username": "u", "groups": ["a", "ai"]}, True),
        ("group=ai", {"username": "u"}, False),
        ("namespace=agents", {"username": "system:serviceaccount:agents:x"}, True),
        ("namespace=agents", {"username": "agents"}, False),
        ("extra=k=v*", {"username": "u", "extra": {"k": ["w", "v1"]}}, True),
        ("extra=k=v*", {"username": "u", "extra": {"l": ["v1"]}}, False),
        ("extra=k=v*", {"username": "u", "extra": None}, False),
    ],
)
def test_what_tells_an_agent(rule, user, matches):
    assert agent_rule(rule).matches(user) is matches


@pytest.mark.parametrize("text", ["", "agents", "label=a=b", "user=", "extra=k", "extra==v", "user=**"])
def test_what_is_no_rule_for_agents(text):
    with pytest.raises(ValueError, match=r"."):
        agent_rule(text)


@pytest.mark.parametrize("text", ["", "shop", "shop=", "=prod"])
def test_what_is_no_rule_for_environments(text):
    with pytest.raises(ValueError, match=r"."):
        environment_rule(text)


def test_the_first_rule_that_fits_says_the_environment():
    view = ClusterView(environments=(environment_rule("*-staging=staging"), environment_rule("*=production")))
    assert [view.environment(name) for name in ("a-staging", "a", "")] == ["staging", "production", "production"]
    assert ClusterView().environment("a") is None


@pytest.mark.parametrize(
    ("username", "account"),
    [
        ("system:serviceaccount:a:b", ("a", "b")),
        ("system:serviceaccount::b", None),
        ("system:serviceaccount:a:", None),
        ("a:b", None),
    ],
)
def test_service_accounts(username, account):
    assert service_account(username) == account
