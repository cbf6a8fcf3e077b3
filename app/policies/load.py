"""Policy documents, from files or from a store, to a compiled policy set: whole and without an error, or not at all."""

import os
import stat
from collections.abc import Collection, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from app.core.canonical import canonical
from app.core.index import AnyPolicy, CompiledPolicySet, Policy, PolicyException
from app.core.record_masks import RecordMask
from app.core.types import Effect, Json
from app.policies.admission import (
    AdmissionDocument,
    PolicyDocument,
    assembled,
    is_admission,
    may_be_parameter,
    named_within,
    param_kinds,
    parameter_kind,
    read_admission,
    read_parameter,
)
from app.policies.diagnostics import Diagnostic, PolicyErrors, Severity
from app.policies.document import read_policy
from app.policies.exception_document import check_excepted, effects, read_exception
from app.policies.mask_document import read_mask
from app.policies.reader import Reader
from app.policies.shape import EXCEPTION_KIND, MASK_KIND
from app.policies.tree import Mapping, Node, Scalar, Sequence, TreeError, documents, tree

SUFFIXES = frozenset({".yaml", ".yml"})
# A ConfigMap holds at most 1 MiB altogether, and a policy is a page.
FILE_MAX_BYTES = 1024 * 1024
# Compiling takes about a millisecond per expression: start-up must stay a matter of seconds.
FILES_MAX = 2_000
POLICIES_MAX = 5_000
RULES_MAX = 20_000
SET_MAX_BYTES = 16 * 1024 * 1024
# After so many findings reading stops: a file that is no policy at all would have one per line.
FINDINGS_MAX = 10_000
# What a set may have beside its policies.
_BESIDE = frozenset({EXCEPTION_KIND, MASK_KIND})
# Directories below directories: a checkout, not a disk.
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True)
class Document:
    """One document of one file, `file` as in `Diagnostic`.

    `policy`, `exception`, `mask` or, for what belongs to Kubernetes' admission policies, `admission` is what it says.
    All are None if anything is wrong with it, and for what may be a parameter until every document was read.
    """

    file: str
    root: Node
    policy: Policy | None = None
    admission: AdmissionDocument | None = None
    exception: PolicyException | None = None
    mask: RecordMask | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What documents hold: the set if there is no error, every finding, and what was read to come to them.

    `sources` has the text of every file that could be read, by its name in `Diagnostic.file`. `content` are the
    documents, sorted, as canonical JSON, the bytes that the set's digest is of; empty without a set.
    """

    policy_set: CompiledPolicySet | None
    diagnostics: tuple[Diagnostic, ...]
    documents: tuple[Document, ...] = ()
    sources: Map[str, str] = field(default_factory=dict)
    content: bytes = b""


def yaml_files(directory: Path) -> list[Path]:
    """Every YAML file below a directory, sorted, hidden ones left out: what people keep, not what a service loads."""
    return sorted(
        found
        for found in directory.rglob("*")
        if found.suffix.lower() in SUFFIXES
        and found.is_file()
        and not any(part.startswith(".") for part in found.relative_to(directory).parts)
    )


def load_directory(path: Path) -> CompiledPolicySet:
    """Load every `*.yaml` and `*.yml` below a directory as one policy set.

    Raises:
        PolicyErrors: anything is wrong with anything; it carries all findings of all files.
    """
    checked = check_directory(path)
    if checked.policy_set is None:
        raise PolicyErrors(checked.diagnostics)
    return checked.policy_set


def check_directory(path: Path, *, also: frozenset[str] = frozenset()) -> Checked:
    """Check a directory as `load_directory` does, and keep the warnings of a set that loads.

    Names that start with a dot are left out: they are no policies in a checkout, and in a mounted ConfigMap `..data`
    holds the files that the visible names link to. A link that leads out of the directory is an error.
    `also` names what expressions can read beside the usual names: `AUTHORIZED`, if whoever decides has an authorizer.
    """
    diagnostics: list[Diagnostic] = []
    sources: dict[str, str] = {}
    try:
        root = path.resolve(strict=True)
        if not root.is_dir():
            raise NotADirectoryError(20, "it is not a directory")
        version = _version(root)
        files = list(_files(root, root, diagnostics))
        if len(files) > FILES_MAX:
            diagnostics.append(_whole(f"there are more than {FILES_MAX} policy files"))
            files = []
        found = _read_files(files, diagnostics, sources, also)
        if _version(root) != version:
            diagnostics.append(_whole("the directory was replaced while it was read", fix="try again"))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        diagnostics.append(_whole(f"the policy directory `{path}` cannot be read: {reason}", fix="check the path"))
        return Checked(None, tuple(diagnostics))
    return _assembled(found, diagnostics, sources)


def check_files(files: Collection[Path], *, also: frozenset[str] = frozenset()) -> Checked:
    """Check the documents of these files together; `also` as in `check_directory`."""
    diagnostics: list[Diagnostic] = []
    sources: dict[str, str] = {}
    found = _read_files([(str(file), file) for file in files], diagnostics, sources, also)
    return _assembled(found, diagnostics, sources)


def check_text(text: str, *, name: str, also: frozenset[str] = frozenset()) -> Checked:
    """Check YAML documents separated by `---` as those of one file called `name`; `also` as in `check_directory`."""
    diagnostics: list[Diagnostic] = []
    found = _read_text(name, text, diagnostics, also)
    _within_limits(found, diagnostics, rules=sum(_rules(one.root) for one in found), size=len(text))
    return _assembled(found, diagnostics, {name: text})


def check_documents(values: Collection[Json], *, also: frozenset[str] = frozenset()) -> Checked:
    """Check documents that are JSON values already; a finding's file is then `documents[0]`, without lines.

    `also` as in `check_directory`.

    Does not check: duplicate keys and numbers beyond int64, which whoever parsed the JSON refused.
    """
    diagnostics: list[Diagnostic] = []
    found: list[Document] = []
    rules = 0
    if len(values) > POLICIES_MAX:
        # Before anything is compiled.
        return Checked(None, (_whole(f"there are more than {POLICIES_MAX} policies", fix="split the set"),))
    for number, value in enumerate(values):
        reader = Reader(f"documents[{number}]", text="", also=also)
        try:
            root = tree(value)
        except TreeError as error:
            reader.diagnostics.append(Diagnostic(reader.file, 0, 0, "", error.message, error.fix))
        else:
            rules += _rules(root)
            if not _within_limits(found, diagnostics, rules=rules):
                break
            found.append(_document(reader.file, root, reader))
        diagnostics += reader.diagnostics
        if len(diagnostics) > FINDINGS_MAX:
            diagnostics.append(_too_many(reader.file))
            break
    return _assembled(found, diagnostics, {})


def fingerprint(path: Path) -> str:
    """Say, without reading a file, whether what a directory holds may have changed: it has if this text has.

    Raises: OSError.
    """
    root = path.resolve(strict=True)
    seen: list[Json] = [str(root), _version(root)]
    ignored: list[Diagnostic] = []
    for name, file in _files(root, root, ignored):
        state = file.stat()
        # The change time: unlike the modification time nobody can set it back.
        seen.append([name, str(file), state.st_ino, state.st_size, str(state.st_mtime_ns), str(state.st_ctime_ns)])
    seen += [str(diagnostic) for diagnostic in ignored]
    return sha256(canonical(seen)).hexdigest()


def _assembled(found: list[Document], diagnostics: list[Diagnostic], sources: Map[str, str]) -> Checked:
    policies_found = [one for one in found if _kind(one.root) not in _BESIDE]
    if not policies_found and all(d.severity is Severity.WARNING for d in diagnostics):
        fix = "put policies into `*.yaml` files, for example those of `policies/starter`"
        diagnostics.append(_whole("there are no policies, and an empty set is refused", fix=fix))
    found = _with_parameters(found, diagnostics)
    policies_found = [one for one in found if _kind(one.root) not in _BESIDE]
    _check_names(policies_found, diagnostics)
    _check_names([one for one in found if _kind(one.root) == MASK_KIND], diagnostics)
    _check_exceptions(found, policies_found, diagnostics, sources)
    admission, doubts = assembled(one.admission for one in found if one.admission is not None)
    if all(d.severity is Severity.WARNING for d in diagnostics):
        # What does not fit together is only said of what was read: a binding whose policy has errors is not to blame.
        diagnostics += doubts
    ordered = tuple(sorted(diagnostics, key=lambda d: (d.file, d.line, d.column, d.path)))
    if any(d.severity is Severity.ERROR for d in ordered):
        return Checked(None, ordered, tuple(found), sources)
    policies: list[AnyPolicy] = [one.policy for one in found if one.policy is not None]
    policies += admission
    if not policies:
        nothing = _whole("no policy of the set is in force", fix="add a binding, or a `MutationPolicy`")
        return Checked(None, (*ordered, nothing), tuple(found), sources)
    content = _content(found)
    digest = "sha256:" + sha256(content).hexdigest()
    exceptions = [one.exception for one in found if one.exception is not None]
    masks = [one.mask for one in found if one.mask is not None]
    policy_set = CompiledPolicySet(policies, digest=digest, exceptions=exceptions, masks=masks)
    return Checked(policy_set, ordered, tuple(found), sources, content)


def _document(file: str, root: Node, reader: Reader) -> Document:
    """Read a document by its kind; what may be a parameter waits until the policies are known."""
    if is_admission(root):
        return Document(file, root, admission=read_admission(root, reader))
    if may_be_parameter(root):
        return Document(file, root)
    if _kind(root) == EXCEPTION_KIND:
        return Document(file, root, exception=read_exception(root, reader))
    if _kind(root) == MASK_KIND:
        return Document(file, root, mask=read_mask(root, reader))
    return Document(file, root, read_policy(root, reader))


def _kind(root: Node) -> str:
    kind = root.items.get("kind") if isinstance(root, Mapping) else None
    return str(kind.value) if isinstance(kind, Scalar) else ""


def _with_parameters(found: list[Document], diagnostics: list[Diagnostic]) -> list[Document]:
    """Read the parameters, now that it is known which kinds are some policy's."""
    kinds = param_kinds(one.admission for one in found if one.admission is not None)
    read: list[Document] = []
    for one in found:
        if len(diagnostics) > FINDINGS_MAX or not may_be_parameter(one.root):
            read.append(one)
            continue
        reader = Reader(one.file, text="")
        if parameter_kind(one.root) in kinds:
            read.append(replace(one, admission=read_parameter(one.root, reader)))
        else:
            read.append(replace(one, policy=read_policy(one.root, reader)))
        diagnostics += reader.diagnostics
    return read


