"""A policy is judged by what stands in it: it loads nothing, calls nobody and reads no environment.

A loader with rights of its own that follows what a document names does its author's bidding (Kyverno: CVE-2026-22039,
CVE-2026-41068).
"""

import datetime as dt
import os

import pytest

from app.core.cel import ExpressionError, ResultType, compile_expression
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.errors import FirewallError
from app.policies.load import load_directory
from app.surfaces.native.wire import mutation_from_wire

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: p}
spec:
  match: {resources: [{type: "*"}]}
  rules:
    - {name: r, effect: deny, when: "true", message: MESSAGE}
"""
MUTATION = mutation_from_wire(
    {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "t", "id": "r"},
        "change": {"after": {}},
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "${HOME}",
        "$(cat /etc/passwd)",
        "{{ env.HOME }}",
        "file:///etc/passwd",
        "@/etc/passwd",
        "%(HOME)s",
        "{0.__class__}",
    ],
)
def test_a_text_is_shown_as_it_is_written(tmp_path, text):
    (tmp_path / "p.yaml").write_text(POLICY.replace("MESSAGE", f'"{text}"'))
    verdict = decide(load_directory(tmp_path), normalise(MUTATION), NOW)
    assert (verdict.effect, verdict.reasons[0].message) == (Effect.DENY, text)


@pytest.mark.parametrize(
    "tagged",
    [
        "!include /etc/passwd",
        "!!python/object/apply:os.getenv [HOME]",
        "!!python/name:os.environ",
        "!ENV HOME",
        "!file /etc/passwd",
        "!vault secret/x",
    ],
)
def test_a_tag_loads_nothing(tmp_path, tagged):
    (tmp_path / "p.yaml").write_text(POLICY.replace("MESSAGE", tagged))
    with pytest.raises(FirewallError) as caught:
        load_directory(tmp_path)
    assert os.environ.get("HOME", "-") not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "http.send({'url': 'http://169.254.169.254/'}).status == 200",
        "httpGet('http://169.254.169.254/') == ''",
        "env('HOME') != ''",
        "getenv('HOME') != ''",
        "file('/etc/passwd') != ''",
        "read('/etc/passwd') != ''",
        "__import__('os') != null",
        "eval('1') == 1",
        "open('/etc/passwd') != ''",
        "opa.runtime().env.HOME != ''",
        "resource.Get('v1', 'secrets', 'default', 'x') != null",
        "globalContext.x != null",
    ],
)
def test_no_expression_reaches_out(expression):
    with pytest.raises(ExpressionError):
        compile_expression(expression, result=ResultType.BOOL)
