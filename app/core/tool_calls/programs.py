"""What is known of programs: which only read, which destroy, which run another, which run a text as code."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from app.core.tool_calls.words import Word, set_of

# Where programs lie that everybody has; one of the same name elsewhere is another program.
USUAL_FOLDERS: Final = set_of("/bin /usr/bin /sbin /usr/sbin /usr/local/bin /usr/local/sbin /opt/homebrew/bin")


class Reader(NamedTuple):
    """A program that only reads, but for these options, and for more operands than `operands`.

    An option that is known only when it runs may be one of these, so where there are any every word must be known.
    """

    short: str = ""
    long: tuple[str, ...] = ()
    operands: int | None = None


_PLAIN: Final = Reader()
READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(
        set_of("""
        : [ basename cat cd cmp comm cut df diff dirname dirs du echo egrep false fgrep fold fmt getconf grep groups
        head hexdump hostid id join jq ls lsblk lscpu lsof md5sum md5 nl nproc od paste pathchk popd printenv
        printf ps pushd pwd readlink realpath seq sha1sum sha256sum sha512sum shasum sleep stat strings tac tail test
        true tr tty type uname unset uptime vm_stat vmstat w wait wc whereis which who whoami tsort expr cksum
        column rev expand unexpand look free getent arch logname pgrep shift return exit break continue local declare
        typeset readonly export read set
        """),
        _PLAIN,
    ),
    "rg": Reader(long=("--pre", "--pre-glob", "--search-zip", "--hostname-bin"), short="z"),
    "sort": Reader(short="oT", long=("--output", "--compress-program", "--temporary-directory", "--files0-from")),
    "uniq": Reader(operands=1),
    "xxd": Reader(short="r", operands=1),
    "tree": Reader(short="oR", long=("--output",)),
    "file": Reader(short="C", long=("--compile",)),
    "date": Reader(short="s", long=("--set",), operands=0),
    "hostname": Reader(short="Fb", long=("--file", "--boot"), operands=0),
    "ip": Reader(operands=0),
}

# Words of these that make the whole a reading; `--version` as the only word does for every program here.
READING_SUBCOMMANDS: Final[Mapping[str, frozenset[str]]] = {
    "docker": set_of("ps images logs inspect version info top port history stats search diff events"),
    "podman": set_of("ps images logs inspect version info top port history stats search diff events"),
    "npm": set_of("ls list view outdated root prefix whoami ping explain why"),
    "pip": set_of("list show freeze check"),
    "pip3": set_of("list show freeze check"),
    "cargo": set_of("tree metadata search"),
    "systemctl": set_of("status list-units list-unit-files is-active is-enabled is-failed show cat"),
    "brew": set_of("list info search outdated deps uses"),
    "apt": set_of("list show search policy"),
    "apt-cache": set_of("search show policy depends rdepends"),
    "dpkg": set_of("-l -L -s -S --list --listfiles --status --search"),
    "crontab": set_of("-l"),
}
# Their options that only choose what is shown, each with or without a value. Others name a configuration, a program or
# a file to write. Of a program that is not here no option does.
SHOWING_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "npm": set_of("--depth --json -g --global --all -a --long -l --omit --prod --production --parseable -p"),
    "pip": set_of("--format --outdated -o --uptodate -u --editable -e --local -l --user --not-required --files -v"),
    "pip3": set_of("--format --outdated -o --uptodate -u --editable -e --local -l --user --not-required --files -v"),
    "cargo": set_of(
        """
        --depth -i --invert -e --edges --no-deps --format-version --features -p --package --workspace -d --duplicates
        --all-features --no-default-features --target --offline --locked --frozen --limit
        """
    ),
    "apt": set_of("--installed --upgradable --upgradeable -a --all-versions --names-only -n -q"),
    "apt-cache": set_of("--installed -a --all-versions --names-only -n -q"),
    "systemctl": set_of(
        "--no-pager -n --lines --all -a --type -t --state --failed --user --plain --no-legend -p --property --value -l"
    ),
    "dpkg": frozenset(),
}

DESTROYING_SUBCOMMANDS: Final[Mapping[str, frozenset[str]]] = {
    "docker": set_of("rm rmi prune kill"),
    "podman": set_of("rm rmi prune kill"),
    "npm": set_of("unpublish deprecate"),
    "crontab": set_of("-r"),
    "systemctl": set_of("poweroff reboot halt kexec disable mask"),
    "dropdb": set_of(""),
    "aws": set_of(
        "rb delete-bucket delete-db-instance delete-stack terminate-instances delete-table delete-cluster rm"
    ),
    "gcloud": set_of("delete"),
    "az": set_of("delete purge"),
    "gh": set_of("delete"),
    "redis-cli": set_of("FLUSHALL FLUSHDB flushall flushdb"),
    "prisma": set_of("reset --force-reset --accept-data-loss"),
    "drizzle-kit": set_of("drop --force"),
    "knex": set_of("migrate:rollback"),
    "sequelize": set_of("db:drop db:migrate:undo:all"),
    "sequelize-cli": set_of("db:drop db:migrate:undo:all"),
    "typeorm": set_of("schema:drop"),
    "rails": set_of("db:drop db:reset db:schema:load db:migrate:reset"),
    "rake": set_of("db:drop db:reset db:schema:load db:migrate:reset"),
    "alembic": set_of("downgrade"),
    "flyway": set_of("clean"),
    "liquibase": set_of("dropAll drop-all"),
    "pulumi": set_of("destroy"),
    "cdk": set_of("destroy"),
    "vagrant": set_of("destroy"),
}
DESTROYERS: Final = set_of(
    """
    mkfs mke2fs fdisk sfdisk gdisk parted wipefs blkdiscard shred shutdown reboot halt poweroff init killall pkill kill
    dropdb dropuser userdel groupdel deluser lvremove vgremove pvremove zfs zpool cryptsetup iptables ip6tables nft
    umount swapoff mongorestore pg_restore badblocks hdparm srm
    """
)

# Names that change what commands mean, or that run something: of the loader, interpreters, pagers, version control.
_STEERING: Final = re.compile(
    r"""
    PATH|IFS|ENV|SHELL|SHELLOPTS|BASHOPTS|PS[0-4]|CDPATH|GLOBIGNORE|HOME|EDITOR|VISUAL|PAGER|BROWSER|MANPAGER|TMPDIR
    |EXECIGNORE|FPATH|FIGNORE|POSIXLY_CORRECT|GCONV_PATH|LOCPATH|NLSPATH|TERMINFO.*|KUBECONFIG|KUBERC|DOCKER_.*|CC|CXX|LD|AR|MAKEFLAGS
    |(?:LD|DYLD|BASH|GIT|SSH|PERL5?|RUBY|NPM_CONFIG|PIP|UV|CARGO|RUSTC?|GO|JAVA|JDK|MAVEN|GRADLE|HELM|TF|PG|MYSQL|LESS|ZDOTDIR)(?:_?\w*)
    |PYTHON(?:PATH|STARTUP|HOME|INSPECT|EXECUTABLE|BREAKPOINT|WARNINGS|USERBASE)|NODE_(?:OPTIONS|PATH|EXTRA_CA_CERTS)
    |(?:XDG|KUBECTL|KUBE|PYTEST|RIPGREP|JQ|MAKE|NODE|VIRTUAL_ENV|OPENSSL|SSL|CURL|WGET|DPKG|APT|AWS_CONFIG|CLOUDSDK)(?:_\w+)
    |MAKEFILES|MFLAGS|AWK|AWKPATH|AWKLIBPATH|GNUMAKEFLAGS|MAKE|SUDO_ASKPASS|RIPGREP_CONFIG_PATH|HOSTALIASES|INPUTRC
    |_?\w*(?:_COMMAND|_OPTIONS|_OPTS|_ADDOPTS|_PLUGINS|_PROXY|_proxy|FLAGS|_PAGER|_EDITOR|_ASKPASS|_WRAPPER|_DIFF|_CONFIG
    |_CONFIG_FILE|_CONFIG_PATH|_CONFIG_HOME|_PRELOAD|_RCFILE)|npm_config_\w+
    """,
    re.VERBOSE,
)
_HARMLESS: Final = set_of("RUST_BACKTRACE RUST_LOG GIT_PAGER_IN_USE NODE_ENV")


def steers(name: str) -> bool:
    """Whether a variable of this name changes what commands do."""
    return name not in _HARMLESS and _STEERING.fullmatch(name) is not None


# What reads a text as code in a language that is not read here; with a file it runs the file.
INTERPRETERS: Final = re.compile(
    r"(?:python|pypy|node|nodejs|deno|bun|perl|ruby|php|lua|luajit|tclsh|expect|osascript|Rscript|R|julia|groovy|jshell"
    r"|ghci|irb|scala|elixir|erl|swift|gawk|mawk|nawk)[0-9.]*"
)
INLINE_CODE: Final = set_of("-c -e -E -r -p -pe -ne -le -n --eval --print --execute --command eval -")

SHELLS: Final = set_of("sh bash dash ash rbash")
# Of another language: their code is not read here.
OTHER_SHELLS: Final = set_of("zsh ksh mksh fish csh tcsh pwsh powershell powershell.exe cmd cmd.exe elvish nu xonsh")


# What runs another program that is not looked for here, or changes what names mean.
RUN_ANOTHER: Final = set_of(
    """
    alias enable complete bind shopt hash ssh parallel coproc fc at batch strace ltrace script flock setarch nsenter
    unshare chroot su runuser entr setpriv taskset chrt cpulimit firejail bwrap systemd-run start-stop-daemon
    dbus-run-session faketime fakeroot proot valgrind perf rlwrap tmux screen mosh sshpass pkexec run-parts
    inotifywait hyperfine
    """
)
# Options that name a program to run, by program; of those with one dash each may stand among others of its kind.
NAMING_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("tar", "gtar", "bsdtar"),
        (
            "-I",
            "-F",
            "--to-command",
            "--use-compress-program",
            "--checkpoint-action",
            "--info-script",
            "--new-volume-script",
            "--rsh-command",
            "--rmt-command",
        ),
    ),
    "rsync": ("-e", "--rsh", "--rsync-path"),
    "scp": ("-S", "-o", "-F", "-D", "-J"),
    "sftp": ("-S", "-o", "-F", "-D", "-J", "-s"),
    "zip": ("-TT", "--unzip-command"),
    "man": ("-P", "-H", "-X", "-C", "--pager", "--html", "--gxditview", "--config-file", "--preprocessor"),
    "sort": ("--compress-program",),
    "rg": ("--pre", "--hostname-bin"),
    "split": ("--filter",),
    "cpio": ("--rsh-command", "--rmt-command"),
    "mail": ("-S",),
    "gdb": ("-ex", "-x", "--command", "--eval-command", "--args"),
}


class Wrapper(NamedTuple):
    """A program that runs the rest of its words; options of it that take a value, and those that take none."""

    values: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    # Words of its own between the options and the command: `timeout 5 ls`.
    operands: int = 0
    # Whether what it runs is less harmless for being run so.
    raises: bool = False


WRAPPERS: Final[Mapping[str, Wrapper]] = {
    "sudo": Wrapper(set_of("-u -g -C -h -p -r -t -U -D -T -R"), set_of("-n -E -H -S -k -b -P -A -B"), raises=True),
    "doas": Wrapper(set_of("-u -C"), set_of("-n -L"), raises=True),
    "nohup": Wrapper(),
    "nice": Wrapper(set_of("-n --adjustment")),
    "ionice": Wrapper(set_of("-c -n"), set_of("-t")),
    "time": Wrapper(flags=set_of("-p -v -l")),
    "timeout": Wrapper(
        set_of("-s -k --signal --kill-after"), set_of("-v --foreground --preserve-status --verbose"), operands=1
    ),
    "gtimeout": Wrapper(set_of("-s -k --signal --kill-after"), set_of("-v --foreground --preserve-status"), operands=1),
    "stdbuf": Wrapper(set_of("-i -o -e")),
    "setsid": Wrapper(flags=set_of("-f -w -c")),
    "command": Wrapper(flags=set_of("-p")),
    "builtin": Wrapper(),
    "exec": Wrapper(set_of("-a"), set_of("-c -l")),
    "chronic": Wrapper(),
    "unbuffer": Wrapper(),
    "busybox": Wrapper(),
    "toybox": Wrapper(),
    "caffeinate": Wrapper(flags=set_of("-i -d -s -m -u")),
    "npx": Wrapper(set_of("-p --package"), set_of("-y --yes -q --quiet --no --no-install"), raises=True),
    "bunx": Wrapper(flags=set_of("--bun -y"), raises=True),
    "uvx": Wrapper(set_of("--from --with --python -p"), set_of("-q --quiet --refresh --isolated"), raises=True),
    "pnpx": Wrapper(raises=True),
    "env": Wrapper(set_of("-u --unset -C --chdir"), set_of("-i -0 -v --ignore-environment --null --debug")),
}
# The same in two words.
RUNNERS: Final[Mapping[tuple[str, str], Wrapper]] = {
    ("npm", "exec"): WRAPPERS["npx"],
    ("npm", "x"): WRAPPERS["npx"],
    ("pnpm", "exec"): Wrapper(flags=set_of("-r -w"), raises=True),
    ("pnpm", "dlx"): Wrapper(set_of("--package"), raises=True),
    ("yarn", "exec"): Wrapper(raises=True),
    ("yarn", "dlx"): Wrapper(set_of("-p --package"), set_of("-q --quiet"), raises=True),
    ("bun", "x"): WRAPPERS["bunx"],
    ("uv", "run"): Wrapper(
        set_of("--with --python -p --extra --group --project --directory --env-file"),
        set_of("-q --quiet --frozen --locked --no-sync --isolated --all-extras --no-project"),
        raises=True,
    ),
    ("pipx", "run"): Wrapper(set_of("--spec --python"), raises=True),
    ("poetry", "run"): Wrapper(raises=True),
    ("pipenv", "run"): Wrapper(raises=True),
    ("bundle", "exec"): Wrapper(raises=True),
    ("rye", "run"): Wrapper(raises=True),
    ("hatch", "run"): Wrapper(raises=True),
}
# What these do themselves; every other first word of them is a program, or a script of the project.
OWN_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "yarn": set_of(
        """add audit autoclean bin cache check config create dedupe generate-lock-entry global help import info init
        install licenses link list login logout node outdated owner pack policies publish remove run tag team test
        unlink unplug up upgrade upgrade-interactive version versions why workspace workspaces constraints patch
        plugin rebuild search set stage start"""
    ),
    "pnpm": set_of(
        """add audit bin config create dedupe deploy env fetch help import info init install i install-test it licenses
        link list ls ln outdated pack patch patch-commit prune publish rebuild rb remove rm root run setup start store
        test t unlink up update upgrade why uninstall server doctor approve-builds cache self-update"""
    ),
}


def only_reads(program: Reader, words: Sequence[Word]) -> bool:
    """Whether a program that only reads does so with these words."""
    guarded = bool(program.short or program.long or program.operands is not None)
    operands = 0
    options = True
    for word in words:
        if not guarded:
            return True
        if not word.plain:
            return False
        text = word.text
        if options and text == "--":
            options = False
        elif options and text.startswith("--"):
            name = text.partition("=")[0]
            if any(long.startswith(name) for long in program.long):
                return False
        elif options and text.startswith("-") and len(text) > 1:
            if any(letter in program.short for letter in text[1:]):
                return False
        elif not text.startswith("+"):
            operands += 1
    return program.operands is None or operands <= program.operands


def only_shows(program: str, words: Sequence[Word]) -> bool:
    """Whether a subcommand that shows something does no more than that, with these words behind it."""
    known = SHOWING_OPTIONS.get(program)
    return known is None or all(
        word.static and (not word.text.startswith("-") or word.text.partition("=")[0] in known) for word in words
    )


def names_program(program: str, words: Sequence[Word]) -> bool:
    """Whether an option names a program, which is then run."""
    options = NAMING_OPTIONS[program]
    for at, word in enumerate(words):
        text, name = word.text, word.text.partition("=")[0]
        if text == "--":
            return False
        # `tar xIf`: the letters of its first word are options as well.
        if at == 0 and program.endswith("tar") and not text.startswith("-"):
            text = f"-{text}"
        if name.startswith("--"):
            if len(name) > 2 and any(one.startswith(name) for one in options):
                return True
        elif text.startswith("-") and any(one[1:] in text[1:] for one in options if not one.startswith("--")):
            return True
    return False


def has_word(words: Sequence[Word], wanted: frozenset[str]) -> bool:
    """Whether one of the words is one of these."""
    return any(word.static and word.text in wanted for word in words)