def _files(directory: Path, root: Path, diagnostics: list[Diagnostic], depth: int = 0) -> Iterator[tuple[str, Path]]:
    """Give every policy file with its name below the root, resolved, each one once."""
    seen: set[Path] = set()
    for name, resolved in _walk(directory, root, "", diagnostics, seen, depth):
        if resolved not in seen:
            seen.add(resolved)
            yield name, resolved


def _walk(
    directory: Path, root: Path, prefix: str, diagnostics: list[Diagnostic], seen: set[Path], depth: int
) -> Iterator[tuple[str, Path]]:
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = f"{prefix}{entry.name}"
        shown = name.encode("utf-8", "backslashreplace").decode()
        is_policy_file = Path(entry.name).suffix.lower() in SUFFIXES
        try:
            resolved = Path(entry.path).resolve(strict=True)
            kind = resolved.stat().st_mode
        except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, on Python before 3.13
            if is_policy_file:
                reason = (getattr(error, "strerror", None) or "the link goes in a circle").lower()
                diagnostics.append(Diagnostic(shown, 0, 0, "", f"cannot be read: {reason}"))
            continue
        if stat.S_ISDIR(kind) and not is_policy_file:
            if not resolved.is_relative_to(root):
                diagnostics.append(_outside(shown))
            elif depth >= _DEPTH_MAX:
                diagnostics.append(Diagnostic(shown, 0, 0, "", f"directories are nested more than {_DEPTH_MAX} deep"))
            elif resolved not in seen:
                seen.add(resolved)
                yield from _walk(resolved, root, f"{name}/", diagnostics, seen, depth + 1)
        elif is_policy_file:
            if not resolved.is_relative_to(root):
                diagnostics.append(_outside(shown))
            elif not stat.S_ISREG(kind):
                diagnostics.append(Diagnostic(shown, 0, 0, "", "is not a regular file"))
            else:
                yield shown, resolved


