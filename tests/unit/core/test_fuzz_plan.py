"""Hostile plans, and hostile lists of tools: they are read, or refused in words; nothing else happens."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from app.core import strict_json
from app.core.normalise import normalise
from app.core.plan import read_plan
from app.core.types import Mutation
from app.errors import FirewallError, Kind
from tests.corpus.hostile import hostile

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SECRET = "correct-horse-battery"
PLAN = {
    "format_version": "1.2",
    "terraform_version": "1.9.0",
    "applyable": True,
    "complete": True,
    "errored": False,
    "variables": {"password": {"value": SECRET}},
    "planned_values": {},
    "resource_drift": [{"address": "aws_db_instance.a"}],
    "resource_changes": [
        {
            "address": 'module.a["x"].aws_db_instance.a',
            "module_address": 'module.a["x"]',
            "mode": "managed",
            "type": "aws_db_instance",
            "name": "a",
            "index": 0,
            "provider_name": "registry.terraform.io/hashicorp/aws",
            "change": {
                "actions": ["delete", "create"],
                "before": {"password": SECRET, "tags": {"a": "1"}, "ports": [1, 2], "url": f"db://u:{SECRET}@h"},
                "after": {"password": SECRET, "tags": {"a": "2"}, "ports": [1, 3]},
                "after_unknown": {"url": True, "tags": {}, "ports": [False, True]},
                "before_sensitive": {"password": True, "ports": [False, False]},
                "after_sensitive": {"password": True, "tags": {}},
                "replace_paths": [["ports", 1]],
                "importing": {"id": "i"},
            },
            "action_reason": "replace_because_cannot_update",
        }
    ],
    "output_changes": {"o": {"actions": ["create"], "before": None, "after": "x", "after_unknown": False}},
    "action_invocations": [{"address": "action.a.b", "type": "aws_lambda_invoke", "config_values": {"p": "x"}}],
    "configuration": {
        "root_module": {
            "variables": {"password": {"sensitive": True}},
            "resources": [{"address": "aws_db_instance.a", "provisioners": [{"type": "local-exec"}]}],
            "module_calls": {"a": {"module": {"resources": []}}},
        }
    },
}


def mutations(body):
    for one in read_plan(strict_json.parse(body).tree).changes:
        yield Mutation(
            {"type": "agent", "id": "a", "properties": {}},
            {"name": one.action, "properties": one.action_properties},
            {"type": one.type, "id": one.address, "properties": one.properties},
            one.change,
            {"terraform": one.context},
        )


@QUICK
@given(hostile([PLAN]))
def test_a_plan_is_read_or_refused(body):
    read: list[Any] = []
    refused = None
    try:
        read = list(mutations(body))
    except FirewallError as error:
        refused = error.kind
    assert refused in {None, Kind.MALFORMED, Kind.TOO_LARGE}
    for mutation in read:
        with contextlib.suppress(FirewallError):
            normalise(mutation)


def test_a_secret_of_a_plan_is_nowhere_in_what_is_asked():
    asked = json.dumps([mutation[:5] for mutation in mutations(json.dumps(PLAN).encode())])
    assert "aws_db_instance" in asked
    assert SECRET not in asked


def test_a_drift_whose_address_is_no_text_is_refused():
    with pytest.raises(FirewallError) as refused:
        read_plan({**PLAN, "resource_drift": [{"address": ["a"]}]})
    assert refused.value.pointer == "/resource_drift/0/address"
