"""Command lines of git: which repository, which branch, what is lost."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.core.tool_calls.effects import Effect, at_least, command_effect, is_around, leads_straight, path_of
from app.core.tool_calls.parts import Risk
from app.core.tool_calls.words import Word, set_of

REPOSITORY: Final = "git/Repository"
BRANCH: Final = "git/Branch"

_GLOBAL_FLAGS: Final = frozenset({"--no-pager", "-P", "--no-optional-locks", "--literal-pathspecs"})
# Subcommands that read, and options of these that write a file or run a program.
_READS: Final = set_of("""
    status log diff show rev-parse rev-list describe ls-files ls-tree ls-remote blame annotate shortlog grep cat-file
    name-rev merge-base for-each-ref show-ref show-branch diff-tree diff-index diff-files whatchanged count-objects
    check-ignore check-attr cherry var version help verify-commit verify-tag fsck range-diff
    """)
_WRITING: Final = (
    "--output",
    "--ext-diff",
    "--textconv",
    "--open-files-in-pager",
    "--upload-pack",
    "--exec",
    "--lost-found",
    "--use-mailmap-from",
)
_PROGRAMS: Final = ("--upload-pack", "--receive-pack", "--template", "--config", "--strategy", "--extcmd")
_TALKS: Final = frozenset({"fetch", "pull", "push", "clone", "ls-remote", "remote", "submodule", "archive"})
_MERGES: Final = frozenset({"merge", "pull", "rebase"})
# What asks another repository. A name is one that somebody gave it here; an address may be anybody's, and takes what
# stands in it there.
_ASKS: Final = frozenset({"ls-remote", "fetch", "pull"})
# Their options without a value of its own: behind others nobody knows which word names the repository.
_ASKING_FLAGS: Final = set_of("""
    --all --tags -t --no-tags -n --prune -p -P --prune-tags -f --force -v --verbose -q --quiet --dry-run --unshallow -a
    --append --rebase --no-rebase -r --ff-only --ff --no-ff --progress --heads -h --refs --exit-code --symref --atomic
    -k --keep --autostash --no-autostash -4 -6 --no-commit --commit -s --squash --stat --edit -e --no-edit
    """)
_ADDRESS: Final = re.compile(r"[:/\\~]|^[.]")
# Options that make a repository which is one without `.git`, or of what somebody wrote; and that open another program.
_MAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "init": ("--bare", "--separate-git-dir", "--template"),
    "clone": ("-c", "-u", "--bare", "--mirror", "--separate-git-dir"),
    "help": ("-w", "-i", "-m", "--web", "--info", "--man"),
}
_RUNS_WORDS: Final[Mapping[str, frozenset[str]]] = {"submodule": frozenset({"foreach"}), "bisect": frozenset({"run"})}
_HELPER: Final = re.compile(r"[A-Za-z0-9+.-]+::")
_CHANGES: Final = set_of("""
    add commit merge rebase pull fetch clone init mv cherry-pick revert am apply stash tag branch switch checkout notes
    remote config submodule worktree sparse-checkout format-patch bundle archive bisect push mergetool
    """)
_DESTROYS: Final = set_of("""
    clean reset restore rm gc prune filter-branch filter-repo update-ref symbolic-ref reflog replace repack
    """)
# Options that throw something away, by subcommand; an option with one dash counts among others of its kind too.
_LOSING: Final[Mapping[str, tuple[str, ...]]] = {
    "branch": ("-D", "-d", "-f", "-M", "--delete", "--force"),
    "tag": ("-d", "-f", "--delete", "--force"),
    "checkout": ("-f", "-B", "--force", "--ours", "--theirs", "--orphan"),
    "switch": ("-f", "-C", "--force", "--discard-changes", "--force-create"),
    "worktree": ("-f", "--force"),
    "push": ("-f", "-d", "--force", "--force-with-lease", "--force-if-includes", "--delete", "--mirror", "--prune"),
    "fetch": ("-f", "--force", "--prune", "-p"),
    "pull": ("-f", "--force"),
    "submodule": ("-f", "--force"),
    "add": (),
}
_LOSING_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "stash": frozenset({"drop", "clear", "pop"}),
    "remote": frozenset({"remove", "rm", "prune", "set-url"}),
    "worktree": frozenset({"remove", "prune"}),
    "checkout": frozenset({".", "--"}),
    "submodule": frozenset({"deinit", "foreach"}),
    "notes": frozenset({"remove", "prune"}),
    "bisect": frozenset({"run"}),
}
# Without any of these the subcommand lists what there is.
_LISTS: Final[Mapping[str, frozenset[str]]] = {
    "branch": frozenset({"", "-a", "-r", "-v", "-vv", "--all", "--list", "--show-current", "--remotes"}),
    "tag": frozenset({"", "-l", "--list", "-n"}),
    "remote": frozenset({"", "-v", "show", "get-url"}),
    "stash": frozenset({"list", "show"}),
    "worktree": frozenset({"list"}),
    "submodule": frozenset({"", "status", "summary"}),
    "reflog": frozenset({"", "show"}),
    "config": frozenset({"--get", "--list", "-l", "get", "list", "--get-all", "--show-origin"}),
    "notes": frozenset({"", "list", "show"}),
    "bisect": frozenset({"log", "view"}),
}
_SHOWS_CONFIG: Final = set_of(
    "--get --list -l --get-all --get-regexp --show-origin --show-scope --name-only -z --null --global --local --system"
)
# Options that push more than is named, and what that is.
_PUSH_MORE: Final[Mapping[str, str]] = {"--all": "*", "--branches": "*", "--tags": "refs/tags/*"}
_PUSH_VALUES: Final = frozenset({"-o", "--push-option", "--repo", "--receive-pack", "--exec"})


def effects(
    program: str, words: tuple[Word, ...], *, cwd: str | None, home: str | None, said: Mapping[str, Any]
) -> Iterator[Effect]:
    """Give what a command line of git does; one that sets configuration on the way may do anything.

    A repository says itself which programs git runs in it, by its configuration (`core.fsmonitor`) and its hooks. Any
    folder with the right files in it is one, so one that is neither `home` nor around it may be of the agent's making.
    """
    folder, at, strange = cwd, 0, home is None
    while at < len(words) and words[at].plain and words[at].text.startswith("-"):
        text = words[at].text
        if text == "-C" and at + 1 < len(words) and words[at + 1].plain:
            folder = path_of(words[at + 1].text, folder)
            strange = strange or not leads_straight(words[at + 1].text)
            at += 2
        elif text in _GLOBAL_FLAGS:
            at += 1
        elif text in {"--version", "--help"}:
            yield command_effect(program, words, Risk.READS, said=said)
            return
        else:
            # `-c alias.x=!sh` and its like: what the line says is no longer what git does.
            yield command_effect(program, words, Risk.UNKNOWN, said=said)
            return
    if at >= len(words) or not words[at].plain:
        yield command_effect(program, words, Risk.READS if at >= len(words) else Risk.UNKNOWN, said=said)
        return
    verb, rest = words[at].text, words[at + 1 :]
    repository = folder or "."
    strange = strange or not is_around(repository, home or "")
    least = Risk.UNKNOWN if strange else Risk.READS
    if verb == "push":
        for effect in _push(rest, repository, said):
            yield effect._replace(risk=at_least(effect.risk, least))
        return
    risk = Risk.UNKNOWN if _runs(verb, rest) else at_least(_risk(verb, rest), least)
    after: dict[str, Any] = {"arguments": [word.text for word in rest], **said}
    yield Effect(verb, risk, REPOSITORY, repository, {"after": after}, {}, {"program": program})


def _runs(verb: str, rest: tuple[Word, ...]) -> bool:
    """Whether a word names a program: of the other side, which may be here, of a helper (`ext::sh`), of a template."""
    texts = [word.text for word in rest if word.static]
    if verb in _TALKS and any(_HELPER.match(text) for text in texts):
        return True
    if verb in _ASKS and _ADDRESS.search(" ".join(_places(texts))):
        return True
    if verb == "remote" and texts[:1] == ["show"] and any(_ADDRESS.search(text) for text in texts[1:]):
        return True
    # A folder with a file `HEAD` in it may be a repository.
    if verb == "mv" and any({".git", "head"} & set(text.lower().split("/")) for text in texts):
        return True
    if _loses(texts, _MAKES.get(verb, ())) or set(texts) & _RUNS_WORDS.get(verb, frozenset()):
        return True
    if verb in _MERGES and _loses(texts, ("-s",)):
        return True
    return any(
        len(text) > 2 and text.startswith("--") and any(one.startswith(text.partition("=")[0]) for one in _PROGRAMS)
        for text in texts
    )


def _places(texts: list[str]) -> list[str]:
    """The words that may name another repository: the first that is no option, or all where it may be any."""
    operands = [text for text in texts if not text.startswith("-")]
    flags = [text for text in texts if text.startswith("-") and "=" not in text]
    return operands[:1] if _ASKING_FLAGS.issuperset(flags) else operands


def _risk(verb: str, rest: tuple[Word, ...]) -> Risk:
    texts = [word.text for word in rest]
    if any(not word.static for word in rest) and verb not in {"commit", "add"}:
        return Risk.UNKNOWN
    if verb in _LISTS and (_loses(texts, _LOSING.get(verb, ())) or set(texts) & _LOSING_WORDS.get(verb, frozenset())):
        return Risk.DESTROYS
    if verb in {"fetch", "pull"} and any(text.startswith("+") or ":+" in text for text in texts):
        return Risk.DESTROYS
    if verb in _READS or (verb in _LISTS and (texts[0] if texts else "") in _LISTS[verb] and _only_lists(verb, texts)):
        writes = any(
            text.startswith("-O")
            or (text.startswith("--") and any(one.startswith(text.partition("=")[0]) for one in _WRITING))
            for text in texts
            if text != "--"
        )
        listed = verb in _READS or all(text.startswith("-") or verb not in {"branch", "tag"} for text in texts[1:])
        return Risk.UNKNOWN if writes else Risk.READS if listed else Risk.CHANGES
    if verb in _DESTROYS:
        return Risk.CHANGES if verb == "reset" and not _loses(texts, ("--hard", "--merge", "--keep")) else Risk.DESTROYS
    if verb in _CHANGES:
        if _loses(texts, _LOSING.get(verb, ())) or (set(texts) & _LOSING_WORDS.get(verb, frozenset())):
            return Risk.DESTROYS
        # `git rebase --exec`, `git config alias.x`: what is run later, or by others.
        return Risk.UNKNOWN if verb == "config" or _loses(texts, ("--exec", "-x")) else Risk.CHANGES
    # Of an alias, or of a program `git-...` in the path, nothing is known.
    return Risk.UNKNOWN


def _only_lists(verb: str, texts: list[str]) -> bool:
    """Whether the words behind the first leave it a list."""
    operands = [text for text in texts if not text.startswith("-")]
    if verb == "remote":
        return not operands or operands[0] in {"show", "get-url"}
    if verb == "config":
        most = 2 if operands[:1] in (["get"], ["list"]) else 1
        return len(operands) <= most and all(text in _SHOWS_CONFIG for text in texts if text.startswith("-"))
    return True


def _loses(texts: list[str], options: tuple[str, ...]) -> bool:
    for text in texts:
        if text == "--":
            return False
        name = text.partition("=")[0]
        if name.startswith("--"):
            if len(name) > 2 and any(one.startswith(name) for one in options if one.startswith("--")):
                return True
        elif text.startswith("-") and any(one[1] in text[1:] for one in options if not one.startswith("--")):
            return True
    return False


def _push(rest: tuple[Word, ...], repository: str, said: Mapping[str, Any]) -> Iterator[Effect]:
    """One effect for each branch: a push that forces, or deletes, throws away what others have."""
    operands: list[Word] = []
    at = 0
    known = all(word.static for word in rest)
    texts = [word.text for word in rest]
    while at < len(rest):
        if texts[at] in _PUSH_VALUES:
            at += 1
        elif not texts[at].startswith("-"):
            operands.append(rest[at])
        at += 1
    loses = _loses(texts, _LOSING["push"])
    runs = any(text.startswith(("--receive-pack", "--exec", "--rec", "--exe")) for text in texts)
    remote = operands[0].text if operands else "-"
    # An option that is shortened may be one with a value, which then is no remote.
    runs = runs or any(text.startswith("--r") and text not in _PUSH_VALUES and "=" not in text for text in texts)
    references = [word.text for word in operands[1:]]
    if references[:1] == ["tag"]:
        references = [f"refs/tags/{one}" for one in references[1:]]
    for option, all_of in _PUSH_MORE.items():
        if any(len(text) > 3 and option.startswith(text) for text in texts):
            references.append(all_of)
    for reference in references or [""]:
        source, colon, target = reference.removeprefix("+").partition(":")
        force = loses or reference.startswith("+") or bool(colon and not source)
        branch = (target if colon else source).removeprefix("refs/heads/")
        risk = Risk.UNKNOWN if runs or not known else Risk.DESTROYS if force else Risk.CHANGES
        yield Effect(
            "push",
            risk,
            BRANCH,
            f"{remote}/{branch}" if branch else remote,
            {"after": {"arguments": texts, **said}},
            {"repository": repository, "remote": remote},
            {"program": "git", **({"force": True} if force else {})},
        )
