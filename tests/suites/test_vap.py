"""Published ValidatingAdmissionPolicies, and the verdicts that a cluster gives: every case, for the right reason.

The cases are data of others and no part of the project: where their folder is not, these tests are skipped.
"""

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app.core.decide import RULE_ERROR, decide
from app.core.index import CompiledPolicySet
from app.core.normalise import normalise
from app.core.types import Effect, Mutation
from app.policies.load import check_documents

SUITE = Path(__file__).parents[3] / "shared" / "suites" / "vap"
NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)
ALLOW = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "allow"},
    "spec": {"match": {"resources": [{"type": "*"}]}, "rules": [{"name": "all", "effect": "allow"}]},
}

# Not skipped one by one, which CI forbids: where the folder is not, nothing is collected, and the header says so.
if not SUITE.is_dir():
    pytest.skip(f"the suite `{SUITE}` is not here", allow_module_level=True)


def cases():
    with (SUITE / "cases.jsonl").open() as lines:
        found = [json.loads(line) for line in lines]
    return [
        pytest.param(case, id=f"{number}-{case['policy'].split('/')[-1][:20]}-{case['expected']}")
        for number, case in enumerate(found)
    ]


@cache
def policies():
    found = {}
    for file in sorted((SUITE / "policies").glob("*.yaml")):
        for document in YAML(typ="safe", pure=True).load_all(file.read_text()):
            found[document["metadata"]["name"]] = found[file.stem] = document
    return found


@cache
def compiled(policy: str, params: str) -> CompiledPolicySet:
    document = policies()[policy]
    spec = {"policyName": document["metadata"]["name"], "validationActions": ["Deny"]}
    documents = [ALLOW, document]
    if "paramKind" in document["spec"]:
        parameter = json.loads(params)
        spec["paramRef"] = {"name": parameter["metadata"]["name"], "parameterNotFoundAction": "Deny"}
        documents.append(parameter)
    documents.append(
        {
            "apiVersion": document["apiVersion"],
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "binding"},
            "spec": spec,
        }
    )
    checked = check_documents(documents)
    assert checked.policy_set is not None, [str(one) for one in checked.diagnostics]
    assert not checked.diagnostics
    return checked.policy_set


@pytest.mark.parametrize("case", cases())
def test_every_case_is_right_for_the_right_reason(case):
    policy_set = compiled(case["policy"], json.dumps(case["params"], sort_keys=True))
    before = {"before": case["object"]} if case["operation"] == "UPDATE" else {}
    kind = case["object"]["kind"]
    mutation = Mutation(
        {"type": "user", "id": "someone", "properties": {}},
        {"name": case["operation"].lower(), "properties": {}},
        {"type": f"x/{kind}", "id": case["object"]["metadata"].get("name", "x"), "properties": {}},
        {**before, "after": case["object"]},
        {},
    )
    verdict = decide(policy_set, normalise(mutation), NOW)
    if case["expected"] == "pass":
        assert verdict.effect is Effect.ALLOW, verdict.reasons
        assert [reason.policy for reason in verdict.reasons] == ["allow"]
    else:
        assert verdict.effect is Effect.DENY
        false = [reason for reason in verdict.reasons if not reason.message.startswith(RULE_ERROR)]
        assert false, verdict.reasons
        assert {reason.rule.split("[")[0] for reason in false} == {"validations"}
        assert {reason.binding for reason in verdict.reasons} == {"binding"}


def test_the_suite_is_whole():
    assert len(cases()) == 307
    assert len({document["metadata"]["name"] for document in policies().values()}) == 30
