import pytest

from app.core.tool_calls import skeleton


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bash", "bash"),
        ("read_file", "read-file"),
        ("read_file", "read.fi1e"),
        ("read_file", "read_fiIe"),
        ("list", "1ist"),
        ("zoom", "200m"),
        ("modern", "rnodem"),
        ("write", "vvrite"),
        ("s3", "53"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(one, other):
    assert skeleton(one) == skeleton(other)


def test_names_that_do_not_have_two():
    assert skeleton("read_file") != skeleton("write_file")
