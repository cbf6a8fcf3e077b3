"""Definitions: what is kept of a list, what a change needs, what pins say."""

import json
from typing import Any

import pytest

from app.gateway.definitions import (
    ASK_AGAIN_SECONDS,
    Definition,
    Definitions,
    Doubt,
    PinsError,
    read,
    read_pins,
    sorted_out,
    written_pins,
)
from app.gateway.verdicts import Verdict, refusal


def tool(name: str = "a", **members: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **members}


def definition(name: str = "a", **members: Any) -> Definition:
    found = read("s", tool(name, **members))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"description": "x"},
        {"title": "x"},
        {"inputSchema": {}},
        {"outputSchema": {}},
        {"annotations": {"readOnlyHint": True}},
        {"execution": {"taskSupport": "required"}},
        {"name": "b"},
    ],
)
def test_whatever_somebody_acts_on_changes_the_digest(changed):
    found = read("s", {**tool(), **changed})
    assert found is not None
    assert found.digest != definition().digest


@pytest.mark.parametrize("same", [{"_meta": {"x": 1}}, {"icons": []}, {"description": None}])
def test_what_nobody_acts_on_does_not(same):
    assert definition(**same).digest == definition().digest


@pytest.mark.parametrize("listed", [None, [], {}, {"name": 1}, {"name": "a", "inputSchema": {"n": 2**70}}])
def test_what_is_no_definition(listed):
    assert read("s", listed) is None


def test_annotations_that_are_none():
    assert definition(annotations=3).annotations == {}
    assert definition(annotations={"destructiveHint": True}).annotations == {"destructiveHint": True}


def test_of_tools_that_look_alike_none_is_kept():
    kept, doubted = sorted_out(
        "s", [tool("a"), tool("List_Files"), tool("list-fiIes"), tool("LIST.FILES"), tool("ü"), tool("b"), tool("b"), 7]
    )
    assert sorted(kept) == ["a"]
    assert dict(doubted) == {
        "list-fiIes": Doubt.ALIKE,
        "LIST.FILES": Doubt.ALIKE,
        "List_Files": Doubt.ALIKE,
        "b": Doubt.ALIKE,
        "ü": Doubt.NAME,
        "?": Doubt.MALFORMED,
    }


class Asked:
    """A firewall that says what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.verdict = refusal("deny", "no", fix="none")

    async def __call__(self, before: Definition, after: Definition) -> Verdict:
        self.asked.append((before.digest, after.digest))
        return self.verdict


async def test_another_definition_needs_an_allow():
    now = 0.0
    asked = Asked()
    definitions = Definitions(asked, clock=lambda: now)
    old, new = definition(), definition(description="x")
    assert await definitions.doubt(old) is None
    assert await definitions.doubt(new) is asked.verdict
    assert await definitions.doubt(new) is asked.verdict
    assert asked.asked == [(old.digest, new.digest)]
    # A server that changes all the time is not asked about all the time.
    third = await definitions.doubt(definition(description="y"))
    assert third is not None
    assert third.facts["refused"] == "changing"
    assert len(asked.asked) == 1
    # The old one still is what it was, and people may agree to the new one.
    assert await definitions.doubt(old) is None
    now += ASK_AGAIN_SECONDS
    asked.verdict = Verdict(allowed=True)
    assert await definitions.doubt(new) is None
    assert len(asked.asked) == 2
    # From now on that is the one, and going back is a change too.
    assert await definitions.doubt(new) is None
    asked.verdict = refusal("deny", "no", fix="none")
    assert await definitions.doubt(old) is asked.verdict


async def test_a_pin_is_not_up_for_a_decision():
    asked = Asked()
    asked.verdict = Verdict(allowed=True)
    pinned = definition()
    definitions = Definitions(asked, pins={("s", "a"): pinned.digest})
    assert await definitions.doubt(pinned) is None
    for other, words in ((definition(description="x"), "not the one"), (definition("b"), "not pinned")):
        found = await definitions.doubt(other)
        assert found is not None
        assert words in found.text
    assert asked.asked == []


def test_pins_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "pins.json"
    file.write_text(written_pins([definition("b"), definition("a")]))
    assert read_pins(file) == {("s", "a"): definition("a").digest, ("s", "b"): definition("b").digest}
    assert file.read_text() == written_pins([definition("a"), definition("b")])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "tools": 3}', '{"version": 1, "tools": {"a": 1}}', json.dumps({"version": 2, "tools": {}})])  # fmt: skip
def test_what_is_no_file_of_pins(tmp_path, content):
    file = tmp_path / "pins.json"
    file.write_text(content)
    with pytest.raises(PinsError):
        read_pins(file)
