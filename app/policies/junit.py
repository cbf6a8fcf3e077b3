"""Results of policy tests as JUnit XML, the form that CI systems show."""

from collections.abc import Iterable
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, tostring

from app.policies.testing import Result


def junit(results: Iterable[Result]) -> bytes:
    """Write the results, one `testsuite` per document and one `testcase` per case."""
    listed = list(results)
    root = Element("testsuites", _counts(listed))
    for (file, name), group in groupby(listed, key=lambda result: (str(result.suite.file), result.suite.name)):
        cases = list(group)
        suite = SubElement(root, "testsuite", {"name": _clean(name), "file": _clean(file), **_counts(cases)})
        for result in cases:
            case = SubElement(
                suite,
                "testcase",
                {
                    "name": _clean(result.case.name),
                    "classname": _clean(name),
                    "file": _clean(file),
                    "line": str(result.case.line),
                    "time": f"{result.seconds:.6f}",
                },
            )
            if result.failures:
                failure = SubElement(case, "failure", {"message": _clean(result.failures[0])})
                failure.text = _clean("\n".join(result.failures))
    written: bytes = tostring(root, encoding="UTF-8", xml_declaration=True)
    return written + b"\n"


def _counts(results: list[Result]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(bool(result.failures) for result in results)),
        "errors": "0",
        "time": f"{sum(result.seconds for result in results):.6f}",
    }


def _clean(text: str) -> str:
    """Leave out what XML 1.0 cannot hold (section 2.2), even as a character reference."""
    return "".join(
        c if c in "\t\n\r" or 0x20 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE or ord(c) > 0xFFFF else "\ufffd"
        for c in text
    )
