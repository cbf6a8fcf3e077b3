"""What the chart has in two places is the same in both."""

import json
import re

import jsonschema
import pytest

from app.settings import variables
from helm.generate import CHART, files, values
from tests.helm.chart import CHART as SAME_CHART
from tests.helm.chart import MINIMAL, refusal

HELPERS = (CHART / "templates" / "_helpers.tpl").read_text()


def test_everything_is_generated() -> None:
    made = dict(files())
    assert {path: path.read_text() for path in made if path.exists()} == made, "run: python helm/generate.py"
    assert set((CHART / "files").rglob("*.*")) <= set(made), "run: python helm/generate.py"
    assert CHART == SAME_CHART


def test_every_value_says_what_it_is() -> None:
    assert [value.path for value in values() if not value.meaning] == []
    assert len({value.path for value in values()}) == len(values())


def test_the_schema_takes_the_defaults_and_is_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    def sections(of: dict[str, object]) -> None:
        if isinstance(found := of.get("properties"), dict):
            assert of["additionalProperties"] is False
            for one in found.values():
                sections(one)

    sections(schema)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"replica": 3}, "'replica'"),
        ({"webhook": {"enable": True}}, "'enable'"),
        ({"replicas": None}, "replicas"),
        ({"replicas": "3"}, "/replicas"),
        ({"replicas": -1}, "/replicas"),
        ({"environment": "prod"}, "/environment"),
        ({"settings": {"MFW_LIMITS__PER_MINUTE": 1_000_000}}, "/settings/MFW_LIMITS__PER_MINUTE"),
        ({"settings": {"PYTHONPATH": "/tmp"}}, "PYTHONPATH"),
        ({"secretSettings": {"MFW_GITHUB__TOKEN": "ghp_0"}}, "/secretSettings/MFW_GITHUB__TOKEN"),
        ({"secretSettings": {"MFW_GITHUB__TOKEN": {"name": "a"}}}, "'key'"),
        ({"secretSettings": {"MFW_GITHUB__TOKEN": {"name": "a", "key": "b", "value": "c"}}}, "'value'"),
        ({"image": {"digest": "sha256:0"}}, "/image/digest"),
        ({"webhook": {"timeoutSeconds": 31}}, "/webhook/timeoutSeconds"),
        ({"webhook": {"failurePolicy": "fail"}}, "/webhook/failurePolicy"),
        ({"tls": {"source": "selfSigned"}}, "/tls/source"),
        ({"integrity": {"schedule": "daily"}}, "/integrity/schedule"),
        ({"policies": {"files": {"../a.yaml": ""}}}, "../a.yaml"),
        ({"podLabels": {"app.kubernetes.io/component": "other"}}, "app.kubernetes.io/component"),
        ({"commonLabels": {"app.kubernetes.io/name": "other"}}, "app.kubernetes.io/name"),
        ({"migrations": {"databaseUrl": {"name": "a"}}}, "/migrations/databaseUrl"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"backup": {"keepDays": 0}}, "/backup/keepDays"),
        ({"controller": {"apiKey": "mfw_0"}}, "/controller/apiKey"),
        ({"controller": {"authority": {"key": "ca.crt"}}}, "/controller/authority"),
        ({"controller": {"exceptionNamespaces": ["*"]}}, "/controller/exceptionNamespaces"),
        ({"controller": {"also": {"../a.yaml": ""}}}, "../a.yaml"),
    ],
    ids=str,
)
def test_what_the_schema_refuses(given: dict[str, object], said: str) -> None:
    told = refusal(MINIMAL, values=given)
    assert "values don't meet the specifications" in told
    assert said in told


def test_the_chart_itself_works_for_another_one_that_depends_on_it() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert "global" in schema["properties"]
    assert "global" not in schema["required"]


def test_the_secret_settings_are_those_of_the_service() -> None:
    (listed,) = re.findall(r"range \$name := list (.*) -}}", HELPERS)
    assert sorted(re.findall(r'"(\w+)"', listed)) == sorted(one.name for one in variables() if one.secret)


def test_the_settings_of_the_chart_exist() -> None:
    known = {variable.name for variable in variables()}
    templates = "".join(path.read_text() for path in CHART.rglob("*.tpl")) + (CHART / "values.yaml").read_text()
    # What ends with an underscore is the beginning of several.
    written = set(re.findall(r"MFW_[A-Z][A-Z_]*[A-Z](?![A-Z_])", templates))
    assert len(written) > 20
    assert written <= known, written - known