def _outside(name: str) -> Diagnostic:
    return Diagnostic(name, 0, 0, "", "the link leads out of the policy directory", "copy what it points to")


def _whole(message: str, *, fix: str | None = None) -> Diagnostic:
    return Diagnostic("", 0, 0, "", message, fix)


def _too_many(file: str) -> Diagnostic:
    # INVARIANT: an error, also where all findings are warnings: what was not read must not be missed in silence.
    return Diagnostic(file, 0, 0, "", f"reading stopped after {FINDINGS_MAX} findings", "correct these first")


def _version(root: Path) -> str:
    """Give what a ConfigMap mount swaps atomically, empty for an ordinary directory."""
    try:
        return str((root / "..data").readlink())
    except OSError:
        return ""


def _read_files(
    files: list[tuple[str, Path]], diagnostics: list[Diagnostic], sources: dict[str, str], also: frozenset[str]
) -> list[Document]:
    """Read file after file, and no further once there is too much: what is refused should not take minutes."""
    found: list[Document] = []
    size = rules = 0
    for name, file in files:
        read = _read_file(name, file, diagnostics, sources, also)
        found += read
        size += len(sources.get(name, ""))
        rules += sum(_rules(document.root) for document in read)
        if not _within_limits(found, diagnostics, rules=rules, size=size):
            break
    return found


