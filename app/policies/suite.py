"""Documents of kind PolicyTest: questions to a directory of policies and the answers they must get."""

import json
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as MappingOf
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from app.core import patch, strict_json
from app.core.budgets import Assumed
from app.core.cel import Answer, Attributes
from app.core.index import MESSAGE_MAX_CHARS
from app.core.types import Effect, Json, JsonObject, Mode, Mutation
from app.errors import FirewallError
from app.policies import shape
from app.policies.admission import is_admission, may_be_parameter
from app.policies.authorizing import read_answers
from app.policies.budgets import read_counts
from app.policies.diagnostics import Diagnostic, PolicyErrors
from app.policies.load import FILE_MAX_BYTES, yaml_files
from app.policies.reader import Reader
from app.policies.tree import Mapping, Node, Scalar, Sequence, TreeError, documents

# A case that names no instant is decided on a Friday at noon: answers must not depend on the day of the test.
NOW = "2026-03-13T12:00:00Z"
# A mutation of the service is at most this long unless its owner raised the limit.
_MUTATION_MAX_BYTES = 1_048_576

# How a request body becomes a mutation is a matter of the surfaces, above this package.
Parse: TypeAlias = Callable[[Json], Mutation]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a case must answer; None is not looked at."""

    decision: Effect
    reasons: tuple[dict[str, Any], ...] | None = None
    message: str | None = None
    approval: dict[str, Any] | None = None
    obligations: tuple[dict[str, Any], ...] | None = None
    exceptions: frozenset[str] | None = None
    warnings: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    masked: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One question, `body` as a request carries it, and its answer. `line` is where it stands in its file.

    `answers` are those of `authorizer`, None where the case states none.
    """

    name: str
    line: int
    body: JsonObject
    mutation: Mutation
    now: datetime
    expect: Expectation
    budgets: Assumed = field(default_factory=Assumed)
    answers: MappingOf[Attributes, Answer] | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """One document: its cases, and the directory of the policies they are for."""

    name: str
    file: Path
    policies: Path
    cases: tuple[Case, ...]


def read_suites(paths: Iterable[Path], *, parse: Parse) -> tuple[Suite, ...]:
    """Read every PolicyTest of the files, and of the `*.yaml` and `*.yml` below the directories.

    Documents of policy sets are passed over, so that a directory above both can be named; policies and tests
    themselves stand in directories of their own, because the loader takes no tests.

    Raises:
        PolicyErrors: anything is wrong with anything; it carries all findings of all files.
    """
    diagnostics: list[Diagnostic] = []
    suites = [suite for file in _files(paths, diagnostics) for suite in _read_file(file, parse, diagnostics)]
    if not suites and not diagnostics:
        names = ", ".join(f"`{path}`" for path in paths)
        fix = f"write documents of kind {shape.TEST_KIND}; docs/policy-authoring.md has one"
        diagnostics.append(Diagnostic("", 0, 0, "", f"there are no tests in {names}", fix))
    if diagnostics:
        raise PolicyErrors(diagnostics, what="the tests are refused", fix=None)
    return tuple(suites)


def _files(paths: Iterable[Path], diagnostics: list[Diagnostic]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from yaml_files(path)
        elif path.is_file():
            yield path
        else:
            diagnostics.append(Diagnostic(str(path), 0, 0, "", "there is no such file or directory", "check the path"))


def _read_file(file: Path, parse: Parse, diagnostics: list[Diagnostic]) -> list[Suite]:
    name = str(file)
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_MAX_BYTES + 1)
        if len(raw) > FILE_MAX_BYTES:
            diagnostics.append(Diagnostic(name, 0, 0, "", f"has more than {FILE_MAX_BYTES} bytes", "split it"))
            return []
        text = raw.decode("utf-8-sig")
        roots = documents(text)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        diagnostics.append(Diagnostic(name, 0, 0, "", f"cannot be read: {reason}"))
        return []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        diagnostics.append(Diagnostic(name, line, 1, "", "is not UTF-8", "save it as UTF-8"))
        return []
    except TreeError as error:
        diagnostics.append(Diagnostic(name, error.line, error.column, "", error.message, error.fix))
        return []
    reader = Reader(name, text=text)
    suites = [
        suite
        for root in roots
        if not _is_policy(root)
        if (suite := _SuiteReader(reader, file, parse).read(root)) is not None
    ]
    diagnostics += reader.diagnostics
    return suites


def _is_policy(root: Node) -> bool:
    """Tell whether a document belongs to a set: those of Kubernetes and parameters as well."""
    kind = root.items.get("kind") if isinstance(root, Mapping) else None
    if is_admission(root) or may_be_parameter(root):
        return True
    return isinstance(kind, Scalar) and kind.value in shape.SET_KINDS


