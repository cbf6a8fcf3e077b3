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


class Known:
    """Two service accounts of namespace `a`, one with a label."""

    def labels_of(self, namespace, name):
        return {("a", "bot"): {"agent": "yes"}, ("a", "plain"): {}}.get((namespace, name))


@pytest.mark.parametrize(
    ("username", "accounts", "agent"),
    [
        ("system:serviceaccount:a:bot", Known(), True),
        ("system:serviceaccount:a:plain", Known(), False),
        # Doubt makes an agent: a service account that nobody knows, and one of which nobody is asked.
        ("system:serviceaccount:a:new", Known(), True),
        ("system:serviceaccount:a:plain", None, True),
        ("jane", None, False),
        ("system:node:a", None, False),
    ],
)
def test_a_label_of_the_service_account(username, accounts, agent):
    view = ClusterView(agents=(agent_rule("label=agent=y*"),), accounts=accounts)
    assert (view.subject_type({"username": username}) == "agent") is agent
    assert not agent_rule("label=agent=no").matches({"username": "system:serviceaccount:a:bot"}, Known())
    assert not agent_rule("label=other=*").matches({"username": "system:serviceaccount:a:bot"}, Known())


@pytest.mark.parametrize(
    "text", ["", "agents", "label=a", "labels=a=b", "label==b", "user=", "extra=k", "extra==v", "user=**"]
)
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