def _within_limits(found: list[Document], diagnostics: list[Diagnostic], *, rules: int, size: int = 0) -> bool:
    for number, most, what in (
        (len(found), POLICIES_MAX, "policies"),
        (rules, RULES_MAX, "rules"),
        (size, SET_MAX_BYTES, "characters in all files together"),
    ):
        if number > most:
            diagnostics.append(_whole(f"there are more than {most} {what}", fix="split the set"))
            return False
    return True


def _rules(root: Node) -> int:
    spec = root.items.get("spec") if isinstance(root, Mapping) else None
    counted = ("rules", "freezes", "budgets", "validations")
    listed = [spec.items.get(name) for name in counted] if isinstance(spec, Mapping) else []
    return sum(len(rules.items) for rules in listed if isinstance(rules, Sequence))


def _read_file(
    name: str, file: Path, diagnostics: list[Diagnostic], sources: dict[str, str], also: frozenset[str]
) -> list[Document]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_MAX_BYTES + 1)
        if len(raw) > FILE_MAX_BYTES:
            diagnostics.append(Diagnostic(name, 0, 0, "", f"has more than {FILE_MAX_BYTES} bytes", "split it"))
            return []
        text = sources[name] = raw.decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        diagnostics.append(Diagnostic(name, 0, 0, "", f"cannot be read: {reason}"))
        return []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        diagnostics.append(Diagnostic(name, line, 1, "", "is not UTF-8", "save it as UTF-8"))
        return []
    return _read_text(name, text, diagnostics, also)


def _read_text(name: str, text: str, diagnostics: list[Diagnostic], also: frozenset[str]) -> list[Document]:
    try:
        roots = documents(text)
    except TreeError as error:
        diagnostics.append(Diagnostic(name, error.line, error.column, "", error.message, error.fix))
        return []
    if not roots:
        diagnostics.append(Diagnostic(name, 0, 0, "", "has no documents", severity=Severity.WARNING))
    reader = Reader(name, text=text, also=also)
    found: list[Document] = []
    for root in roots:
        found.append(_document(name, root, reader))
        if len(reader.diagnostics) > FINDINGS_MAX:
            diagnostics.append(_too_many(name))
            break
    diagnostics += reader.diagnostics
    return found


def _check_names(found: list[Document], diagnostics: list[Diagnostic]) -> None:
    """Note every name that a document of its kind before it has, also those that have errors of their own.

    The policies of Kubernetes and the firewall's own count as one kind: reasons name both.
    """
    first: dict[tuple[str, ...], Document] = {}
    for one in found:
        node = _name_node(one.root)
        if node is None:
            continue
        name = str(node.value)
        key = (*named_within(one.root), name)
        if key in first:
            other = first[key]
            line = f" line {other.root.line}" if other.root.line else ""
            message = f"the name `{name[:80]}` is used twice, first in `{other.file}`{line}"
            diagnostics.append(Diagnostic(one.file, node.line, node.column, "metadata.name", message, "rename one"))
        else:
            first[key] = one


def _check_exceptions(
    found: list[Document], policies: list[Document], diagnostics: list[Diagnostic], sources: Map[str, str]
) -> None:
    """Note what only the whole set can tell about its exceptions."""
    exceptions = [one for one in found if _kind(one.root) == EXCEPTION_KIND]
    _check_names(exceptions, diagnostics)
    by_name = {
        str(node.value): _effects(one)
        for one in policies
        if (node := _name_node(one.root)) is not None and not named_within(one.root)
    }
    for one in exceptions:
        reader = Reader(one.file, text=sources.get(one.file, ""))
        check_excepted(one.root, by_name, reader)
        diagnostics += reader.diagnostics


def _effects(document: Document) -> Map[str, Effect] | None:
    if isinstance(document.admission, PolicyDocument):
        return dict.fromkeys((validation.name for validation in document.admission.validations), Effect.DENY)
    return None if document.policy is None else effects(document.policy)


def _name_node(root: Node) -> Scalar | None:
    metadata = root.items.get("metadata") if isinstance(root, Mapping) else None
    name = metadata.items.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, Scalar) else None


def _content(found: list[Document]) -> bytes:
    """Write down what names the set: file names, order, comments and formatting do not count."""
    plain: list[Json] = [one.root.plain() for one in found]
    return canonical(sorted(plain, key=canonical))
