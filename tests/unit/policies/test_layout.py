"""The canonical layout: meaning and comments stay, and laying out twice is laying out once."""

import random
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.canonical import digest
from app.policies.layout import WIDTH, layout
from app.policies.load import load_directory
from app.policies.shape import KINDS
from app.policies.tree import TreeError, documents
from tests.seeds import seed
from tests.unit.policies.test_schema import EXCEPTION, GOOD

ROOT = Path(__file__).parents[3]
CASES = 25
SHIPPED = [*sorted((ROOT / "policies").rglob("*.yaml"))]


def laid_out(text):
    return layout(textwrap.dedent(text))


def plain(text):
    return [root.plain() for root in documents(text)]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_is_shipped_is_laid_out(file):
    assert layout(file.read_text()) == file.read_text()


def test_the_digest_of_a_set_stays(tmp_path):
    text = (ROOT / "policies" / "starter" / "sql.yaml").read_text()
    (tmp_path / "a.yaml").write_text(
        text.replace("      effect:", "      effect:    ").replace("\n---\n", "\n\n---\n# x\n")
    )
    before = load_directory(tmp_path).digest
    (tmp_path / "a.yaml").write_text(layout((tmp_path / "a.yaml").read_text()))
    assert load_directory(tmp_path).digest == before


def test_everything_at_once():
    before = """\
    # what this is
    kind:   MutationPolicy
    apiVersion: 'mutationfirewall.io/v1'   # the only one


    metadata: { name: p,labels: {team: "sre"} }
    spec:
        # rules first
        rules:
          # the small one
          - effect: allow   # harmless
            name: small
            when: >-
                a <
                2

                || b
          - name: large
            effect: hold
            # when: "commented out"

          # the huge one
          - {name: huge, effect: deny, message: "it is 'huge' and \\"quoted\\"", when: "change.after.size > 100 && change.after.size < 1000000"}
          # the end of the rules
        match: {actions: [update,  patch], # which
                resources: [{type: box}]}
    # the end
    """
    assert laid_out(before) == textwrap.dedent(
        """\
        # what this is
        apiVersion: "mutationfirewall.io/v1"  # the only one
        kind: MutationPolicy

        metadata: {name: p, labels: {team: "sre"}}
        spec:
          match:
            actions: [update, patch]  # which
            resources: [{type: box}]
          # rules first
          rules:
            # the small one
            - name: small
              effect: allow  # harmless
              when: >-
                a <
                2

                || b
            - name: large
              effect: hold
              # when: "commented out"

            # the huge one
            - name: huge
              effect: deny
              when: "change.after.size > 100 && change.after.size < 1000000"
              message: "it is 'huge' and \\"quoted\\""
            # the end of the rules
        # the end
        """
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("# only words\n\n\n# and more\n", "# only words\n\n# and more\n"),
        ("a", "a\n"),
        ("---\na: 1\n...\n---\n# two\nb: 2\n", "a: 1\n---\n# two\nb: 2\n"),
        ("a: |\n    x\n\n\n    y  \n\n\nb: 1\n", "a: |\n  x\n\n\n  y  \n\nb: 1\n"),
        ("a: |+ # kept\n    x\n\nb: 1\n", "a: |+  # kept\n  x\n\nb: 1\n"),
        ("a: |2\n   x\nb: 1\n", 'a: " x\\n"\nb: 1\n'),
        ("a: >\n  x\n   y\n", "a: >\n  x\n   y\n"),
        ("a:\n  # why\n  'x'\n", '# why\na: "x"\n'),
        ("- - a\n  - b\n- c\n", "- - a\n  - b\n- c\n"),
        ("-\n  # first\n  a: 1\n  b: 2\n", "# first\n- a: 1\n  b: 2\n"),
        ("a: [ ]\nb: { }\nc:\n", "a: []\nb: {}\nc:\n"),
        ("a: [x, # one\n  y]\n", "a:\n  - x  # one\n  - y\n"),
        ("a: [x\n # end\n ]\nb: 1\n", "a:\n  - x\n  # end\nb: 1\n"),
        ("a: 'it''s'\n", 'a: "it\'s"\n'),
        ("a: 'say \"x\"'\n", "a: 'say \"x\"'\n"),
        ('a: "\\\\d+\\n"\n', 'a: "\\\\d+\\n"\n'),
        ("a: '\\d'\n", "a: '\\d'\n"),
        ("a: b\n   c\n", "a: b c\n"),
        ("a: {b: }\n", "a: {b: null}\n"),
        ("a: 1\r\nb: 2\r\n", "a: 1\nb: 2\n"),
        ("- {a: 1} # x\n- b # y\n", "- {a: 1}  # x\n- b  # y\n"),
        ("a:   # words\n  b: 1\n", "a:  # words\n  b: 1\n"),
        ("--- # head\na: 1\n", "# head\na: 1\n"),
        ("a: x#y\n", "a: x#y\n"),
    ],
)
def test_small_ones(before, after):
    assert layout(before) == after
    assert plain(after) == plain(before)


