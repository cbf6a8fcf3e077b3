"""The file of entities."""

import pytest

from app.errors import FirewallError, Kind
from app.surfaces.authzen.entities import FILE_BYTES_MAX, read_entities


def test_a_good_file(tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text(
        "subjects: [{type: agent, id: a, properties: {owner: o}}]\nresources: [{type: t, id: r}]\nactions: [{name: update}]\n"
    )
    found = read_entities(file)
    assert found.subjects == ({"type": "agent", "id": "a", "properties": {"owner": "o"}},)
    assert found.resources == ({"type": "t", "id": "r", "properties": {}},)
    assert found.actions == ("update",)
    file.write_text("{}")
    assert read_entities(file).subjects == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "is not an object"),
        (b"people: []", "is not an object of `subjects`"),
        (b"subjects: {}", "`subjects` is not a list"),
        (b"subjects: [{type: agent}]", "`subjects[0]`: member `subject.id` is missing"),
        (b"resources: [7]", "`resources[0]`"),
        (b"actions: [update]", "`actions[0]`"),
        (b"actions: [{nam: update}]", "`actions[0]`"),
        (b"a: 1\n---\nb: 2", "is not one document"),
        (b"a: [", "line "),
        (b"\xff", "is not UTF-8"),
        (b"#" * (FILE_BYTES_MAX + 1), "bytes"),
    ],
)
def test_what_is_refused(tmp_path, content, said):
    file = tmp_path / "e.yaml"
    file.write_bytes(content)
    with pytest.raises(FirewallError) as caught:
        read_entities(file)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert said in caught.value.detail


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FirewallError, match="cannot be read"):
        read_entities(tmp_path / "nothing")