class _SuiteReader:
    """Reads one document; findings go to the reader of its file."""

    def __init__(self, reader: Reader, file: Path, parse: Parse) -> None:
        self.reader = reader
        self.file = file
        self.parse = parse

    def read(self, root: Node) -> Suite | None:
        """Give the suite, None if anything is wrong with it."""
        reader = self.reader
        before = len(reader.diagnostics)
        members = reader.mapping(root, "", known=shape.TEST.known, required=shape.TEST.required)
        reader.choice(members.get("apiVersion"), "apiVersion", (shape.API_VERSION,))
        if reader.choice(members.get("kind"), "kind", (shape.TEST_KIND,)) is None or "spec" not in members:
            return None
        metadata = members.get("metadata")
        names = (
            reader.mapping(metadata, "metadata", known=shape.METADATA.known, required=shape.METADATA.required)
            if metadata is not None
            else {}
        )
        name = reader.text(names.get("name"), "metadata.name", max_chars=shape.LABEL_MAX_CHARS)
        spec = reader.mapping(members["spec"], "spec", known=shape.TEST_SPEC.known, required=shape.TEST_SPEC.required)
        policies = reader.text(spec.get("policies"), "spec.policies", max_chars=4096)
        now = self._instant(spec.get("now"), "spec.now") or datetime.fromisoformat(NOW)
        seen: set[str] = set()
        cases = [
            case
            for item, path in reader.items(spec.get("cases"), "spec.cases")
            if (case := self._case(item, path, now, seen)) is not None
        ]
        if len(reader.diagnostics) > before or policies is None or name is None:
            return None
        return Suite(name, self.file, self.file.parent / policies, tuple(cases))

    def _case(self, node: Node, path: str, now: datetime, seen: set[str]) -> Case | None:
        reader = self.reader
        members = reader.mapping(node, path, known=shape.CASE.known, required=shape.CASE.required)
        name = reader.text(members.get("name"), f"{path}.name", max_chars=shape.CASE_NAME_MAX_CHARS)
        if name is not None and name in seen:
            reader.note(members["name"], f"{path}.name", f"the name `{name}` is used twice", fix="rename one")
        seen.add(name or "")
        instant = self._instant(members.get("now"), f"{path}.now") or now
        body = self._body(node, path, members)
        budgets = read_counts(members.get("budgets"), f"{path}.budgets", reader)
        expect = self._expect(members["expect"], f"{path}.expect") if "expect" in members else None
        answers = None
        if "authorizer" in members:
            answers = read_answers(members["authorizer"], f"{path}.authorizer", reader)
        if name is None or body is None or expect is None:
            return None
        try:
            mutation = self.parse(body)
        except FirewallError as error:
            reader.note(node, path, f"the mutation is refused: {error.detail} at `{error.pointer}`", fix=error.fix)
            return None
        return Case(name, node.line, body, mutation, instant, expect, budgets, answers)

    def _body(self, node: Node, path: str, members: dict[str, Node]) -> dict[str, Any] | None:
        if ("mutation" in members) == ("file" in members):
            if isinstance(node, Mapping):
                fix = "give the mutation here, or name a JSON file"
                self.reader.note(node, path, "needs exactly one of `mutation` and `file`", fix=fix)
            return None
        if "mutation" in members:
            body = self._object(members["mutation"], f"{path}.mutation")
        else:
            body = self._from_file(members["file"], f"{path}.file")
        if body is None or "edit" not in members:
            return body
        operations = [
            found
            for item, item_path in self.reader.items(members["edit"], f"{path}.edit")
            if (found := self._object(item, item_path)) is not None
        ]
        try:
            edited = patch.apply(patch.parse(operations), before=deepcopy(body))
        except FirewallError as error:
            self.reader.note(members["edit"], f"{path}.edit", error.detail, fix=error.fix)
            return None
        return edited if isinstance(edited, dict) else None

    def _object(self, node: Node, path: str) -> dict[str, Any] | None:
        if not isinstance(node, Mapping):
            self.reader.note(node, path, "must be an object")
            return None
        plain: Any = node.plain()
        try:
            # What the service would not read is no test either: through the guard of step 1.
            found: Any = strict_json.parse(json.dumps(plain).encode()).tree
        except FirewallError as error:
            self.reader.note(node, path, f"{error.detail} at `{error.pointer}`", fix=error.fix)
            return None
        return dict(found)

    def _from_file(self, node: Node, path: str) -> dict[str, Any] | None:
        name = self.reader.text(node, path, max_chars=4096)
        if name is None:
            return None
        try:
            with (self.file.parent / name).open("rb") as stream:
                raw = stream.read(_MUTATION_MAX_BYTES + 1)
            if len(raw) > _MUTATION_MAX_BYTES:
                self.reader.note(node, path, f"`{name}` has more than {_MUTATION_MAX_BYTES} bytes")
                return None
            found = strict_json.parse(raw).tree
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a file name").lower()
            self.reader.note(node, path, f"`{name}` cannot be read: {reason}", fix="name it relative to this file")
            return None
        except FirewallError as error:
            self.reader.note(node, path, f"`{name}`: {error.detail} at `{error.pointer}`", fix=error.fix)
            return None
        if not isinstance(found, dict):
            self.reader.note(node, path, f"`{name}` is no mutation: it must be an object")
            return None
        return found

    def _instant(self, node: Node | None, path: str) -> datetime | None:
        text = self.reader.text(node, path, max_chars=shape.LABEL_MAX_CHARS)
        if node is None or text is None:
            return None
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            self.reader.note(node, path, f"`{text[:40]}` is not an instant", fix=f"write it as `{NOW}`")
            return None
        return instant

    def _expect(self, node: Node, path: str) -> Expectation | None:
        reader = self.reader
        members = reader.mapping(node, path, known=shape.EXPECT.known, required=shape.EXPECT.required)
        decision = reader.choice(members.get("decision"), f"{path}.decision", tuple(Effect))
        reasons = None
        if "reasons" in members:
            reasons = tuple(
                self._reason(item, item_path) for item, item_path in reader.items(members["reasons"], f"{path}.reasons")
            )
        message = reader.text(members.get("message"), f"{path}.message", max_chars=MESSAGE_MAX_CHARS)
        approval = self._approval(members["approval"], f"{path}.approval") if "approval" in members else None
        obligations = None
        if "obligations" in members:
            obligations = tuple(
                self._obligation(item, item_path)
                for item, item_path in self._some(members["obligations"], f"{path}.obligations")
            )
        exceptions = None
        if "exceptions" in members:
            names = [
                reader.text(item, item_path, max_chars=shape.LABEL_MAX_CHARS)
                for item, item_path in self._some(members["exceptions"], f"{path}.exceptions")
            ]
            exceptions = frozenset(name for name in names if name is not None)
        warnings = annotations = None
        if "warnings" in members:
            texts = [
                reader.text(item, item_path, max_chars=MESSAGE_MAX_CHARS)
                for item, item_path in self._some(members["warnings"], f"{path}.warnings")
            ]
            warnings = tuple(text for text in texts if text is not None)
        if "annotations" in members:
            annotations = self._texts(members["annotations"], f"{path}.annotations")
        masked = None
        if "masked" in members:
            pointers = [
                reader.text(item, item_path, max_chars=shape.POINTER_MAX_CHARS)
                for item, item_path in self._some(members["masked"], f"{path}.masked")
            ]
            masked = frozenset(pointer for pointer in pointers if pointer is not None)
        if decision is None:
            return None
        return Expectation(
            Effect(decision), reasons, message, approval, obligations, exceptions, warnings, annotations, masked
        )

    def _texts(self, node: Node, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        if not isinstance(node, Mapping):
            self.reader.note(node, path, "must be an object of texts")
            return found
        for name, item in node.items.items():
            if isinstance(item, Scalar) and isinstance(item.value, str):
                found[name] = item.value
            else:
                self.reader.note(item, f"{path}.{name}", "must be text", fix="quote it")
        return found

    def _some(self, node: Node, path: str) -> Iterator[tuple[Node, str]]:
        """Give the items of a list that may be empty: nothing is then what is expected."""
        if isinstance(node, Sequence) and not node.items:
            return iter(())
        return self.reader.items(node, path)

    def _obligation(self, node: Node, path: str) -> JsonObject:
        expected = shape.EXPECTED_OBLIGATION
        members = self.reader.mapping(node, path, known=expected.known, required=expected.required)
        for name in ("policy", "rule", "key"):
            self.reader.text(members.get(name), f"{path}.{name}", max_chars=shape.LABEL_MAX_CHARS)
        return {name: item.plain() for name, item in members.items()}

    def _approval(self, node: Node, path: str) -> dict[str, Any] | None:
        members = self.reader.mapping(node, path, known=shape.APPROVAL.known)
        return {name: with_counts(item.plain()) for name, item in members.items()}

    def _reason(self, node: Node, path: str) -> JsonObject:
        reader = self.reader
        members = reader.mapping(node, path, known=shape.REASON.known, required=shape.REASON.required)
        for name in ("policy", "rule", "message", "exception", "binding"):
            reader.text(members.get(name), f"{path}.{name}", max_chars=MESSAGE_MAX_CHARS)
        reader.choice(members.get("effect"), f"{path}.effect", tuple(Effect))
        reader.choice(members.get("mode"), f"{path}.mode", tuple(Mode))
        return {"mode": Mode.ENFORCE.value, **{name: item.plain() for name, item in members.items()}}


def with_counts(tree: Any) -> Any:
    """Write out the count of every group: it is 1 where none is given."""
    if isinstance(tree, list):
        return [with_counts(item) for item in tree]
    if isinstance(tree, dict):
        inner = {name: with_counts(item) for name, item in tree.items()}
        return {**inner, "count": 1} if "group" in inner and "count" not in inner else inner
    return tree
