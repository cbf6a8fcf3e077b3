"""The commands `mfw check ...`: changes that are proposed as files, asked about before they are made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.checking.formats import Format
from app.cli.options import DEFAULT_URL, ApiKey, Local, LocalPolicies, Timeout, Url, Used, local_policies
from app.cli.output import reporting
from app.core.manifest import ArtefactKind

if TYPE_CHECKING:
    from app.cli.checking.asking import Asks

check = typer.Typer(
    no_args_is_help=True,
    help="Ask about a Terraform plan, a diff or a model before it becomes real: for pipelines and pull requests.",
)

_EXITS = "Exit codes: 0 everything is allowed, 10 something is denied, 11 something is held, others: not decided."

_Subject = Annotated[
    str,
    typer.Option(
        envvar="MFW_SUBJECT", show_envvar=True, metavar="TYPE:ID", help="Who wants the change, as `agent:deploy-bot`."
    ),
]
_Property = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="NAME=VALUE",
        help="A property of what is changed, as `environment=production`; may be given several times.",
    ),
]
_Context = Annotated[
    list[str] | None,
    typer.Option("--context", metavar="NAME=VALUE", help="What policies read as `context`; several times."),
]
_Format = Annotated[
    Format, typer.Option("--format", help="`markdown` is a comment for a pull request, `sarif` for code scanning.")
]


@check.command(
    "terraform",
    epilog="Example: `terraform plan -out plan && terraform show -json plan | mfw check terraform - "
    f"--subject agent:infra-agent --stack shop-production --property environment=production`. {_EXITS}",
)
def check_terraform(
    file: Annotated[str, typer.Argument(metavar="PLAN", help="What `terraform show -json PLANFILE` wrote, or `-`.")],
    *,
    subject: _Subject,
    stack: Annotated[
        str | None, typer.Option(help="Which stack or workspace the plan is of; it goes before each address.")
    ] = None,
    properties: _Property = None,
    context: _Context = None,
    form: _Format = Format.TABLE,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 30.0,
    local: Local = False,
    policies: LocalPolicies = None,
    used: Used = None,
) -> None:
    """Ask about every change of a Terraform or OpenTofu plan; they are allowed together or not at all.

    Sensitive values never leave this machine: whether they differ is all that is sent of them.
    """
    from app.cli.checking.reading import read_proposal
    from app.cli.checking.results import write
    from app.cli.checking.terraform import check_plan

    with reporting(as_json=form is Format.JSON):
        report = check_plan(
            file,
            proposal=read_proposal(subject, properties=properties or (), context=context or ()),
            stack=stack,
            asks=_asks(url, api_key, timeout, local=local, policies=policies, used=used),
        )
        code = write(report, form)
    raise typer.Exit(code)


@check.command(
    "diff",
    epilog="Examples: `mfw check diff --git origin/main...HEAD --id example-shop/client#311 --subject agent:coder`; "
    f"`git diff main | mfw check diff - --id example-shop/client --subject agent:coder`. {_EXITS}",
)
def check_diff_command(
    file: Annotated[
        str | None, typer.Argument(metavar="DIFF", help="A unified diff; `-` reads standard input.")
    ] = None,
    *,
    subject: _Subject,
    name: Annotated[str, typer.Option("--id", help="What the change is called, as `example-shop/client#311`.")],
    commits: Annotated[
        str | None,
        typer.Option(
            "--git", metavar="BASE...HEAD", help="Take the diff between two commits of the repository, by running git."
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-C", help="The checkout, with --git (default: where you are).")
    ] = None,
    action: Annotated[str, typer.Option(help="What is about to be done with it.")] = "merge",
    properties: _Property = None,
    context: _Context = None,
    form: _Format = Format.TABLE,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 30.0,
    local: Local = False,
    policies: LocalPolicies = None,
    used: Used = None,
) -> None:
    """Ask about a change of source code, as a whole: a diff, or what lies between two commits."""
    from app.cli.checking.diffs import check_diff
    from app.cli.checking.reading import read_proposal
    from app.cli.checking.results import write

    with reporting(as_json=form is Format.JSON):
        report = check_diff(
            file,
            commits=commits,
            directory=directory or Path(),
            name=name,
            action=action,
            proposal=read_proposal(subject, properties=properties or (), context=context or ()),
            asks=_asks(url, api_key, timeout, local=local, policies=policies, used=used),
        )
        code = write(report, form)
    raise typer.Exit(code)


@check.command(
    "manifest",
    epilog="Examples: `mfw check manifest --kind model --base current --target candidate --evaluations results.json "
    "--id support-assistant/production --public-key release.pub --subject service:training`; "
    f"`mfw check manifest manifest.json --id support-assistant/production --subject service:training`. {_EXITS}",
)
def check_manifest_command(
    file: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", help="A manifest as JSON; `-` reads standard input.")
    ] = None,
    *,
    subject: _Subject,
    name: Annotated[str, typer.Option("--id", help="What is changed, as `support-assistant/production`.")],
    kind: Annotated[ArtefactKind | None, typer.Option(help="What the files are, with --target.")] = None,
    base: Annotated[Path | None, typer.Option(help="The file or directory that is in use now.")] = None,
    target: Annotated[Path | None, typer.Option(help="The file or directory that takes its place.")] = None,
    evaluations: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSON list of evaluations: suite, metric, base, target, higher_is_better."),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(help="The signature (default: `model.sig` in the directory, `FILE.sig` for a file).")
    ] = None,
    public_key: Annotated[Path | None, typer.Option(help="PEM file of the key that must have signed.")] = None,
    certificate: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file of an authority that must have certified the signer; several times."),
    ] = None,
    identity: Annotated[str | None, typer.Option(help="Who must have signed with Sigstore.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Who vouches for that identity, an URL.")] = None,
    trust_config: Annotated[
        Path | None, typer.Option(help="The root of trust of Sigstore (ClientTrustConfig, JSON): none is fetched.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="What is about to be done (default: promote a model, create or update others).")
    ] = None,
    resource: Annotated[
        str | None, typer.Option("--type", help="Type of the resource (default: by kind, as `model/Registry`).")
    ] = None,
    properties: _Property = None,
    context: _Context = None,
    form: _Format = Format.TABLE,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 30.0,
    local: Local = False,
    policies: LocalPolicies = None,
    used: Used = None,
) -> None:
    """Ask about a new model, prompt, tool or memory, by the digests of its files and the evidence of its evaluation.

    A signature that does not hold is denied here, and nobody is asked.
    """
    from app.cli.checking.manifests import Artefacts, check_manifest
    from app.cli.checking.reading import read_proposal
    from app.cli.checking.results import write
    from app.cli.checking.signatures import read_trust

    with reporting(as_json=form is Format.JSON):
        trust = read_trust(
            public_key=public_key,
            certificates=certificate or (),
            identity=identity,
            issuer=issuer,
            trust_config=trust_config,
        )
        report = check_manifest(
            Artefacts(file, kind, base, target, evaluations, signature, trust),
            name=name,
            action=action,
            resource=resource,
            proposal=read_proposal(subject, properties=properties or (), context=context or ()),
            asks=_asks(url, api_key, timeout, local=local, policies=policies, used=used),
        )
        code = write(report, form)
    raise typer.Exit(code)


def _asks(
    url: str, api_key: str | None, timeout: float, *, local: bool, policies: Path | None, used: list[str] | None
) -> "Asks":
    from app.cli.checking.asking import Here, Service

    directory = local_policies(policies, used, local=local)
    return Service(url, api_key, timeout) if directory is None else Here(directory, used or ())
