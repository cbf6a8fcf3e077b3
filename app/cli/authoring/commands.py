"""The commands `mfw policies ...` for people who write policies."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.authoring.formats import Format
from app.cli.options import Json, Policies, Used
from app.cli.output import reporting

Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Directory of the policy files.")]

Now = Annotated[
    str | None, typer.Option(help="The instant to decide at, for example 2026-03-13T12:00:00Z (default: the clock).")
]

policies = typer.Typer(
    no_args_is_help=True, help="Write, check, test, explain and compare policies, and put sets of them into force."
)


@policies.command(
    "check",
    epilog="Examples: `mfw policies check policies/starter`; in a workflow of GitHub: `mfw policies check "
    "--format github --strict policies`. Exit codes: 0 good, 65 refused.",
)
def policies_check(
    directory: Directory,
    *,
    form: Annotated[
        Format, typer.Option("--format", help="text for people; json; github for annotations; sarif for code scanning.")
    ] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse on warnings as well.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Show what each expression may cost, in steps, the dearest first.")
    ] = False,
    now: Annotated[
        str | None,
        typer.Option(
            help="The instant that tells what has expired, for example 2026-03-13T12:00:00Z (default: the clock)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Load every policy of a directory as the service would, and show everything that is wrong.

    Errors are what the service would refuse. Warnings are what loads and is hardly meant: rules that can
    never speak, rules that a stronger one makes useless, rules said twice, variables that nothing reads,
    policies and exceptions that are over or soon will be, expressions that cost more than an evaluation may.
    """
    from app.cli.authoring.check import run_check
    from app.cli.authoring.inputs import read_instant

    with reporting(as_json=as_json):
        chosen = Format.JSON if as_json else form
        raise typer.Exit(run_check(directory, form=chosen, strict=strict, now=read_instant(now), cost=cost))


@policies.command(
    "fmt",
    epilog="Examples: `mfw policies fmt policies`; before a commit: `mfw policies fmt --check policies`. "
    "Exit codes: 0 done or nothing to do, 1 with --check or --diff if a file would change, 65 a file is not "
    "valid YAML.",
)
def policies_fmt(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files, or directories; `-` from standard input to output.")
    ],
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; name the files that would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; show what would change.")] = False,
) -> None:
    """Lay policy files out in one way: order of members, indentation, quotes, long lines.

    Comments and meaning stay: the digest of the policies is the same before and after.
    """
    from app.cli.authoring.formatting import run_fmt

    with reporting():
        raise typer.Exit(run_fmt(paths, check=check, diff=diff))


@policies.command(
    "test",
    epilog="Examples: `mfw policies test policies/starter.tests --coverage`; in CI: `mfw policies test tests --junit "
    "results.xml --coverage-min 100`. Exit codes: 0 all cases passed, 1 one failed or too little is covered, "
    "65 a test or a policy is not valid.",
)
def policies_test(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files of kind PolicyTest, or directories.")],
    *,
    policies: Annotated[
        Path | None, typer.Option(help="Directory of policies to ask instead of the ones that the tests name.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", "-k", help="Run the cases whose name has this text.")] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Show what the cases cover, rule by rule and clause by clause.")
    ] = False,
    coverage_html: Annotated[Path | None, typer.Option(help="Write the coverage as a page of HTML.")] = None,
    coverage_min: Annotated[
        float | None, typer.Option(min=0, max=100, help="Fail if less than this percentage is covered.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the cases that passed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Ask policies the questions of PolicyTest files and compare the answers.

    A rule is covered when some case makes it speak and, unless it speaks always, some case makes it silent.
    """
    from app.cli.authoring.test import run_test

    with reporting(as_json=as_json):
        code = run_test(
            paths,
            policies=policies,
            only=only,
            coverage=coverage,
            coverage_html=coverage_html,
            coverage_min=coverage_min,
            junit_file=junit,
            verbose=verbose,
            as_json=as_json,
        )
        raise typer.Exit(code)


@policies.command(
    "explain",
    epilog="Example: `mfw policies explain -f examples/hold-k8s-deployment-scaled-far.json "
    "--policies policies/starter`",
)
def policies_explain(
    *,
    file: Annotated[str, typer.Option("--file", "-f", help="The mutation as JSON; `-` reads standard input.")],
    policies: Policies,
    now: Now = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the policies that do not match, too.")] = False,
    used: Used = None,
    as_json: Json = False,
) -> None:
    """Show why a mutation is decided as it is: which policies match, what each expression read and what it said.

    Values are cut short, and those whose name says that they are secret are masked.
    """
    from app.cli.authoring.explaining import run_explain

    with reporting(as_json=as_json):
        raise typer.Exit(
            run_explain(file, policies=policies, now=now, everything=everything, used=used or (), as_json=as_json)
        )


@policies.command(
    "bench", epilog="Example: `mfw policies bench -f examples/deny-sql-drop-table.json --policies policies/starter`"
)
def policies_bench(
    *,
    files: Annotated[list[str], typer.Option("--file", "-f", help="A mutation as JSON; may be given several times.")],
    policies: Policies,
    rounds: Annotated[int, typer.Option(min=1, max=100_000, help="How often each expression is run.")] = 200,
    now: Now = None,
    as_json: Json = False,
) -> None:
    """Measure what each condition, rule and message costs, in microseconds, the dearest first."""
    from app.cli.authoring.measuring import run_bench

    with reporting(as_json=as_json):
        raise typer.Exit(run_bench(files, policies=policies, rounds=rounds, now=now, as_json=as_json))


@policies.command(
    "diff",
    epilog="Example: `git worktree add /tmp/main main; mfw policies diff /tmp/main/policies/starter policies/starter "
    "-f examples/allow-terraform-tags-only.json --exit-code`. Exit codes: 0 shown, 1 with --exit-code "
    "if anything differs.",
)
def policies_diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Directory of the policies as they are.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Directory of the policies as they would be.")],
    *,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", "-f", help="A mutation as JSON to decide under both; may be given several times."),
    ] = None,
    now: Now = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if anything differs.")] = False,
    as_json: Json = False,
) -> None:
    """Show what differs in meaning between two directories: policies and rules added, removed and changed.

    The order of things, layout and comments do not count.
    """
    from app.cli.authoring.comparing import run_diff

    with reporting(as_json=as_json):
        code = run_diff(before, after, files=files or (), now=now, exit_code=exit_code, as_json=as_json)
        raise typer.Exit(code)


@policies.command(
    "schema",
    epilog="Example: `mfw policies schema MutationPolicy > mutation-policy.json`, and as the first line of a policy "
    "file: `# yaml-language-server: $schema=mutation-policy.json`",
)
def policies_schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="a kind of document; all without."),
    ] = None,
    *,
    write: Annotated[Path | None, typer.Option(help="Write one file per kind into this directory.")] = None,
) -> None:
    """Write the JSON Schema of a kind of document, for editors that complete and check YAML."""
    from app.cli.authoring.schemas import run_schema

    with reporting():
        run_schema(kind, write=write)


@policies.command("crds", epilog="Example: `mfw policies crds | kubectl apply --server-side -f -`")
def policies_crds(
    *, write: Annotated[Path | None, typer.Option(help="Write one file per kind into this directory.")] = None
) -> None:
    """Write the CustomResourceDefinitions of MutationPolicy and PolicyException, which `mfw controller` follows."""
    from app.cli.authoring.schemas import run_crds

    with reporting():
        run_crds(write=write)
