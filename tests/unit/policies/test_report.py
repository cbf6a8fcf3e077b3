"""Findings for people, for GitHub and for code scanning."""

import json
from pathlib import Path

import jsonschema

from app.policies.diagnostics import Diagnostic, Severity
from app.policies.report import github, sarif, text_lines

HERE = Path("policies/x")
FOUND = Diagnostic("a b.yaml", 2, 4, "spec.mdoe", "unknown member `mdoe`", "did you mean `mode`?")
WARNING = Diagnostic("", 0, 0, "", "odd: 100%,\nreally", severity=Severity.WARNING, code="odd")

# What SARIF 2.1.0 (OASIS, sections 3.13 to 3.30) asks of a log, as far as it concerns this one.
ESSENTIALS = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "properties": {
                                                "shortDescription": {"required": ["text"]},
                                                "defaultConfiguration": {
                                                    "properties": {
                                                        "level": {"enum": ["none", "note", "warning", "error"]}
                                                    }
                                                },
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "properties": {
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "message": {"type": "object", "required": ["text"]},
                                "locations": {
                                    "type": "array",
                                    "items": {
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "properties": {"uri": {"type": "string", "pattern": "^[^ ]+$"}}
                                                    },
                                                    "region": {
                                                        "properties": {
                                                            "startLine": {"type": "integer", "minimum": 1},
                                                            "startColumn": {"type": "integer", "minimum": 1},
                                                        }
                                                    },
                                                },
                                            }
                                        }
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def text(found, source):
    return [line for _, line in text_lines(found, directory=HERE, source=source)]


def test_the_caret_stands_under_the_word():
    assert text(FOUND, "spec:\n   mdoe: x\n") == [
        "policies/x/a b.yaml:2:4: error: spec.mdoe: unknown member `mdoe` [invalid-policy]",
        "  2 |    mdoe: x",
        "    |    ^~~~",
        "    = did you mean `mode`?",
    ]


def test_a_tab_before_it_stays_a_tab():
    assert text(FOUND, "spec:\n\t\t\tmdoe: x\n")[2] == "    | \t\t\t^~~~"


def test_a_long_line_is_cut_around_the_place():
    found = Diagnostic("a.yaml", 1, 5001, "", "wrong")
    _, line, caret = text(found, "x " * 2500 + "HERE" + " y" * 2500)
    assert len(line) < 180
    assert line[caret.index("^") :].startswith("HERE")


def test_without_a_place_or_a_source_there_is_one_line():
    assert text(WARNING, None)[0].startswith("policies/x: warning: odd: 100%")
    assert len(text(FOUND, None)) == 2
    assert len(text(FOUND, "one line")) == 2


def test_github_escapes_what_it_must():
    assert github(FOUND, directory=HERE) == (
        "::error file=policies/x/a b.yaml,line=2,col=4,title=invalid-policy::"
        "spec.mdoe: unknown member `mdoe`; did you mean `mode`?"
    )
    assert github(WARNING, directory=Path("a,b:c")) == "::warning file=a%2Cb%3Ac,title=odd::odd: 100%25,%0Areally"


def test_sarif():
    log = sarif([FOUND, WARNING], directory=HERE, version="1.2.3")
    jsonschema.validate(json.loads(json.dumps(log)), ESSENTIALS)
    run = log["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]][-1] == "odd"
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert run["results"][0]["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "policies/x/a%20b.yaml"},
        "region": {"startLine": 2, "startColumn": 4},
    }
    assert [result["level"] for result in run["results"]] == ["error", "warning"]
    absolute = sarif([FOUND], directory=Path("/p"), version="1")["runs"][0]["results"][0]
    assert absolute["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///p/a%20b.yaml"