def test_a_long_line_is_opened():
    text = "a: [" + ", ".join(["word"] * 40) + "]\n"
    assert layout(text) == "a:\n" + "  - word\n" * 40
    assert max(map(len, layout("a: {b: [" + ", ".join(["word"] * 18) + "]}").splitlines())) <= WIDTH


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "a: &x 1\n", "\ta: 1\n"])
def test_what_is_no_policy_file_is_refused(text):
    with pytest.raises(TreeError):
        layout(text)


# Documents written in many ways: a writer with a free hand.

WORDS = st.sampled_from(
    ["a", "b c", "x: y", "it's", 'say "x"', "back\\slash", "# no comment", "two\nlines", "é", "- x", "true", ""]
)
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), WORDS)
KEYS = st.sampled_from(["name", "effect", "when", "message", "spec", "rules", "match", "metadata", "kind", "a b", "x"])
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def written(trees, pick):
    """A file of these documents in block and flow style, with comments and blank lines wherever they may stand."""
    number = iter(range(1000))

    def comment():
        return pick(["", "", "", "\n", "# {}\n", "\n\n# {}\n", "  # {}\n"]).replace("{}", f"c{next(number)}")

    def tail():
        return pick(["", "", f"  # t{next(number)}", " "])

    def scalar(value):
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return str(value)
        double = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        single = "'" + value.replace("'", "''") + "'"
        return pick([double] if "\n" in value else [double, single])

    def flow(value):
        if isinstance(value, list):
            return "[" + ",".join(pick(["", " "]) + flow(item) for item in value) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
        return scalar(value)

    def block(value, indent):
        pad = " " * indent
        if not isinstance(value, (list, dict)) or not value or pick([False, True]):
            return " " + flow(value) + tail() + "\n"
        step = pick([1, 2, 3])
        inner = " " * (indent + step)
        lines = tail() + "\n"
        for name, item in enumerate(value) if isinstance(value, list) else value.items():
            lines += "".join(
                f"{inner if pick([False, True]) else pad}{line.lstrip()}\n" if line else "\n"
                for line in comment().splitlines()
            )
            lines += inner + ("-" if isinstance(value, list) else f"{scalar(name)}:") + block(item, indent + step)
        return lines

    text = ""
    for position, tree in enumerate(trees):
        text += comment() + ("---" if position or pick([False, True]) else "")
        text += "\n" + comment() if text.endswith("---") else ""
        if isinstance(tree, dict) and tree:
            text += "".join(f"{comment()}{scalar(name)}:{block(item, 0)}" for name, item in tree.items())
        else:
            text += flow(tree) + "\n"
    return text + comment()


@given(st.data())
def test_meaning_and_comments_stay_and_twice_is_once(data):
    def pick(options):
        return data.draw(st.sampled_from(options))

    text = written(data.draw(st.lists(TREES, min_size=1, max_size=3)), pick)
    expected = plain(text)
    once = layout(text)
    assert digest(plain(once)) == digest(expected)
    assert layout(once) == once


def shuffled(tree, pick):
    """The same with the members of every object in another order."""
    if isinstance(tree, dict):
        return {name: shuffled(tree[name], pick) for name in pick.sample(list(tree), len(tree))}
    return [shuffled(item, pick) for item in tree] if isinstance(tree, list) else tree


def test_every_member_of_every_kind_keeps_its_meaning_and_finds_its_place():
    # By `random`, not by draws of hypothesis: whole documents take hundreds each, and the text says the case as well.
    begin = seed()
    for case in range(CASES):
        pick = random.Random(f"{begin}-{case}")
        trees = [shuffled(pick.choice([GOOD, EXCEPTION]), pick) for _ in range(pick.randint(1, 3))]
        in_its_place(written(trees, pick.choice))


def in_its_place(text):
    once = layout(text)
    assert digest(plain(once)) == digest(plain(text))
    assert layout(once) == once
    for root in plain(once):
        kind = KINDS[root["kind"]]
        spec = next(part for part in kind if part.name in {"spec", "exceptionSpec"})
        assert list(root["spec"]) == [name for name in spec.known if name in root["spec"]]
        match = next(part for part in kind if part.name == "match")
        assert list(root["spec"]["match"]) == [name for name in match.known if name in root["spec"]["match"]]


@given(st.text(alphabet="ab:-[]{}|>'\"#, \n\t01\\é\r\x85", max_size=60))
def test_any_text_is_laid_out_or_refused(text):
    try:
        once = layout(text)
    except TreeError:
        return
    assert plain(once) == plain(text)
    assert layout(once) == once
